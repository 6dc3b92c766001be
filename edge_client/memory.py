"""How much memory a device may use, and how an edge process uses little."""

import ctypes
import linecache
import sys
from collections.abc import Iterator
from pathlib import Path

from broker.errors import UserError

try:
    import resource
except ImportError:  # Windows
    _RLIMITS = {}
else:
    _RLIMITS = {"address space": resource.RLIMIT_AS, "data segment": resource.RLIMIT_DATA}

LEAST_BYTES = 256 * 2**20
"""Below this torch alone fills the memory: the device would swap without end, or the kernel would end it."""

_M_MMAP_THRESHOLD = -3  # of mallopt(3); musl has no mallopt
_LARGE_BYTES = 2**20


class MemoryLimitError(UserError):
    """This process may not use as much memory as an edge needs."""


def check_memory(root: Path = Path("/")) -> None:
    """Refuse to begin where torch would not fit.

    Args:
        root: where /proc and /sys are found.

    Raises:
        MemoryLimitError: the machine, a control group or a limit of the process leaves too little.
    """
    least, whose = least_memory(root)
    if least < LEAST_BYTES:
        raise MemoryLimitError(
            f"an edge needs {LEAST_BYTES >> 20} MiB of memory or more, and here are {least >> 20} ({whose}): "
            "raise the limit, or take a device with 512 MB"
        )


def least_memory(root: Path = Path("/")) -> tuple[int, str]:
    """Give the bytes that this process may use, and which limit that is; LEAST_BYTES if none is known."""
    return min(_limits(root), default=(LEAST_BYTES, ""))


def too_small(need_bytes: int, words: str, root: Path = Path("/")) -> str | None:
    """Say that what is to run needs more memory than there is; None if it does not.

    It is a warning and no refusal: the need is an estimate, and a device with swap gets through, if slowly.
    """
    least, whose = least_memory(root)
    if not whose or need_bytes <= least:
        return None
    return (
        f"this process needs about {words}, and there are {least >> 20} MiB ({whose}): it may swap, or the "
        "system may end it; smaller batches, an earlier cut or fewer clients here need less"
    )


def _limits(root: Path) -> Iterator[tuple[int, str]]:
    """Give every limit in bytes, with where it stands."""
    for line in _lines(root / "proc/meminfo"):
        name, _, amount = line.partition(":")
        if name == "MemTotal":
            yield int(amount.split()[0]) * 1024, "MemTotal of /proc/meminfo"
    for file in _group_files(root):
        for value in _lines(root / file):
            if value.isdecimal():  # and not the word max
                yield int(value), f"/{file}"
    for name, kind in _RLIMITS.items():
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            yield soft, f"ulimit of the {name}"


def _group_files(root: Path) -> Iterator[Path]:
    """Give where the limits of the process's control groups stand: its own, and those that this one is in."""
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, name = line.split(":", 2)
        if number == "0":
            mount, file = Path("sys/fs/cgroup"), "memory.max"
        elif "memory" in controllers.split(","):
            mount, file = Path("sys/fs/cgroup/memory"), "memory.limit_in_bytes"
        else:
            continue
        group = mount / name.lstrip("/")
        yield from (folder / file for folder in (group, *group.parents) if folder.is_relative_to(mount))


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:  # another system, or a group that is not visible from here
        return []


def keep_small() -> None:
    """Let this process give memory back to the system as soon as it is free; for a device with one client.

    glibc keeps a freed block for the next one of its size, up to 32 MiB. With this, blocks from 1 MiB on are
    given back. In the digits task these are the activations of a batch: 6 MiB less at the peak, and 2 ms more
    for a batch of 18.
    """
    linecache.clearcache()  # torch reads its own sources while it is imported, and would keep them
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
