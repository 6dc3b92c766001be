"""One direction of a device's link: when does the last byte of a message arrive?

First come, first served, at the link's rate, through one TCP connection that lasts. docs/models.md has the
equations. A link knows its own state only; it is told the time.
"""

import math

import msgspec

from broker.wire.link_bytes import ACKNOWLEDGED_SEGMENTS, framed_bytes, segments_of
from sim.network.links.losses import Losses
from sim.network.links.path import Path
from sim.network.links.random_stream import RandomStream

INITIAL_WINDOW = 10
"""Segments, RFC 6928."""

RTT_GAIN = 1 / 8
"""Weight of a new round trip in TCP's mean of them, RFC 6298."""

NO_THRESHOLD = 2**30
"""Segments; slow start goes on until the first loss."""

DUPLICATE_ACKS = 3
"""As many segments must follow a lost one for a fast retransmit, RFC 5681; else the timeout repairs it."""


class Carried(msgspec.Struct, frozen=True, gc=False):
    """When a message began to leave, when its last byte had left, and when that arrived."""

    start_s: float
    sent_s: float
    arrival_s: float


class TcpLink:
    """One direction of one device's link.

    Jitter and loss have a random stream each, made from the seed and the names alone: the n-th message of a
    device has the same time one way whatever the other devices do, and whatever was lost before.

    Args:
        path: what it is like.
        seed: the scenario's.
        owner: whose link it is, and in which direction; names the streams.

    Attributes:
        path: what it is like now.
        busy_s: how long messages have kept it busy, TCP's waits included.
        free_s: when the next message may begin to leave; a link with a duty cycle rests after a reset, too.
    """

    __slots__ = (
        "_idle_since_s",
        "_jitter",
        "_last_arrival_s",
        "_losses",
        "_queued_s",
        "_threshold",
        "_usually_queued_s",
        "_window",
        "busy_s",
        "free_s",
        "path",
    )

    def __init__(self, path: Path, *, seed: int, owner: tuple[str, ...]) -> None:
        self.path = path
        self._jitter = RandomStream(seed, "jitter", *owner) if path.one_way_s else None
        self.busy_s = self.free_s = 0.0
        self._losses = Losses(RandomStream(seed, "loss", *owner)) if path.loss else None
        self.reset()

    def look(self, now_s: float, *, first: bool) -> tuple[float, float]:
        """Give the rate at a time, bytes per second, and until when it holds.

        Args:
            now_s: virtual time.
            first: no byte of a message has left yet; TCP's pauses are those of the link as it is now.
        """
        del now_s, first  # it is always the same
        return self.path.bytes_per_s, math.inf

    @property
    def latency_s(self) -> float:
        """Mean time one way."""
        return self.path.latency_s

    def reset(self) -> None:
        """Begin a new connection."""
        self._idle_since_s = self._last_arrival_s = self._queued_s = self._usually_queued_s = 0.0
        if not self.path.rest:
            self.free_s = 0.0
        self._window = INITIAL_WINDOW
        self._threshold = NO_THRESHOLD

    def carry(self, now_s: float, payload_bytes: int) -> Carried:
        """Take a message of so many MQTT bytes and say when it goes and arrives.

        Calls come in the order of their times.
        """
        if self.path.instant:
            return Carried(now_s, now_s, now_s)
        start_s = max(now_s, self.free_s)
        end_s = start_s + framed_bytes(payload_bytes) / self.path.bytes_per_s
        return self.depart(start_s, end_s, payload_bytes)

    def depart(self, start_s: float, end_s: float, payload_bytes: int) -> Carried:
        """Say the same of a message whose bytes alone keep the link busy from `start_s` to `end_s`.

        TCP's waits and repetitions come after them.
        """
        return self._arrive(start_s, end_s + self.delay_s(start_s, payload_bytes))

    def _arrive(self, start_s: float, sent_s: float) -> Carried:
        arrival_s = max(sent_s + self.propagation_s(), self._last_arrival_s)  # TCP keeps the order
        self._idle_since_s = self.free_s = sent_s
        if self.path.rest:
            self.free_s += self.path.rest * (sent_s - start_s)
        self._last_arrival_s = arrival_s
        self.busy_s += sent_s - start_s
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
            lost, after = self._losses.of_flight(path, flight) if self._losses and path.loss else (0, 0)
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
        if self._jitter is None or self.path.one_way_s is None:
            return self.path.latency_s
        return self.path.one_way_s(self._jitter.uniform())
