"""Replacing a file so that nobody ever sees half of it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Give a temporary path to write to; when the block ends without an exception, it replaces `file`.

    Whoever opens `file` meanwhile, or after a crash, finds all of the old content or all of the new.

    Args:
        file: the file to replace or create; its folder must exist.

    Raises:
        OSError: the temporary file was not written, or cannot replace `file`.
    """
    part = file.with_name(f".{file.name}.part")
    try:
        yield part
        os.replace(part, file)  # noqa: PTH105  it replaces an existing file on every platform
    finally:
        part.unlink(missing_ok=True)
