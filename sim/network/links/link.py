"""One direction of a device's link: when does the last byte of a message arrive?

First come, first served, at the link's rate, through one TCP connection that lasts. docs/models.md has the
equations. A link knows its own state only; it is told the time. Where nothing is lost, TCP's window and its
waits are computed here, flight by flight; where packets are lost, or the link changes, sim.network.links.tcp
sends each segment.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import msgspec

from broker.wire.link_bytes import (
    ACKNOWLEDGED_SEGMENTS,
    framed_bytes,
    segments_of,
)
from scenarios.schema.links import Tcp
from sim.network.links.losses import Losses
from sim.network.links.path import Path
from sim.network.links.random_stream import RandomStream
from sim.network.links.tcp.connection import Connection, packets_of
from sim.network.links.tcp.delays import Delays
from sim.network.links.tcp.line import Line, Sent
from sim.network.links.tcp.receiver import DELAYED_ACK_S
from sim.network.links.tcp.round_trips import LEAST_MARGIN_S, MEAN_GAIN
from sim.network.links.tcp.window import INITIAL_WINDOW, window_of

MARGIN_GAIN = 1 / 4
"""Weight of a new flight in that margin: it begins with two round trips, and falls."""

KEPT = tuple((1 - MEAN_GAIN) ** (segments / ACKNOWLEDGED_SEGMENTS) for segments in range(256))
"""What remains of TCP's mean after a flight of so many segments; of longer ones next to nothing does."""

MARGIN_PER_QUEUE = 1.1
"""Four times the mean deviation of round trips, of which the last one waits for the whole queue."""


LEAST_GAP_S = 1e-9
"""Between PUBACKs of one message."""


class Carried(msgspec.Struct, frozen=True, gc=False):
    """When a message began to leave, when its last byte had left, and when that arrived."""

    start_s: float
    sent_s: float
    arrival_s: float


class PacketTimes(Protocol):
    """A link that knows when the packets of its latest message arrived."""

    def shares(self, packets: int) -> Sequence[float]:
        """Give after which share of the message's time each of so many packets had arrived."""


