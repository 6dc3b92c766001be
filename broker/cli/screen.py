"""What a program shows while it works: a bar on a terminal, and elsewhere a line from time to time."""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

LINE_S = 10.0
"""From one line to the next where there is no terminal."""

ROOMS = ("broker", "edge_client", "server_node")

Show = Callable[[str, float, int, int], None]
"""Takes a line, the time in seconds, how much is done, and of how much (0: not known). May be called as often
as one likes."""


def tell_what_happens() -> None:
    """Let the log of this program say what happens, too: who comes and goes, connections."""
    for room in ROOMS:
        logging.getLogger(room).setLevel(logging.INFO)


@contextmanager
def progress_bar(description: str, total: int | None) -> Iterator[tuple[Console, Callable[..., None]]]:
    """Show a progress bar on a terminal; the log goes above it.

    Yields:
        What prints lines above the bar, and what changes the bar: `completed`, `advance`, `description`.
    """
    console = Console(stderr=True)
    columns = (  # what is looked for first comes first: a narrow terminal cuts the end off
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        BarColumn(bar_width=10),
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, ratio=1)),
    )
    off = not console.is_terminal
    with Progress(*columns, console=console, disable=off, expand=True) as progress, _log_to_stderr():
        task = progress.add_task(description, total=total)

        def update(**changes: Any) -> None:
            progress.update(task, **changes)

        yield progress.console, update


@contextmanager
def status_shown(description: str, total: int | None = None) -> Iterator[Show]:
    """Show how a program gets on: a bar on a terminal, elsewhere a line of the log every ten seconds."""
    log = logging.getLogger(__name__)
    said_s: float | None = None
    with progress_bar(description, total) as (console, update):

        def show(line: str, now_s: float, done: int, total: int) -> None:
            nonlocal said_s
            if console.is_terminal:
                update(completed=done, total=total or None, description=line)
            elif said_s is None or now_s >= said_s + LINE_S:
                if said_s is not None:
                    log.info("%s", line)
                said_s = now_s

        yield show


@contextmanager
def _log_to_stderr() -> Iterator[None]:
    """Let the log's handlers write to what is sys.stderr now: a bar has put itself in its place."""
    handlers = [each for each in logging.getLogger().handlers if type(each) is logging.StreamHandler]
    with contextlib.ExitStack() as stack:
        for handler in handlers:
            before = handler.setStream(sys.stderr)
            if before is not None:
                stack.callback(handler.setStream, before)
        yield
