"""Files that are there whole or not at all, and what to tell when they cannot be written."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker.errors import RunError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a disk, or of a user's part of it, that is full."""


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


PRIVATE_FOLDER, PRIVATE_FILE, PUBLIC_FILE = 0o700, 0o600, 0o644
"""Modes: for the owner alone, and for everybody to read."""


def write_file(file: Path, content: bytes, *, mode: int = PRIVATE_FILE, durable: bool = False) -> None:
    """Write a small file whole or not at all; it never has a wider mode than `mode`, not even for a moment.

    Args:
        file: is replaced if it is there; its folder must exist.
        content: all of it.
        mode: of the file.
        durable: see atomic_write.

    Raises:
        OSError: the file was not written.
    """
    with atomic_write(file, durable=durable) as part:
        part.unlink(missing_ok=True)  # left behind by a crash, perhaps with another mode
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as output:
            output.write(content)


def private_folder(folder: Path) -> None:
    """Make a folder that its owner alone may enter; one that is there becomes such a folder.

    Raises:
        OSError: it cannot be made, or is another's.
    """
    folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    folder.chmod(PRIVATE_FOLDER)


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
        mend = "make room" if error.errno in FULL else "name another place, or make this one writable"
        raise RunError(f"cannot write {path}: {error.strerror or error}; {mend}") from error
