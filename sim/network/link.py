"""One direction of a device's link: when does the last byte of a message arrive?

First come, first served, at the link's rate, through one TCP connection that lasts. docs/models.md has the
equations. A link knows its own state only; it is told the time.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import msgspec

from scenarios.schema.links import Link
from sim.network.random_stream import RandomStream

SEGMENT_BYTES = 1448
"""TCP payload of a full packet: an MTU of 1500 less the headers."""

HEADER_BYTES = 52
"""IPv4 20, TCP 20, timestamp option 12; in every packet. The layers below are not counted."""

INITIAL_WINDOW = 10
"""Segments, RFC 6928."""

ACKNOWLEDGED_SEGMENTS = 2
"""Receivers acknowledge every second segment, RFC 5681, 4.2."""

RTT_GAIN = 1 / 8
"""Weight of a new round trip in TCP's mean of them, RFC 6298."""

NO_THRESHOLD = 2**30
"""Segments; slow start goes on until the first loss."""

MIN_RTO_MARGIN_S = 0.2
"""Linux: the retransmission timeout is at least so much above the round trip."""

DUPLICATE_ACKS = 3
"""As many segments must follow a lost one for a fast retransmit, RFC 5681; else the timeout repairs it."""

_standard_normal = NormalDist().inv_cdf


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
        latency_s: mean time one way.
        one_way_s: quantile function of the time one way; None where that does not vary.
        loss: probability that a packet is lost.
        round_trip_s: of two full packets and their acknowledgement on an idle link.
        timeout_s: TCP's retransmission timeout.
        instant: whether nothing takes time on it.
    """

    bytes_per_s: float
    segment_s: float
    latency_s: float
    one_way_s: Callable[[float], float] | None
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
    round_trip_s = 2 * link.latency_ms / 1000 + ACKNOWLEDGED_SEGMENTS * segment_s
    return Path(
        bytes_per_s=full_packet_bytes / segment_s if segment_s else math.inf,
        segment_s=segment_s,
        latency_s=link.latency_ms / 1000,
        one_way_s=_with_jitter(link.latency_ms / 1000, link.jitter_ms / 1000, link.jitter),
        loss=link.loss,
        round_trip_s=round_trip_s,
        timeout_s=round_trip_s + MIN_RTO_MARGIN_S,
        instant=not (segment_s or link.latency_ms or link.jitter_ms or link.loss),
    )


def _with_jitter(
    mean_s: float, deviation_s: float, distribution: Literal["normal", "lognormal", "uniform"]
) -> Callable[[float], float] | None:
    """Give the quantile function of times with this mean and standard deviation, never below 0."""
    if deviation_s == 0.0:
        return None
    match distribution:
        case "normal":
            return lambda probability: max(0.0, mean_s + deviation_s * _standard_normal(probability))
        case "uniform":
            half_width_s = math.sqrt(3) * deviation_s
            return lambda probability: max(0.0, mean_s + half_width_s * (2 * probability - 1))
        case "lognormal":
            variance = math.log1p((deviation_s / mean_s) ** 2)
            sigma, mu = math.sqrt(variance), math.log(mean_s) - variance / 2
            return lambda probability: math.exp(mu + sigma * _standard_normal(probability))


@functools.lru_cache(maxsize=1024)
def segments_of(payload_bytes: int) -> int:
    """Give the TCP segments that a message takes."""
    return -(-payload_bytes // SEGMENT_BYTES)


@functools.lru_cache(maxsize=1024)
def framed_bytes(payload_bytes: int) -> int:
    """Give a message's bytes with the TCP/IP headers of all its packets."""
    return payload_bytes + HEADER_BYTES * segments_of(payload_bytes)


