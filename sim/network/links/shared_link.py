"""A device's link behind an access point or backhaul that it shares with others: docs/models.md."""

import functools
import math
from collections import deque
from collections.abc import Callable, Sequence

from broker.wire.link_bytes import framed_bytes
from sim.network.clock import Clock, Ts
from sim.network.links.bottleneck import Bottleneck, Transfer
from sim.network.links.link import PacketTimes, TcpLink
from sim.network.links.path import Path


class SharedTcpLink:
    """One direction of a device's link behind a bottleneck; first come, first served.

    The device's own link gives the cap, latency, jitter, loss and slow start; the pauses of slow start
    are those of that link alone, and follow the last byte. The next message begins after them. Losses make
    the cap lower: what they cost on that link alone is spread over the message.

    Args:
        clock: virtual time.
        link: the device's own.
        bottleneck: what it shares.

    Attributes:
        under_way: messages taken and not yet delivered.
    """

    def __init__(self, clock: Clock, link: TcpLink, bottleneck: Bottleneck) -> None:
        self._clock = clock
        self._link = link
        self._bottleneck = bottleneck
        self._waiting: deque[tuple[int, Callable[[float], None]]] = deque()
        self._transfer: Transfer | None = None  # what is in the bottleneck
        self._busy = False  # something is under way, or waits
        self._connection = 0
        self._looks = 0  # only the latest one counts
        self.under_way = 0
        self._leaves = False  # whether a byte of what is in the bottleneck may have left
        self._payload_bytes = 0  # of that
        self._stretch = 1.0  # what losses do to it

    @property
    def latency_s(self) -> float:
        """Mean time one way."""
        return self._link.latency_s

    @property
    def path(self) -> Path:
        """The device's own link as it is."""
        return self._link.path

    @property
    def busy_s(self) -> float:
        """How long messages have kept it busy, TCP's waits included."""
        return self._link.busy_s

    def send(self, payload_bytes: int, deliver: Callable[[float, *Ts], None], *args: *Ts) -> None:
        """Take a message; `deliver(start_s, *args)` is called when it has arrived."""
        self.under_way += 1
        self._waiting.append((payload_bytes, lambda start_s: deliver(start_s, *args)))
        if not self._busy:
            self._begin_next(self._connection)

    def acknowledge(self, from_s: float, to_s: float, packets: int, other: PacketTimes | None = None) -> None:
        """Do as TcpLink.acknowledge; a link that is sending is not silent anyway."""
        if not self._busy:
            self._link.acknowledge(from_s, to_s, packets, other)

    def shares(self, packets: int) -> Sequence[float]:
        """Do as TcpLink.shares."""
        return self._link.shares(packets)

    def reset(self) -> None:
        """Lose all that is under way, and begin a new connection."""
        if self._transfer is not None:
            self._bottleneck.abort(self._transfer)
        self._transfer = None
        self._busy = False
        self._waiting.clear()
        self._connection += 1
        self.under_way = 0
        self._link.reset()

    def _begin_next(self, connection: int) -> None:
        if connection != self._connection:
            return
        self._busy = bool(self._waiting)
        if self._link.free_s > self._clock.now:
            if self._busy:
                self._clock.at(self._link.free_s, self._begin_next, self._connection)
        elif self._busy:
            payload_bytes, deliver = self._waiting.popleft()
            done = functools.partial(self._passed, self._clock.now, payload_bytes, deliver)
            self._leaves, self._payload_bytes = False, payload_bytes
            self._transfer = Transfer(framed_bytes(payload_bytes), self._own_rate(), done)
            self._bottleneck.begin(self._transfer)

    def _own_rate(self) -> float:
        """Give the own link's rate now, bytes per second, and come back when that changes."""
        bytes_per_s, until_s = self._link.look(self._clock.now, first=not self._leaves)
        if bytes_per_s and not self._leaves:
            self._leaves = True
            self._stretch = self._link.stretch(self._clock.now, self._payload_bytes)
        if until_s < math.inf:
            self._looks += 1
            self._clock.at(until_s, self._cap, self._looks)
        return bytes_per_s / self._stretch

    def _cap(self, look: int) -> None:
        if look == self._looks and self._transfer is not None:
            self._bottleneck.cap(self._transfer, self._own_rate())

    def _passed(self, start_s: float, payload_bytes: int, deliver: Callable[[float], None]) -> None:
        """Let a message whose last byte has passed the bottleneck arrive, and the next one begin."""
        self._transfer = None
        carried = self._link.depart(start_s, self._clock.now, payload_bytes)
        self._clock.at(carried.arrival_s, self._arrived, self._connection, start_s, deliver)
        self._begin_next(self._connection)

    def _arrived(self, connection: int, start_s: float, deliver: Callable[[float], None]) -> None:
        if connection == self._connection:
            self.under_way -= 1
            deliver(start_s)
