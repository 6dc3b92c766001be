"""An access point or backhaul as a queue of packets: first come, first served."""

import math
from collections.abc import Callable

from sim.network.clock import Clock


class PacketQueue:
    """One direction of an access point, which keeps all packets that come until it has sent them.

    A packet may begin to leave when its first bit is there: with nobody else on it a device's link is as
    fast as alone.

    Args:
        clock: virtual time.
        rate: bytes per second; infinite if unlimited. Or what gives it at a time, and until when it holds.
    """

    __slots__ = ("_bytes_per_s", "_clock", "_free_s", "_look", "_until_s")

    def __init__(self, clock: Clock, rate: float | Callable[[float], tuple[float, float]]) -> None:
        self._clock = clock
        self._look = rate if callable(rate) else lambda _: (rate, math.inf)
        self._free_s = self._until_s = -math.inf
        self._bytes_per_s = 0.0

    def leave(self, begins_s: float, ends_s: float, size_bytes: float) -> float:
        """Take a packet, and say when its last bit has left.

        Args:
            begins_s: when its first bit came; not before that of the packet before it on the same line.
            ends_s: when its last bit has come: now.
            size_bytes: with headers.
        """
        at_s = max(begins_s, self._free_s)
        while True:
            if at_s >= self._until_s:
                self._bytes_per_s, self._until_s = self._look(at_s)
            if self._bytes_per_s:
                end_s = at_s + size_bytes / self._bytes_per_s
                if end_s <= self._until_s:
                    self._free_s = end_s
                    return max(ends_s, end_s)
                size_bytes -= self._bytes_per_s * (self._until_s - at_s)
            at_s = self._until_s

    def wait_s(self) -> float:
        """Say how long it takes until all that is here has left."""
        return max(0.0, self._free_s - self._clock.now)
