"""How a program is asked to stop: Ctrl-C (SIGINT) and SIGTERM set a flag, and the loops look at it.

An exception raised by a signal handler can come up anywhere: in a finally block, in a destructor, in a
callback that swallows it. It is lost there, and the program goes on. A flag cannot be lost. So handlers do
nothing but set one, and wake whoever waits; each loop of the program looks at the flag between two steps.

A second signal ends the process at once, with no clean-up: processes that it started end by themselves,
because they watch for its end.
"""

import atexit
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from broker.exits import Exit

STOPPED = Exit.STOPPED
"""Exit code of a command that was stopped before its work was done."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)

LOOK_S = 0.5
"""How long a wait for something else may last before the program looks at the flag.

A signal that arrives in the moment before a wait begins does not interrupt this wait: the handler runs only
when it is over.
"""


class Stop:
    """Whether somebody has asked the program to stop.

    Attributes:
        asked: set once, and never taken back.
    """

    def __init__(self) -> None:
        self.asked = False
        self._wakers: list[Callable[[], object]] = []

    def ask(self) -> None:
        """Ask the program to stop, and wake whoever waits."""
        self.asked = True
        for wake in self._wakers:
            wake()

    @contextmanager
    def waking(self, wake: Callable[[], object]) -> Iterator[None]:
        """Call `wake` when somebody asks to stop, or at once if somebody has.

        Args:
            wake: is called in a signal handler, that is between any two lines of the main thread. It must
                not take a lock that the main thread may hold; SimpleQueue.put and call_soon_threadsafe do
                not. It may be called twice.
        """
        self._wakers.append(wake)
        try:
            if self.asked:
                wake()
            yield
        finally:
            self._wakers.remove(wake)


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Let SIGINT and SIGTERM ask the program to stop, for as long as the context lasts; main thread only.

    A second signal ends the process at once.

    Yields:
        What the loops of the program look at.
    """
    stop = Stop()

    def handle(_number: int, _frame: FrameType | None) -> None:
        if stop.asked:
            os._exit(STOPPED)
        stop.ask()

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_on_signals() -> None:
    """Let SIGINT and SIGTERM end the process at once, with exit code 130; once its work is done ignore them.

    For the seconds in which a program imports its modules and has nothing to clean up. While Python itself
    ends it takes handlers back, and a signal would make a failure of what has succeeded. It leaves SIG_IGN.
    """
    for number in SIGNALS:
        signal.signal(number, lambda _number, _frame: os._exit(STOPPED))
        atexit.register(signal.signal, number, signal.SIG_IGN)


@contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """Let SIGINT and SIGTERM raise KeyboardInterrupt, for work without a loop that could look at a flag."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def children_without_ctrl_c() -> Iterator[None]:
    """Start no process in this block that Ctrl-C of the terminal could reach: the parent ends them.

    The main thread blocks SIGINT meanwhile, and a new process inherits that. A SIGINT of this moment is
    not lost: it is delivered when the block ends.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
