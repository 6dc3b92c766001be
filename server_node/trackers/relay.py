"""Carries events to one sink in a thread of its own, through a bounded queue.

A sink that fails or hangs ends nothing: the first failure is a warning, and at the end the number of events
that did not get through is told.
"""

import logging
import threading
from collections import deque
from types import TracebackType
from typing import Self

from server_node.trackers.events import Event, Sink

log = logging.getLogger(__name__)

QUEUED = 1024
"""Events that may wait for a sink."""
AT_ONCE = 64
"""Events that a sink gets in one call, at most."""
CLOSE_S = 30.0
"""How long the end of a run waits for a sink; MLflow takes ten seconds to make a database."""
PATIENCE_S = 5.0
"""How long a simulation, which is faster than any clock, waits for a sink with a full queue."""


class Relay:
    """A sink's queue and thread, as a context manager.

    Args:
        name: of the sink, for messages.
        sink: is called in the thread alone.
        at_once: events that it gets in one call, at most.
        patience_s: how long `tell` may wait while the queue is full; 0 in an event loop. A sink that
            does not move in this time is not waited for again until it does.

    Attributes:
        failed: events of calls that raised an exception.
        lost: events that found the queue full, or were left at the end.
    """

    def __init__(self, name: str, sink: Sink, *, at_once: int = AT_ONCE, patience_s: float = 0.0) -> None:
        self._name = name
        self._sink = sink
        self._at_once = at_once
        self._patience_s = patience_s
        self._waiting: deque[Event] = deque()
        self._changed = threading.Condition()
        self._is_stuck = False
        self._is_over = False
        self._taken = 0
        self.told = self.failed = self.lost = 0
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)

    def tell(self, event: Event) -> None:
        """Queue an event; it is lost if the queue is full and stays so."""
        with self._changed:
            self.told += 1
            if self._patience_s and not self._is_stuck:
                self._is_stuck = not self._changed.wait_for(self._has_room, self._patience_s)
            if not self._has_room():
                self.lost += 1
                return
            self._waiting.append(event)
            self._changed.notify_all()

    def _has_room(self) -> bool:
        return len(self._waiting) < QUEUED

    def _work(self) -> None:
        while events := self._next():
            try:
                self._sink(events)
            except Exception as error:  # noqa: BLE001  whatever a tracker or the user's code raises
                self.failed += len(events)
                if self.failed == len(events):
                    log.warning("%s failed, the run goes on: %s", self._name, _words(error))
            self._taken += len(events)

    def _next(self) -> list[Event]:
        """Wait for events; none are left when the relay is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_over)
            count = min(len(self._waiting), self._at_once)
            events = [self._waiting.popleft() for _ in range(count)]
            self._is_stuck = False
            self._changed.notify_all()
            return events

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        self._thread.join(CLOSE_S)
        unheard = self.told - self._taken + self.failed
        if unheard:
            late = ", and does not answer" if self._thread.is_alive() else ""
            log.warning("%s has not heard %d of %d events%s", self._name, unheard, self.told, late)


def _words(error: Exception) -> str:
    """Say what was raised, and where: the innermost line is the user's own, or near it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" ({trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno})" if trace is not None else ""
    return f"{type(error).__name__}: {error}{where}"