class TcpLink:
    """One direction of one device's link.

    Jitter and loss have a random stream each, made from the seed and the names alone: the n-th message of a
    device has the same time one way whatever the other devices do, and whatever was lost before.

    Args:
        path: what it is like.
        seed: the scenario's.
        owner: whose link it is, and in which direction; names the streams.
        tcp: congestion control; it matters where packets are lost.

    Attributes:
        path: what it is like now.
        jitter: where times one way of its messages come from; None if they have none of their own.
        busy_s: how long messages have kept it busy, TCP's waits included.
        free_s: when the next message may begin to leave; a link with a duty cycle rests after a reset, too.
    """

    __slots__ = (
        "_connection",
        "_delays",
        "_idle_since_s",
        "_last_arrival_s",
        "_losses",
        "_margin_s",
        "_progress",
        "_puback_gap_s",
        "_pubacked_s",
        "_pubacks",
        "_queued_s",
        "_tcp",
        "_usually_queued_s",
        "_window",
        "busy_s",
        "free_s",
        "jitter",
        "path",
    )

    def __init__(self, path: Path, *, seed: int, owner: tuple[str, ...], tcp: Tcp = "cubic") -> None:
        self.path = path
        self._tcp = tcp
        self._delays = Delays(seed, *owner) if path.jitter_per_packet else None
        by_message = path.one_way_s and not path.jitter_per_packet
        self.jitter = jitter_of(seed, *owner) if by_message else None
        self.busy_s = self.free_s = 0.0
        self._losses = Losses(seed, *owner) if path.loss else None
        self.reset()

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
        self._pubacks, self._pubacked_s = 0, 0.0  # the latest, and when the last of them is acknowledged
        self._puback_gap_s = LEAST_GAP_S  # between two of them
        self._margin_s = max(LEAST_MARGIN_S, 2 * self.path.round_trip_s)
        self._connection: Connection | None = None
        if self._delays is not None:
            self._delays.reset()
        self._progress: Sequence[tuple[float, int]] = ()

    def carry(self, now_s: float, payload_bytes: int) -> Carried:
        """Take a message of so many MQTT bytes and say when it goes and arrives.

        Calls come in the order of their times.
        """
        path = self.path
        if path.instant:
            return Carried(now_s, now_s, now_s)
        start_s = max(now_s, self.free_s)
        if self.by_segments:
            line = self.line(now_s)
            return self.arrived(start_s, self.connection.send(start_s, *packets_of(payload_bytes), line))
        end_s = start_s + framed_bytes(payload_bytes) / path.bytes_per_s
        return self._arrive(start_s, end_s + self.delay_s(start_s, payload_bytes))

    def line(self, now_s: float) -> Line:
        """Give the line for the segments of a message, asked for at a time; it may begin to leave later."""
        del now_s  # it is always the same
        return Line(self.path, self._losses, self._delays)

    @property
    def by_segments(self) -> bool:
        """Whether each segment is sent: packets may be lost, each has its own delay, or the link changes."""
        return self._losses is not None or self._delays is not None

    @property
    def connection(self) -> Connection:
        """TCP's, where each segment is sent."""
        if self._connection is None:
            self._connection = Connection(window_of(self._tcp), self.path.round_trip_s)
        return self._connection

    def depart(self, start_s: float, end_s: float, payload_bytes: int) -> Carried:
        """Say the same as `carry` of a message whose bytes kept the link busy from `start_s` to `end_s`."""
        return self._arrive(start_s, end_s + self.delay_s(start_s, payload_bytes))

    def arrived(self, start_s: float, sent: Sent) -> Carried:
        """Say the same of a message that was sent segment by segment."""
        self.path, self._progress = sent.path, sent.progress
        return self._arrive(start_s, sent.left_s, sent.progress[-1][0] if self.jitter is None else None)

    def _arrive(self, start_s: float, sent_s: float, arrival_s: float | None = None) -> Carried:
        path = self.path
        if arrival_s is None:
            arrival_s = sent_s + self.propagation_s()
        arrival_s = max(arrival_s, self._last_arrival_s)  # TCP keeps the order
        self._idle_since_s = self.free_s = sent_s
        if path.rest:
            self.free_s += path.rest * (sent_s - start_s)
        self._last_arrival_s = arrival_s
        self.busy_s += sent_s - start_s
        return Carried(start_s, sent_s, arrival_s)

    def acknowledge(self, from_s: float, to_s: float, packets: int, other: PacketTimes | None = None) -> None:
        """Let PUBACKs for the packets of a message pass that came the other way from `from_s` to `to_s`.

        They take no time here, but while they go TCP is not silent.

        Args:
            from_s: when it began to leave.
            to_s: when its last byte arrived.
            packets: of the message, evenly long.
            other: the link that carried it, and knows when each of them arrived; evenly spread if not given.
        """
        if not packets or (self._connection is None and self._window <= INITIAL_WINDOW):
            return
        shares = other.shares(packets) if other else evenly(packets)
        for share in shares:
            at_s = from_s + (to_s - from_s) * share
            if at_s <= self._idle_since_s:
                continue  # a link that is sending is not silent anyway
            if self._connection is not None:
                delays, path = self._delays, self.path
                way_s = delays.there_and_back_s(path) if delays else 2 * path.latency_s
                self._connection.acknowledge(at_s, way_s)
            else:
                self._age(at_s)
                self._idle_since_s, self._queued_s = at_s, 0.0
                self._pubacks, self._puback_gap_s = packets, max(LEAST_GAP_S, (to_s - from_s) / packets)
                self._pubacked_s = at_s + 2 * self.path.latency_s + DELAYED_ACK_S

    def shares(self, packets: int) -> Sequence[float]:
        """Do as PacketTimes.shares; where nothing is lost they count as evenly spread."""
        progress = self._progress
        if packets == 1 or not progress:
            return evenly(packets)
        (begun_s, _), (ended_s, segments) = progress[0], progress[-1]  # what comes first is the start
        shares, packet = [], 1
        for at_s, upto in progress:
            while upto * packets >= packet * segments:
                shares.append((at_s - begun_s) / (ended_s - begun_s) if ended_s > begun_s else 1.0)
                packet += 1
        return shares

    def delay_s(self, start_s: float, payload_bytes: int) -> float:
        """Give what TCP adds to the time at full rate: waits for acknowledgements, and what it repeats.

        It sends window after window. The first acknowledgement of one comes a round trip after its start;
        until then the link pauses. That of a PUBACK may come before.
        """
        path, segments = self.path, segments_of(payload_bytes)
        window = self._window
        if window > INITIAL_WINDOW:
            self._age(start_s)
            window = self._window
        pubacks = 0
        if self._pubacked_s > start_s and window > INITIAL_WINDOW:
            pubacks = min(self._pubacks, 1 + int((self._pubacked_s - start_s) / self._puback_gap_s))
        if segments + pubacks <= window:  # the same as below, of one flight; most messages are
            self._window = max(window, 2 * segments)
            self._queued_s = queued_s = segments * path.segment_s
            kept = KEPT[segments] if segments < len(KEPT) else 0.0
            self._usually_queued_s = queued_s + kept * (self._usually_queued_s - queued_s)
            margin_s = max(LEAST_MARGIN_S, MARGIN_PER_QUEUE * queued_s)
            self._margin_s += MARGIN_GAIN * (margin_s - self._margin_s)
            return 0.0
        left, flights = segments, 0
        pauses_s, queue, longest, usually_s = 0.0, 0, 0, self._usually_queued_s
        if pubacks:  # they are segments, too, and what acknowledges them lets others go
            if segments <= window + pubacks:
                needed = (segments + pubacks - window + 1) // 2  # each frees a place, and makes one more
                wait_s = self._pubacked_s - (pubacks - needed) * self._puback_gap_s - start_s
                wait_s = min(wait_s, path.round_trip_s)
                pauses_s = max(0.0, wait_s - max(0, window - pubacks) * path.segment_s)
            self._window = window + pubacks
        while left:
            flight = min(left, self._window)
            queue, longest = max(queue, flight), max(longest, flight)
            forgotten = (1 - MEAN_GAIN) ** (flight / ACKNOWLEDGED_SEGMENTS)
            usually_s += (1 - forgotten) * (flight * path.segment_s - usually_s)
            left -= flight
            flights += 1
            pause_s = path.round_trip_s - flight * path.segment_s if left else 0.0
            if flights > 1 or 2 * flight > self._window:  # Linux: not if less than half of it was used
                self._window += flight
            if pause_s > 0:
                pauses_s += pause_s
                queue = 0
        self._queued_s, self._usually_queued_s = queue * path.segment_s, usually_s
        margin_s = max(LEAST_MARGIN_S, MARGIN_PER_QUEUE * longest * path.segment_s)
        self._margin_s = margin_s + (self._margin_s - margin_s) * (1 - MARGIN_GAIN) ** flights
        return pauses_s

    def _age(self, start_s: float) -> None:
        """Halve the window for every retransmission timeout of silence, RFC 2861.

        TCP is silent since it sent the last flight, which then waited for the link. Its timeout follows the
        round trips that it has seen, with their wait for the link.
        """
        if self._window > INITIAL_WINDOW:
            silence_s = start_s - self._idle_since_s + self._queued_s
            timeout_s = self.path.round_trip_s + self._usually_queued_s + self._margin_s
            self._window = max(INITIAL_WINDOW, self._window >> int(silence_s / timeout_s))

    def propagation_s(self) -> float:
        """Draw the time one way."""
        if self.jitter is None or self.path.one_way_s is None:
            return self.path.latency_s
        return self.path.one_way_s(self.jitter.uniform())


def jitter_of(seed: int, *owner: str) -> RandomStream:
    """Give what the times one way of a link's messages come from, see TcpLink."""
    return RandomStream(seed, "jitter", *owner)


@lru_cache(maxsize=64)
def evenly(packets: int) -> Sequence[float]:
    """Give the shares of a message's time after which each of its packets arrives, if they do so evenly."""
    return tuple(packet / packets for packet in range(1, packets + 1))
