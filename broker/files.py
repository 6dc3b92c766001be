"""Files that are there whole or not at all, and what to tell when they cannot be written."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker.errors import RunError


@contextmanager
def atomic_write(file: Path, *, durable: bool = False, previous: Path | None = None) -> Iterator[Path]:
    """Give a temporary path to write to; when the block ends without an exception, it replaces `file`.

    Whoever opens `file` meanwhile, or after a crash, finds all of the old content or all of the new.

    Args:
        file: the file to replace or create; its folder must exist.
        durable: a loss of power after the block, too, finds all of the new content: it waits for the disk.
        previous: where the old content is kept. Between two renames, `file` is missing and this one is there.

    Raises:
        OSError: the temporary file was not written, or cannot replace `file`.
    """
    part = part_of(file)
    try:
        yield part
        if durable:
            _flush(part)
        if previous is not None and file.exists():
            os.replace(file, previous)  # noqa: PTH105  as below
        os.replace(part, file)  # noqa: PTH105  it replaces an existing file on every platform
        if durable and os.name == "posix":  # Windows cannot open a folder
            _flush(file.parent)
    finally:
        part.unlink(missing_ok=True)


def part_of(file: Path) -> Path:
    """Give the temporary path from which `file` is written; a kill meanwhile leaves something there."""
    return file.with_name(f".{file.name}.part")


def _flush(path: Path) -> None:
    """Wait until the disk has a file's content, or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Tell a person, who can mend it, when something below `path` cannot be written.

    Args:
        path: the file or folder that the person has named, or one that follows from it.

    Raises:
        RunError: the disk is full, a folder may not be written to, a file stands where a folder should be.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        mend = "make room" if full else "name another place, or make this one writable"
        raise RunError(f"cannot write {path}: {error.strerror or error}; {mend}") from error
