"""Drives a state machine in virtual time, as broker.machine.asyncio_driver does in real time."""

from collections.abc import Callable
from typing import Generic

from broker.machine.actions import (
    Action,
    CancelTimer,
    Compute,
    Core,
    Done,
    Event,
    F,
    J,
    Publish,
    R,
    Report,
    StartTimer,
    TimerFired,
)
from sim.network.clock import Clock


class Actor(Generic[J, R, F]):
    """One state machine in virtual time.

    Args:
        clock: virtual time.
        core: the state machine.
        publish: takes what it says.
        compute: takes its jobs, and feeds ComputeDone back when they have taken their time.
        report: hears the facts of its Report actions.

    Attributes:
        reason: why it is done; None while it is not.
    """

    __slots__ = ("_clock", "_compute", "_core", "_publish", "_report", "_timers", "reason")

    def __init__(
        self,
        clock: Clock,
        core: Core[J, R, F],
        publish: Callable[[Publish], None],
        compute: Callable[[J], None],
        report: Callable[[F], None],
    ) -> None:
        self._clock = clock
        self._core = core
        self._publish = publish
        self._compute = compute
        self._report = report
        self._timers: dict[str, object] = {}  # a token for each; an outdated one does not fire
        self.reason: str | None = None

    def feed(self, event: Event[J, R]) -> None:
        """Hand an event to the state machine and carry out what it asks for."""
        if self.reason is None:
            actions = self._core.handle(event, self._clock.now)
            if actions:
                self.carry_out(actions)

    def carry_out(self, actions: list[Action[J, F]]) -> None:
        """Do what the state machine asks for."""
        for action in actions:
            if isinstance(action, Publish):  # `match` asks for the fields of each kind in turn
                self._publish(action)
            elif isinstance(action, Compute):
                self._compute(action.job)
            elif isinstance(action, StartTimer):
                token = self._timers[action.key] = object()
                self._clock.at(self._clock.now + action.delay_s, self._fire, action.key, token)
            elif isinstance(action, CancelTimer):
                self._timers.pop(action.key, None)
            elif isinstance(action, Report):
                self._report(action.fact)
            elif isinstance(action, Done):
                self.reason = action.reason

    def _fire(self, key: str, token: object) -> None:
        if self._timers.get(key) is token:
            del self._timers[key]
            self.feed(TimerFired(key))
