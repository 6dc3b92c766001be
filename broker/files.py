"""Files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Give a path to write to; put it in the place of `file` when the block ends without an exception.

    Whoever opens `file` meanwhile, or after a crash, finds the old content or the new one, never a part.
    The folder of `file` must exist.

    Args:
        file: what is to be written.

    Raises:
        OSError: the new content cannot take its place.
    """
    part = file.with_name(f".{file.name}.part")
    try:
        yield part
        os.replace(part, file)  # noqa: PTH105  replaces a file that is there, on every platform
    finally:
        part.unlink(missing_ok=True)
