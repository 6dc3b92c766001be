"""An access point or backhaul whose rate is divided among the transfers under way: a fluid, max-min fair.

Rates change only when a transfer begins or ends. Equations and limits: docs/models.md.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence

from sim.network.clock import Clock, Ts
from sim.network.link import TcpLink, framed_bytes

_ROUNDING_S = 1e-9
"""What is this close to its end has ended; virtual time is a float."""


def fair_rates(caps: Sequence[float], capacity: float) -> list[float]:
    """Divide a capacity max-min fairly: everybody gets the same, unless its own cap is lower.

    Args:
        caps: the most that each can use.
        capacity: to be divided; may be infinite.

    Returns:
        Rates in the order of `caps`; a rate that nothing bounds is infinite.
    """
    rates = [0.0] * len(caps)
    left = capacity
    for already, which in enumerate(sorted(range(len(caps)), key=caps.__getitem__)):
        rates[which] = min(caps[which], left / (len(caps) - already))
        left = left - rates[which] if math.isfinite(rates[which]) else left
    return rates


class Transfer:
    """A message in the bottleneck; `done` is called when its last byte has passed."""

    __slots__ = ("cap", "done", "left", "rate")

    def __init__(self, size_bytes: float, cap: float, done: Callable[[], None]) -> None:
        self.left = size_bytes
        self.cap = cap
        self.rate = 0.0
        self.done = done


class Bottleneck:
    """One direction of an access point.

    Args:
        clock: virtual time.
        bytes_per_s: what there is to share; infinite if unlimited.
    """

    def __init__(self, clock: Clock, bytes_per_s: float) -> None:
        self._clock = clock
        self._bytes_per_s = bytes_per_s
        self._active: list[Transfer] = []
        self._counted_until_s = 0.0
        self._plan = 0  # only the latest planned completion counts

    def begin(self, transfer: Transfer) -> None:
        """Let a transfer in."""
        self._progress()
        self._active.append(transfer)
        self._share()

    def abort(self, transfer: Transfer) -> None:
        """Take a transfer out before it is done."""
        self._progress()
        self._active.remove(transfer)
        self._share()

    def _progress(self) -> None:
        elapsed_s = self._clock.now - self._counted_until_s
        self._counted_until_s = self._clock.now
        if elapsed_s > 0:
            for transfer in self._active:
                transfer.left -= transfer.rate * elapsed_s

    def _share(self) -> None:
        rates = fair_rates([transfer.cap for transfer in self._active], self._bytes_per_s)
        for transfer, rate in zip(self._active, rates, strict=True):
            transfer.rate = rate
        self._plan += 1
        if self._active:
            next_s = min(max(0.0, transfer.left) / transfer.rate for transfer in self._active)
            self._clock.at(self._clock.now + next_s, self._complete, self._plan)

    def _complete(self, plan: int) -> None:
        if plan != self._plan:
            return
        self._progress()
        ended = [t for t in self._active if t.left <= t.rate * _ROUNDING_S]
        self._active = [t for t in self._active if t.left > t.rate * _ROUNDING_S]
        self._share()
        for transfer in ended:
            transfer.done()


class SharedTcpLink:
    """One direction of a device's link behind a bottleneck; first come, first served.

    The device's own line gives the cap, latency, jitter, loss and slow start; the pauses of slow start
    are those of the line alone, and follow the last byte.

    Args:
        clock: virtual time.
        line: the device's own.
        bottleneck: what it shares.

    Attributes:
        under_way: messages taken and not yet delivered.
        latency_s: mean time one way.
        path: of the device's own line.
    """

    def __init__(self, clock: Clock, line: TcpLink, bottleneck: Bottleneck) -> None:
        self._clock = clock
        self._line = line
        self._bottleneck = bottleneck
        self._waiting: deque[tuple[int, Callable[[float], None]]] = deque()
        self._active: Transfer | None = None
        self._connection = 0
        self.under_way = 0
        self.latency_s = line.latency_s
        self.path = line.path

    def send(self, payload_bytes: int, deliver: Callable[[float, *Ts], None], *args: *Ts) -> None:
        """Take a message; `deliver(start_s, *args)` is called when it has arrived."""
        self.under_way += 1
        self._waiting.append((payload_bytes, lambda start_s: deliver(start_s, *args)))
        if self._active is None:
            self._next()

    def acknowledge(self, from_s: float, to_s: float, packets: int) -> None:
        """See Line.acknowledge."""
        self._line.acknowledge(from_s, to_s, packets)

    def reset(self) -> None:
        """Lose all that is under way, and begin a new connection."""
        if self._active is not None:
            self._bottleneck.abort(self._active)
        self._active = None
        self._waiting.clear()
        self._connection += 1
        self.under_way = 0
        self._line.reset()

    def _next(self) -> None:
        payload_bytes, deliver = self._waiting.popleft()
        start_s, connection = self._clock.now, self._connection

        def arrived() -> None:
            if connection == self._connection:
                self.under_way -= 1
                deliver(start_s)

        def done() -> None:
            self._active = None
            carried = self._line.depart(start_s, self._clock.now, payload_bytes)
            self._clock.at(carried.arrival_s, arrived)
            if self._waiting:
                self._next()

        self._active = Transfer(framed_bytes(payload_bytes), self._line.path.bytes_per_s, done)
        self._bottleneck.begin(self._active)
