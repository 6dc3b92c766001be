"""What the programs of all rooms share: the event loop, logging, and errors for people."""

import asyncio
import errno
import functools
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ParamSpec, TypeVar

import typer

from broker.cli.extras import missing_extra
from broker.cli.output import is_for_nobody, write_no_more
from broker.errors import RunError, UserError
from broker.exits import Exit
from broker.files import FULL
from broker.notify import telling_manager
from broker.stopping import STOPPED, Stop, stop_on_signals
from broker.urls import masked

P = ParamSpec("P")
T = TypeVar("T")


def run_until_stopped(
    main: Callable[[asyncio.Event], Coroutine[Any, Any, T]],
    *,
    until_stdin_closes: bool = False,
    stop: Stop | None = None,
) -> T:
    """Run `main(event)` in an event loop (uvloop where there is one); the event asks it for a clean end.

    SIGINT and SIGTERM set the event. A second one ends the process at once.

    Args:
        main: the program.
        until_stdin_closes: also set the event when whoever holds the other end of standard input is gone.
        stop: of the caller, who handles the signals already; None: they are handled here.
    """
    with ExitStack() as stack:
        asked = stack.enter_context(stop_on_signals()) if stop is None else stop

        async def main_with_event() -> T:
            event, loop = asyncio.Event(), asyncio.get_running_loop()
            if until_stdin_closes:
                _watch_stdin(event)
            with asked.waking(lambda: loop.call_soon_threadsafe(event.set)):
                async with telling_manager():
                    return await main(event)

        runner = stack.enter_context(asyncio.Runner(loop_factory=_new_loop))
        return runner.run(main_with_event())


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


_NO_MEMORY = r"(can't|[Cc]annot) allocate memory|failed to map segment"
"""Of torch's allocator, and of the loader of libraries."""
REPORT_TO = "this is a bug in fedlite, please report it with the lines above and the command you gave"


def command(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a command: set up logging to standard error, and decide how errors are shown; see telling.

    In no line of either is the password of a URL.
    """

    @functools.wraps(function)
    def told(*args: P.args, **kwargs: P.kwargs) -> T:
        logging.basicConfig(level=logging.WARNING)
        for handler in logging.getLogger().handlers:
            handler.setFormatter(_Masked("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        with telling():
            return function(*args, **kwargs)

    return told


class _Masked(logging.Formatter):
    """Writes no password of a URL, whoever logs it."""

    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))


@contextmanager
def telling(*, extra: str = "") -> Iterator[None]:
    """Show what goes wrong within as the end of a command.

    A UserError is shown as one line without a traceback, and the exit code is its own; so is a package that
    an extra would bring, a full disk, and too little memory. When nobody reads the output any more, nothing
    is shown. Any other exception is a bug: its traceback is printed, then a line that says where to report
    it, and the exit code is 1.

    Args:
        extra: brings all packages that the command needs; empty: the one that brings the missing package.
    """
    try:
        yield
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)  # noqa: T201  the command line's last word
        raise SystemExit(STOPPED) from None
    except Exception as error:
        if is_for_nobody(error):
            write_no_more()
            raise SystemExit(Exit.NO_READER) from error
        mistakes = _mistakes(error, extra)
        if mistakes is None:
            print(masked("".join(traceback.format_exception(error))), file=sys.stderr)  # noqa: T201
            print(f"error: {REPORT_TO}", file=sys.stderr)  # noqa: T201  the command line's last word
            raise SystemExit(Exit.BUG) from error
        for line in dict.fromkeys(line for mistake in mistakes for line in str(mistake).splitlines()):
            print(f"error: {masked(line)}", file=sys.stderr)  # noqa: T201  the command line's last word
        raise SystemExit(mistakes[0].exit) from error


def _lacks_memory(error: BaseException) -> bool:
    """Say whether the system gave no memory: to Python, numpy, torch, or for a library that is loaded."""
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    said = isinstance(error, RuntimeError | ImportError) and re.search(_NO_MEMORY, str(error))
    return isinstance(error, MemoryError) or bool(said)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _mistakes(error: BaseException, extra: str) -> list[UserError] | None:
    """Give the UserErrors that an error, or a group of errors, comes to; None if it is a bug."""
    if isinstance(error, BaseExceptionGroup):
        mistakes: list[UserError] = []
        for inner in error.exceptions:
            found = _mistakes(inner, extra)
            if found is None:
                return None
            mistakes += found
        return mistakes
    if isinstance(error, ModuleNotFoundError):
        error = missing_extra(error, extra) or error
    if _lacks_memory(error):
        error = RunError(f"not enough memory ({_first_line(error)}): end other programs, or raise its limit")
    if isinstance(error, OSError) and error.errno in FULL:
        error = RunError(f"cannot write {error.filename or 'the output'}: {error.strerror}; make room")
    return [error] if isinstance(error, UserError) else None
