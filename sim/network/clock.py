"""SimPy time with plain callbacks: an event costs half a microsecond, where a process would cost five."""

from collections.abc import Callable
from heapq import heappush
from typing import Any, TypeVarTuple

import simpy
from simpy.events import NORMAL, Event

Ts = TypeVarTuple("Ts")


class _Call(Event):
    """A SimPy event that is sure to happen, and has one callback."""

    __slots__ = ("args", "call")

    _ok = True

    def __init__(self, call: Callable[..., None], args: tuple[object, ...]) -> None:
        self.callbacks = _MAKE_CALL
        self.call = call
        self.args = args


def _make_call(event: _Call) -> None:
    event.call(*event.args)


# SimPy takes an event's list away before it goes through it, and leaves the list as it is.
_MAKE_CALL: list[Callable[[Any], None]] = [_make_call]


class Clock(simpy.Environment):
    """Virtual seconds since the run began; what is due at the same time runs in the order of the calls."""

    def at(self, time_s: float, call: Callable[[*Ts], None], *args: *Ts) -> None:
        """Call back at a time; at once, after what is already due, when it has passed.

        SimPy's own `schedule` takes a delay. Rounding would move equal times apart, and messages would
        overtake each other.
        """
        due_s = max(time_s, self._now)
        heappush(self._queue, (due_s, NORMAL, next(self._eid), _Call(call, args)))
