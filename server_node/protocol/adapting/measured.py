"""What a client's link and device take, learned from how long its answers took."""

from typing import NamedTuple

import numpy as np

FIRST_FIXED_S, FIRST_UP_S, FIRST_DOWN_S = 0.3, 8 / 20e6, 8 / 20e6
"""Before anything is known of a client (assumed): 0.3 s, and 20 Mbit/s each way. Who is slower is known as
such after a few answers."""

LEAST = (1e-3, 8 / 100e6, 8 / 100e6)
"""No part is taken for less: a millisecond, and 100 Mbit/s; a faster link is taken for one of these. What is
uncertain by a share of next to nothing would never be more again."""

FIXED_DRIFT, LINK_DRIFT, TOGETHER = 0.05, 0.5, 0.8
"""So uncertain, as a share of what is known, the fixed part and the rates become again with each answer: a
link changes, its device hardly. Both directions of a link mostly change together: their correlation. After an
answer that took so many times as long as expected, or as short, the rates are so many times as uncertain:
then it is the link that has changed, and a large message tells by how much."""

NOISE = 0.4
"""So far, as a share, a single answer is off."""

MOST = 4.0
"""An answer counts as at most so many times what was expected, and changes nothing by more than that: one
outage of a minute does not stay in mind for an hour."""

_TOGETHER = np.array([[1, 0, 0], [0, 1, TOGETHER], [0, TOGETHER, 1]])


class Volume(NamedTuple):
    """What goes to and fro: so many answers, and payload bytes of all messages, largest possible."""

    answers: int
    up_bytes: int
    down_bytes: int


class MeasuredLink:
    """A client as the server sees it: an answer takes a fixed time, and seconds for each byte up and down.

    In the fixed time are its computing, the latency, and what the server itself adds. The three numbers are
    kept by a Kalman filter whose answers are noisy sums of them (R. E. Kalman 1960). So it is an exponential
    mean: an answer moves most what is least sure, a long message the seconds for a byte.

    Attributes:
        mean: fixed seconds, seconds for a byte up, seconds for a byte down; shape (3,), float64, above 0.
    """

    def __init__(self) -> None:
        self.mean = np.array([FIRST_FIXED_S, FIRST_UP_S, FIRST_DOWN_S])
        self._covariance = np.diag(self.mean**2)

    def seconds(self, volume: Volume) -> float:
        """Say how long so many answers are expected to take, all together."""
        return float(self.mean @ np.array(volume))

    def observe(self, took_s: float, up_bytes: int, down_bytes: int) -> None:
        """Learn from one answer: seconds from the server's message until it was here, and bytes of both."""
        row = np.array([1.0, up_bytes, down_bytes])
        expected_s = float(self.mean @ row)
        times = np.clip(took_s / expected_s, 1 / MOST, MOST)
        drift = self.mean * [FIXED_DRIFT, *2 * [LINK_DRIFT * max(times, 1 / times)]]
        self._covariance += _TOGETHER * np.outer(drift, drift)
        shared = self._covariance @ row
        gain = shared / (row @ shared + (NOISE * expected_s) ** 2)
        self._covariance -= np.outer(gain, shared)
        surprise_s = min(took_s, MOST * expected_s) - expected_s
        moved = np.clip(self.mean + gain * surprise_s, self.mean / MOST, self.mean * MOST)
        self.mean = np.maximum(moved, LEAST)

    def observe_at_least(self, took_s: float, up_bytes: int, down_bytes: int) -> None:
        """Learn from an answer that has not come yet: it takes so long or longer."""
        if took_s > self.seconds(Volume(1, up_bytes, down_bytes)):
            self.observe(took_s, up_bytes, down_bytes)
