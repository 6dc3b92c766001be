"""One direction of a device's link: when does the last byte of a message arrive?

First come, first served, at the link's rate, through one TCP connection that lasts. docs/models.md has the
equations. A line knows its own state only; it is told the time.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec

from scenarios.links import Link
from sim.draws import Draws

SEGMENT_BYTES = 1448
"""TCP payload of a full packet: an MTU of 1500 less the headers."""

HEADER_BYTES = 52
"""IPv4 20, TCP 20, timestamp option 12; in every packet. The layers below are not counted."""

INITIAL_WINDOW = 10
"""Segments, RFC 6928."""

MAX_WINDOW = 2**20
"""Segments; more than any message has."""

MIN_RTO_MARGIN_S = 0.2
"""Linux: the retransmission timeout is at least so much above the round trip."""

DUPLICATE_ACKS = 3
"""As many segments must follow a lost one for a fast retransmit, RFC 5681; else the timeout repairs it."""


class Carried(msgspec.Struct, frozen=True, gc=False):
    """When a message began to leave, when its last byte had left, and when that arrived."""

    start_s: float
    sent_s: float
    arrival_s: float


@dataclass(frozen=True, slots=True)
class Path:
    """What all devices on the same kind of link share, for one direction.

    Attributes:
        bytes_per_s: rate for packets with their headers; infinite if unlimited.
        segment_s: time a full packet takes at that rate.
        max_window: segments under way at most, on average; losses keep TCP there (Mathis et al. 1997).
        latency_s: mean time one way.
        one_way_s: draws it; None where it does not vary.
        loss: probability that a packet is lost.
        round_trip_s: of a full packet and its acknowledgement on an idle link.
        timeout_s: TCP's retransmission timeout.
        instant: whether nothing takes time on it.
    """

    bytes_per_s: float
    segment_s: float
    max_window: int
    latency_s: float
    one_way_s: Callable[[Draws], float] | None
    loss: float
    round_trip_s: float
    timeout_s: float
    instant: bool


@functools.lru_cache(maxsize=256)
def path_of(link: Link, direction: Literal["up", "down"]) -> Path:
    """Give one direction of a link in seconds and bytes."""
    kbps = link.uplink_kbps if direction == "up" else link.downlink_kbps
    full_packet_bytes = SEGMENT_BYTES + HEADER_BYTES
    segment_s = full_packet_bytes * 8 / (kbps * 1000) if kbps else 0.0
    round_trip_s = 2 * link.latency_ms / 1000 + segment_s
    return Path(
        bytes_per_s=full_packet_bytes / segment_s if segment_s else math.inf,
        segment_s=segment_s,
        max_window=max(1, round(math.sqrt(1.5 / link.loss))) if link.loss else MAX_WINDOW,
        latency_s=link.latency_ms / 1000,
        one_way_s=_with_jitter(link.latency_ms / 1000, link.jitter_ms / 1000, link.jitter),
        loss=link.loss,
        round_trip_s=round_trip_s,
        timeout_s=round_trip_s + MIN_RTO_MARGIN_S,
        instant=not (segment_s or link.latency_ms or link.jitter_ms or link.loss),
    )


def _with_jitter(
    mean_s: float, deviation_s: float, distribution: Literal["normal", "lognormal", "uniform"]
) -> Callable[[Draws], float] | None:
    """Give a function that draws times of this mean and standard deviation, never below 0."""
    if deviation_s == 0.0:
        return None
    match distribution:
        case "normal":
            return lambda draws: max(0.0, mean_s + deviation_s * draws.normal())
        case "uniform":
            half_width_s = math.sqrt(3) * deviation_s
            return lambda draws: max(0.0, mean_s + half_width_s * (2 * draws.uniform() - 1))
        case "lognormal":
            variance = math.log1p((deviation_s / mean_s) ** 2)
            sigma, mu = math.sqrt(variance), math.log(mean_s) - variance / 2
            return lambda draws: math.exp(mu + sigma * draws.normal())


@functools.lru_cache(maxsize=1024)
def segments_of(payload_bytes: int) -> int:
    """Give the TCP segments that a message takes."""
    return -(-payload_bytes // SEGMENT_BYTES)


@functools.lru_cache(maxsize=1024)
def framed_bytes(payload_bytes: int) -> int:
    """Give a message's bytes with the TCP/IP headers of all its packets."""
    return payload_bytes + HEADER_BYTES * segments_of(payload_bytes)


