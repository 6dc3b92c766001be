"""A device's link behind an access point or backhaul that it shares with others: docs/models.md."""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from broker.wire.link_bytes import framed_bytes
from sim.network.clock import Clock, Ts
from sim.network.links.access_point import Direction
from sim.network.links.bottleneck import Bottleneck, Transfer
from sim.network.links.link import PacketTimes, TcpLink
from sim.network.links.packet_queue import PacketQueue
from sim.network.links.path import Path
from sim.network.links.tcp.connection import packets_of
from sim.network.links.tcp.passage import Passage


class SharedTcpLink:
    """One direction of a device's link behind an access point; first come, first served.

    Args:
        clock: virtual time.
        link: the device's own: latency, jitter, loss, TCP, and the highest rate.
        point: what it shares.
        back: the same in the other direction, where that is a queue, too.

    Attributes:
        under_way: messages taken and not yet delivered.
    """

    def __init__(
        self,
        clock: Clock,
        link: TcpLink,
        point: Direction,
        back: Direction | None = None,
    ) -> None:
        self._clock = clock
        self._link = link
        self._point = point
        self._back = back if isinstance(back, PacketQueue) else None
        self._waiting: deque[tuple[int, Callable[[float], None]]] = deque()
        self._passing: Transfer | Passage | None = None
        self._busy = False  # something is under way, or waits
        self._connection = 0
        self.under_way = 0

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
        if isinstance(self._passing, Passage):
            self._passing.abort()
        elif self._passing is not None and isinstance(self._point, Bottleneck):
            self._point.abort(self._passing)
        self._passing = None
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
            passed = partial(self._passed, self._connection, self._clock.now, payload_bytes, deliver)
            self._passing = self._begin(payload_bytes, passed)

    def _begin(self, payload_bytes: int, passed: Callable[[], None]) -> Transfer | Passage:
        clock, link = self._clock, self._link
        if isinstance(self._point, Bottleneck):
            transfer = Transfer(framed_bytes(payload_bytes), link.path.bytes_per_s, passed)
            self._point.begin(transfer)
            return transfer
        line = link.line(clock.now)
        return Passage(
            clock, link.connection, *packets_of(payload_bytes), line, self._point, self._back, passed
        )

    def _passed(
        self, connection: int, start_s: float, payload_bytes: int, deliver: Callable[[float], None]
    ) -> None:
        """Let a message that has passed the access point arrive, and the next one begin."""
        if connection != self._connection:
            return
        if isinstance(self._passing, Passage) and self._passing.sent:
            carried = self._link.arrived(start_s, self._passing.sent)
        else:
            carried = self._link.depart(start_s, self._clock.now, payload_bytes)
        self._passing = None
        self._clock.at(carried.arrival_s, self._arrived, connection, start_s, deliver)
        self._begin_next(connection)

    def _arrived(self, connection: int, start_s: float, deliver: Callable[[float], None]) -> None:
        if connection == self._connection:
            self.under_way -= 1
            deliver(start_s)


def shared(
    clock: Clock, own: tuple[TcpLink, TcpLink], point: tuple[Direction, Direction]
) -> tuple[SharedTcpLink, SharedTcpLink]:
    """Put both directions of a device's link behind an access point."""
    return SharedTcpLink(clock, own[0], *point), SharedTcpLink(clock, own[1], *point[::-1])
