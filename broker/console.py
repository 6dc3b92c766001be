"""What all command-line programs share: the event loop, Ctrl-C, logging, and how errors are shown."""

import asyncio
import functools
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

import typer

from broker.errors import UserError

P = ParamSpec("P")
T = TypeVar("T")


def run_until_stopped(
    main: Callable[[asyncio.Event], Coroutine[Any, Any, T]], *, until_stdin_closes: bool = False
) -> T:
    """Run `main(stop)` on uvloop, or on asyncio's own loop on Windows, and return what it returns.

    The first SIGINT or SIGTERM sets `stop`, which asks `main` to end cleanly. A second one ends the program
    at once.

    Args:
        main: the program.
        until_stdin_closes: also set `stop` when standard input is closed: a child ends with its parent.
    """

    async def with_signals() -> T:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        if until_stdin_closes:
            _watch_stdin(stop)

        def on_signal(number: signal.Signals) -> None:
            loop.remove_signal_handler(number)  # the next one has its usual effect
            stop.set()

        if sys.platform != "win32":
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, on_signal, number)
        return await main(stop)

    with asyncio.Runner(loop_factory=_new_loop) as runner:
        return runner.run(with_signals())


def _watch_stdin(stop: asyncio.Event) -> None:
    loop, stdin = asyncio.get_running_loop(), sys.stdin.fileno()

    def readable() -> None:
        if not os.read(stdin, 1024):
            loop.remove_reader(stdin)
            stop.set()

    loop.add_reader(stdin, readable)


def _new_loop() -> asyncio.AbstractEventLoop:
    if sys.platform == "win32":
        return asyncio.SelectorEventLoop()  # paho needs add_reader
    import uvloop  # noqa: PLC0415  not installed on Windows

    return uvloop.new_event_loop()


REPORT_TO = "this is a bug in fedlite, please report it with the lines above and the command you gave"


def command(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a command: set up logging to standard error, and decide how errors are shown.

    A UserError is shown as one line without a traceback, and the exit code is 2. Any other exception is a
    bug: its traceback is printed, then a line that says where to report it, and the exit code is 1.
    """

    @functools.wraps(function)
    def told(*args: P.args, **kwargs: P.kwargs) -> T:
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        try:
            return function(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except Exception as error:
            mistakes = _mistakes(error)
            if mistakes is None:
                traceback.print_exception(error)
                print(f"error: {REPORT_TO}", file=sys.stderr)  # noqa: T201  the command line's last word
                raise SystemExit(1) from error
            for line in dict.fromkeys(mistakes):
                print(f"error: {line}", file=sys.stderr)  # noqa: T201  the command line's last word
            raise SystemExit(2) from error

    return told


def _mistakes(error: BaseException) -> list[str] | None:
    """Give the lines to show for a UserError, or a group of nothing but UserErrors; None for other errors."""
    if isinstance(error, BaseExceptionGroup):
        lines: list[str] = []
        for inner in error.exceptions:
            found = _mistakes(inner)
            if found is None:
                return None
            lines += found
        return lines
    return str(error).splitlines() if isinstance(error, UserError) else None
