"""SimPy time with plain callbacks: an event costs a microsecond, where a process would cost five."""

from collections.abc import Callable
from typing import TypeVarTuple

import simpy
from simpy.events import Timeout

Ts = TypeVarTuple("Ts")


class Clock(simpy.Environment):
    """Virtual seconds since the run began; what is due at the same time runs in the order of the calls."""

    def at(self, time_s: float, call: Callable[[*Ts], None], *args: *Ts) -> None:
        """Call back at a time; at once, after what is already due, when it has passed."""
        wait_s = time_s - self._now
        event = Timeout(self, wait_s if wait_s > 0 else 0.0)
        event.callbacks.append(lambda _: call(*args))
