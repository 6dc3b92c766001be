"""SimPy time with plain callbacks: an event costs half a microsecond, where a process would cost five."""

from collections.abc import Callable
from heapq import heappop, heappush
from operator import attrgetter
from typing import Any, TypeVarTuple

import simpy
from simpy.events import NORMAL

Ts = TypeVarTuple("Ts")


class Clock(simpy.Environment):
    """Virtual seconds since the run began; what is due at the same time runs in the order of the calls.

    A call stands in SimPy's queue as it is, without an event around it.
    """

    _queue: list[Any]
    now: float = property(attrgetter("_now"))  # type: ignore[assignment]  # SimPy's own is a call of Python

    def at(self, time_s: float, call: Callable[[*Ts], None], *args: *Ts) -> None:
        """Call back at a time; at once, after what is already due, when it has passed.

        SimPy's own `schedule` takes a delay. Rounding would move equal times apart, and messages would
        overtake each other.
        """
        due_s = max(time_s, self._now)
        heappush(self._queue, (due_s, NORMAL, next(self._eid), (call, args)))

    def passes_to(self, time_s: float) -> bool:
        """Let time pass to a moment, if nothing is due up to then; say whether it has passed."""
        if self._queue and self._queue[0][0] <= time_s:
            return False
        self._now = time_s
        return True

    def step(self) -> None:
        """Let the next call or event happen."""
        queue = self._queue
        if queue and type(queue[0][3]) is tuple:
            self._now, _, _, (call, args) = heappop(queue)
            call(*args)
        else:
            super().step()
