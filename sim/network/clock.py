"""SimPy time with plain callbacks: an event costs half a microsecond, where a process would cost five."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from heapq import heappop, heappush
from operator import attrgetter
from typing import Any, TypeVarTuple

import simpy
from simpy.events import NORMAL

Ts = TypeVarTuple("Ts")

_ALONE = 4
"""Entries of SimPy's queue have so many parts; one more has what stands behind them, see Clock.together."""


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

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let calls that are asked for meanwhile stand in the queue as one: it stays short, and quick.

        Each is made at its time and in its turn all the same.
        """
        queue, self._queue = self._queue, []
        try:
            yield
        finally:
            asked, self._queue = self._queue, queue
            asked.sort()
            self._push_next(iter(asked))

    def in_turn(self, calls: Iterator[tuple[float, Callable[[*Ts], None], tuple[*Ts]]]) -> None:
        """Make calls at their times, which are in order; only the next one of them stands in the queue."""
        number = next(self._eid)
        self._push_next((time_s, NORMAL, number, (call, args)) for time_s, call, args in calls)

    def _push_next(self, calls: Iterator[Any]) -> None:
        for due_s, priority, number, call in calls:
            heappush(self._queue, (due_s, priority, number, call, calls))
            return

    def passes_to(self, time_s: float) -> bool:
        """Let time pass to a moment, if nothing is due up to then; say whether it has passed."""
        if self._queue and self._queue[0][0] <= time_s:
            return False
        self._now = time_s
        return True

    def step(self) -> None:
        """Let the next call or event happen."""
        queue = self._queue
        if queue and len(queue[0]) > _ALONE:
            due_s, priority, number, call, others = heappop(queue)
            self._push_next(others)
            if type(call) is tuple:
                self._now = due_s
                call[0](*call[1])
                return
            heappush(queue, (due_s, priority, number, call))  # an event, of SimPy's own
        if queue and type(queue[0][3]) is tuple:
            self._now, _, _, (call, args) = heappop(queue)
            call(*args)
        else:
            super().step()
