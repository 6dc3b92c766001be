"""SimPy time with plain callbacks: an event costs a microsecond, where a process would cost five."""

from collections.abc import Callable
from typing import ParamSpec

import simpy

P = ParamSpec("P")


class Clock(simpy.Environment):
    """Virtual seconds since the run began; what is due at the same time runs in the order of the calls."""

    def at(self, time_s: float, call: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Call back at a time; at once, after what is already due, when it has passed."""
        event = self.timeout(max(0.0, time_s - self.now))
        assert event.callbacks is not None
        event.callbacks.append(lambda _: call(*args, **kwargs))