def window_pauses(window: int, segments: int, path: Path) -> tuple[float, int]:
    """Give the time TCP waits for acknowledgements while it sends, and its window after it.

    A window of w segments leaves in w S seconds; the first acknowledgement of it comes after a round trip,
    and while TCP is in slow start lets two segments go for every one acknowledged. Until windows fill the
    round trip the line pauses.

    Args:
        window: congestion window before, in segments.
        segments: of the message.
        path: the line's.
    """
    pauses_s = 0.0
    while segments > window:
        rounds = 1 if window < path.max_window else -(-segments // window) - 1
        pauses_s += rounds * max(0.0, path.round_trip_s - window * path.segment_s)
        segments -= rounds * window
        window = min(2 * window, path.max_window)
    if 2 * segments > window:  # Linux: a window that was not half used does not grow
        window = min(window + segments, path.max_window)
    return pauses_s, window


class Line:
    """One direction of one device's link.

    Args:
        path: what it is like.
        draws: jitter and loss.
    """

    __slots__ = ("_draws", "_idle_since_s", "_last_arrival_s", "_window", "path")

    def __init__(self, path: Path, draws: Draws) -> None:
        self.path = path
        self._draws = draws
        self.reset()

    @property
    def latency_s(self) -> float:
        """Mean time one way."""
        return self.path.latency_s

    def reset(self) -> None:
        """Begin a new connection."""
        self._idle_since_s = self._last_arrival_s = 0.0
        self._window = min(INITIAL_WINDOW, self.path.max_window)

    def carry(self, now_s: float, payload_bytes: int) -> Carried:
        """Take a message of so many MQTT bytes and say when it goes and arrives.

        Calls come in the order of their times.
        """
        if self.path.instant:
            return Carried(now_s, now_s, now_s)
        start_s = max(now_s, self._idle_since_s)
        end_s = start_s + framed_bytes(payload_bytes) / self.path.bytes_per_s
        return self.depart(start_s, end_s, payload_bytes)

    def depart(self, start_s: float, end_s: float, payload_bytes: int) -> Carried:
        """Say the same of a message that had the line from `start_s`, and but for TCP's waits to `end_s`."""
        sent_s = end_s + self.delay_s(start_s, payload_bytes)
        arrival_s = max(sent_s + self.propagation_s(), self._last_arrival_s)  # TCP keeps the order
        self._idle_since_s, self._last_arrival_s = sent_s, arrival_s
        return Carried(start_s, sent_s, arrival_s)

    def delay_s(self, start_s: float, payload_bytes: int) -> float:
        """Give what TCP adds to the time at full rate: waits for its window, and the repair of a loss."""
        path, segments = self.path, segments_of(payload_bytes)
        if self._window > INITIAL_WINDOW:
            idle_timeouts = int((start_s - self._idle_since_s) / path.timeout_s)
            self._window = max(INITIAL_WINDOW, self._window >> idle_timeouts)  # halved for each, RFC 2861
        pauses_s, self._window = window_pauses(self._window, segments, path)
        return pauses_s + self._repair_s(segments) if path.loss else pauses_s

    def propagation_s(self) -> float:
        """Draw the time one way."""
        one_way_s = self.path.one_way_s
        return one_way_s(self._draws) if one_way_s else self.path.latency_s

    def _repair_s(self, segments: int) -> float:
        """Draw the first lost segment, if any, and give the time until it has been repeated."""
        lost = int(math.log1p(-self._draws.uniform()) / math.log1p(-self.path.loss))
        if lost >= segments:
            return 0.0
        noticed = segments - lost > DUPLICATE_ACKS
        return self.path.round_trip_s if noticed else self.path.timeout_s
