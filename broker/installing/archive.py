"""Reads a bundle, a folder or a .tar.gz, into memory: few small regular files, with plain names.

What is in an archive is decided by whoever has made it, so nothing is written to the disk while it is read.
"""

import os
import re
import stat
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from broker.errors import RunError

MAX_FILES, MAX_FILE_BYTES, MAX_BYTES = 64, 4 * 2**20, 16 * 2**20
"""How many files a bundle has at most, how large one is, and how large all are, unpacked."""

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,99}")
_MAX_DEPTH = 4


def read_files(bundle: Path) -> dict[str, bytes]:
    """Read the files of a bundle, by their paths within it.

    Args:
        bundle: a folder, or an archive that holds such a folder.

    Raises:
        RunError: it cannot be read, or has more, larger or other things than a bundle has.
    """
    try:
        found = list(_of_folder(bundle) if bundle.is_dir() else _of_archive(bundle))
    except FileNotFoundError:
        raise RunError(f"there is no {bundle}; `fedlite fleet` makes bundles, for each device one") from None
    except (
        OSError,
        EOFError,
        zlib.error,
        tarfile.TarError,
        UnicodeError,
        ValueError,
        OverflowError,
    ) as error:
        raise RunError(f"{bundle} cannot be read: {_reason(error)}") from error
    if not found:
        raise RunError(f"{bundle} is empty; a bundle has edge.yaml and what that names")
    files = dict(found)
    if len(files) < len(found):
        raise RunError(f"{bundle} has two files of one name")
    return files


def _of_folder(folder: Path) -> Iterator[tuple[str, bytes]]:
    count = total = 0
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            continue
        if not stat.S_ISREG(mode):
            raise RunError(f"{folder}: {name!r} is no regular file; a bundle has no links or devices")
        count, total = count + 1, total + path.stat().st_size
        _check_limits(folder, name, count, path.stat().st_size, total)
        yield _checked_name(folder, name), path.read_bytes()


def _of_archive(file: Path) -> Iterator[tuple[str, bytes]]:
    count = total = 0
    tops: set[str] = set()
    with file.open("rb") as packed, tarfile.open(
        fileobj=cast("BinaryIO", _Unpacked(packed, file)), mode="r|", errors="strict"
    ) as archive:  # fmt: skip
        for entry in archive:
            count += 1
            name = _checked_name(file, entry.name)
            top, _, within = name.partition("/")
            tops.add(top)
            if len(tops) > 1:
                raise RunError(f"{file} holds {' and '.join(sorted(tops))}; a bundle is one folder")
            if entry.isdir():
                _check_limits(file, name, count, 0, total)
                continue
            if not entry.isreg() or entry.issparse():
                raise RunError(f"{file}: {name!r} is no regular file; a bundle has no links or devices")
            if not within:
                raise RunError(
                    f"{file}: {name!r} must lie in a folder; make the archive of the bundle's folder"
                )
            total += entry.size
            _check_limits(file, name, count, entry.size, total)
            content = archive.extractfile(entry)
            assert content is not None
            yield within, content.read()


class _Unpacked:
    """Unpacks a gzip file as it is read, up to a limit."""

    def __init__(self, packed: BinaryIO, file: Path) -> None:
        self._packed, self._file = packed, file
        self._gzip = zlib.decompressobj(wbits=31)
        self._total = 0

    def read(self, size: int) -> bytes:
        parts = b""
        while len(parts) < size and not self._gzip.eof:
            waiting = self._gzip.unconsumed_tail
            chunk = waiting or self._packed.read(2**16)
            if not chunk:
                raise EOFError("it ends too early")
            parts += self._gzip.decompress(chunk, size - len(parts))
        self._total += len(parts)
        if self._total > MAX_BYTES + MAX_FILES * 2048:  # headers, and what fills the last block
            raise RunError(f"{self._file} is larger than a bundle may be ({MAX_BYTES >> 20} MiB unpacked)")
        return parts


def _checked_name(bundle: Path, name: str) -> str:
    parts = PurePosixPath(name).parts
    if len(parts) > _MAX_DEPTH or not parts or not all(_PART.fullmatch(part) for part in parts):
        raise RunError(f"{bundle}: {name[:100]!r} is no name that a bundle's file may have")
    return "/".join(parts)


def _check_limits(bundle: Path, name: str, count: int, size: int, total: int) -> None:
    if count > MAX_FILES:
        raise RunError(f"{bundle} has more than {MAX_FILES} files; a bundle has few")
    if size > MAX_FILE_BYTES or total > MAX_BYTES:
        raise RunError(
            f"{bundle}: with {name!r} it is too large; a bundle's files have at most "
            f"{MAX_FILE_BYTES >> 20} MiB, all of them {MAX_BYTES >> 20} MiB; data do not belong into it"
        )


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return f"not a .tar.gz of a bundle ({error})"