class TcpLink:
    """One direction of one device's link.

    Jitter and loss have a random stream each, made from the seed and the names alone: the n-th message of a
    device has the same time one way whatever the other devices do, and whatever was lost before.

    Args:
        path: what it is like.
        seed: the scenario's.
        owner: whose link it is, and in which direction; names the streams.
    """

    __slots__ = (
        "_idle_since_s",
        "_jitter",
        "_last_arrival_s",
        "_loss",
        "_queued_s",
        "_threshold",
        "_usually_queued_s",
        "_window",
        "path",
    )

    def __init__(self, path: Path, *, seed: int, owner: tuple[str, ...]) -> None:
        self.path = path
        self._jitter = RandomStream(seed, "jitter", *owner) if path.one_way_s else None
        self._loss = RandomStream(seed, "loss", *owner) if path.loss else None
        self.reset()

    @property
    def latency_s(self) -> float:
        """Mean time one way."""
        return self.path.latency_s

    def reset(self) -> None:
        """Begin a new connection."""
        self._idle_since_s = self._last_arrival_s = self._queued_s = self._usually_queued_s = 0.0
        self._window = INITIAL_WINDOW
        self._threshold = NO_THRESHOLD

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
        """Say the same of a message whose bytes alone keep the link busy from `start_s` to `end_s`.

        TCP's waits and repetitions come after them.
        """
        sent_s = end_s + self.delay_s(start_s, payload_bytes)
        arrival_s = max(sent_s + self.propagation_s(), self._last_arrival_s)  # TCP keeps the order
        self._idle_since_s, self._last_arrival_s = sent_s, arrival_s
        return Carried(start_s, sent_s, arrival_s)

    def acknowledge(self, from_s: float, to_s: float, packets: int) -> None:
        """Let PUBACKs for the packets of a message pass that came the other way from `from_s` to `to_s`.

        They take no time here, but while they go TCP is not silent.
        """
        if self._window > INITIAL_WINDOW:
            for packet in range(1, packets + 1):
                at_s = from_s + (to_s - from_s) * packet / packets
                if at_s > self._idle_since_s:
                    self._age(at_s)
                    self._idle_since_s, self._queued_s = at_s, 0.0

    def delay_s(self, start_s: float, payload_bytes: int) -> float:
        """Give what TCP adds to the time at full rate: waits for acknowledgements, and what it repeats.

        It sends window after window. The first acknowledgement of one comes a round trip after its start;
        until then the link pauses.
        """
        path, segments = self.path, segments_of(payload_bytes)
        self._age(start_s)
        left = segments
        pauses_s, queue = 0.0, 0
        while left:
            flight = min(left, self._window)
            queue = max(queue, flight)
            lost, after = self._losses(flight) if path.loss else (0, 0)
            left -= flight
            if lost:
                pause_s = self._recover(lost, after, flight, follows=left > 0)
            else:
                pause_s = max(0.0, path.round_trip_s - flight * path.segment_s) if left else 0.0
                self._grow(flight)
            if pause_s:
                pauses_s += pause_s
                queue = 0
            left += lost
        self._queued_s = queue * path.segment_s
        forgotten = (1 - RTT_GAIN) ** (segments / ACKNOWLEDGED_SEGMENTS)
        self._usually_queued_s = forgotten * self._usually_queued_s + (1 - forgotten) * self._queued_s
        return pauses_s

    def _age(self, start_s: float) -> None:
        """Halve the window for every retransmission timeout of silence, RFC 2861.

        TCP is silent since it sent the last flight, which then waited for the link. Its timeout follows the
        round trips that it has seen, with their wait for the link.
        """
        if self._window > INITIAL_WINDOW:
            silence_s = start_s - self._idle_since_s + self._queued_s
            timeouts = int(silence_s / (self.path.timeout_s + self._usually_queued_s))
            self._window = max(INITIAL_WINDOW, self._window >> timeouts)

    def _grow(self, flight: int) -> None:
        """Double the window in slow start, later widen it by one; Linux: not if it was not half used."""
        if 2 * flight > self._window:
            more = flight if self._window < self._threshold else 1
            self._window = min(self._window + more, max(self._threshold, self._window + 1))

    def _losses(self, flight: int) -> tuple[int, int]:
        """Draw how many segments of a flight are lost, and give how many follow the first of them."""
        assert self._loss is not None
        per_segment = math.log1p(-self.path.loss)
        lost, after, position = 0, 0, -1
        while True:  # the segments between two lost ones have a geometric distribution
            position += 1 + int(math.log1p(-self._loss.uniform()) / per_segment)
            if position >= flight:
                return lost, after
            lost += 1
            after = after if lost > 1 else flight - 1 - position

    def _recover(self, lost: int, after: int, flight: int, *, follows: bool) -> float:
        """Give the time that a loss costs: a wait, and the repetition; it halves the window, RFC 5681."""
        path = self.path
        self._threshold = max(2, self._window // 2)
        self._window = self._threshold
        if follows:
            wait_s = path.round_trip_s - flight * path.segment_s
        elif after >= DUPLICATE_ACKS:
            wait_s = path.round_trip_s - (after - DUPLICATE_ACKS) * path.segment_s
        elif after:
            wait_s = 1.25 * path.round_trip_s - (after - 1) * path.segment_s
        elif flight > 1:
            wait_s = min(2 * path.round_trip_s, path.timeout_s)
        else:
            wait_s = path.timeout_s
            self._window = 1
        return max(0.0, wait_s) + lost * path.segment_s

    def propagation_s(self) -> float:
        """Draw the time one way."""
        if self._jitter is None:
            return self.path.latency_s
        assert self.path.one_way_s is not None
        return self.path.one_way_s(self._jitter.uniform())


def links_of(link: Link, *, seed: int, owner: str) -> tuple[TcpLink, TcpLink]:
    """Give both directions of somebody's link, up and down.

    Args:
        link: what it is like.
        seed: the scenario's.
        owner: whose it is, part of the seeds of its jitter and loss.
    """
    up, down = path_of(link, "up"), path_of(link, "down")
    return TcpLink(up, seed=seed, owner=(owner, "up")), TcpLink(down, seed=seed, owner=(owner, "down"))
