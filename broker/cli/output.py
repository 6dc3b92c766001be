"""What becomes of a command when nobody reads its output any more, as after `| head -1`: it ends, quietly."""

import contextlib
import os
import select
from collections.abc import Iterator
from contextlib import contextmanager

from broker.exits import Exit

OUTPUTS = (1, 2)
"""File descriptors of standard output and standard error."""


def reader_has_left(outputs: tuple[int, ...] = OUTPUTS) -> bool:
    """Say whether one of the outputs is a pipe whose other end is closed (Windows cannot tell: never there).

    Args:
        outputs: file descriptors.
    """
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    for output in outputs:
        poll.register(output, 0)  # errors are told without being asked for
    return any(event & select.POLLERR for _, event in poll.poll(0))


@contextmanager
def ending_without_a_reader() -> Iterator[None]:
    """Let a program whose output's reader has left end with NO_READER.

    The libraries that write help, tables and bars end the program with 1 then, which is the code of a bug,
    and put /dev/null in the place of standard output. So the outputs are duplicated first.
    """
    with contextlib.ExitStack() as stack:
        kept = []
        for output in OUTPUTS:
            with contextlib.suppress(OSError):  # the program was started without it
                kept.append(os.dup(output))
                stack.callback(os.close, kept[-1])
        try:
            yield
        except SystemExit as end:
            if end.code == Exit.BUG and reader_has_left(tuple(kept)):
                raise SystemExit(Exit.NO_READER) from end
            raise


def is_for_nobody(error: BaseException) -> bool:
    """Say whether an error, or one of a group of errors, is that nobody reads what the program writes."""
    if isinstance(error, BaseExceptionGroup):
        return any(is_for_nobody(inner) for inner in error.exceptions)
    return isinstance(error, BrokenPipeError) and reader_has_left()


def write_no_more() -> None:
    """Let standard output go nowhere, so that what waits to be written is no error at the program's end."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for output in OUTPUTS:
            if reader_has_left((output,)):
                os.dup2(nowhere, output)
        os.close(nowhere)
