"""Whose a folder of results is: of a run, a sweep or a study; and of a run's, which server has it.

A lock on a run folder, and a file in it, say who holds it.

Two servers of one folder would overwrite each other's checkpoints. So a server locks the folder, and the
system takes the lock away when its process ends, however that happens. A server that is told to take over
sets the lock of another one aside. That one, which may be frozen, finds another token in server.json when it
wakes up, and writes nothing more.
"""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import msgspec

from broker.errors import AnotherServerError, CannotGoOnError
from broker.files import atomic_write, writing

if sys.platform != "win32":
    import fcntl

FILE, LOCK = "server.json", "server.lock"

Kind = Literal["run", "sweep", "study"]

RESULTS: dict[Kind, str] = {"run": "summary.json", "sweep": "sweep.csv", "study": "results.md"}
"""What the folder of each kind has once there are results."""


class SupersededError(Exception):
    """The run folder belongs to another server by now: end, and write nothing."""


class Owner(msgspec.Struct, frozen=True):
    """The content of server.json.

    Attributes:
        incarnation: the last one that a server of this folder has taken.
        pid: of that server's process.
        host: the machine that it runs on.
        token: as in RunState: random, another one for each start.
    """

    incarnation: int
    pid: int
    host: str
    token: int


class Ownership:
    """A server's hold on a run folder; made by `owning`.

    Args:
        folder: the run folder.
        incarnation: the one that the server intends to take.
        token: its own.
    """

    def __init__(self, folder: Path, incarnation: int, token: int) -> None:
        self._folder = folder
        self.incarnation = incarnation
        self._token = token
        self._write()

    def check(self) -> None:
        """Make sure that the folder is still this server's; comes before each write into it.

        Raises:
            SupersededError: it is not.
        """
        owner = _read(self._folder)
        if owner is None or owner.token != self._token:
            raise SupersededError

    def take(self, incarnation: int) -> None:
        """Note the incarnation that the server has taken: the next start must take a higher one.

        Raises:
            SupersededError: the folder is another server's.
            RunError: server.json cannot be written.
        """
        self.check()
        if incarnation != self.incarnation:
            self.incarnation = incarnation
            self._write()

    def _write(self) -> None:
        owner = Owner(self.incarnation, os.getpid(), socket.gethostname(), self._token)
        file = self._folder / FILE
        with writing(file), atomic_write(file, durable=True) as part:
            part.write_bytes(msgspec.json.encode(owner))


@contextmanager
def owning(folder: Path, token: int, *, takeover: bool = False) -> Iterator[Ownership]:
    """Own a run folder while the context lasts.

    Args:
        folder: the run folder; made if missing.
        token: of this server.
        takeover: set the lock of another server aside.

    Raises:
        AnotherServerError: another server has the folder.
        RunError: the folder cannot be written to.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(folder, takeover=takeover)
    try:
        before = _read(folder)
        yield Ownership(folder, before.incarnation + 1 if before else 1, token)
    finally:
        os.close(descriptor)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep servers and other simulations out of a run folder while the context lasts.

    Args:
        folder: the run folder; made if missing.

    Raises:
        AnotherServerError: another process works in the folder.
        RunError: the folder cannot be written to.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(folder, advice="stop it, or name another folder with --out")
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(
    folder: Path,
    *,
    takeover: bool = False,
    advice: str = "stop it, or take the run over with --takeover",
) -> int:
    file = folder / LOCK
    if takeover:
        file.unlink(missing_ok=True)  # whoever has locked it keeps a lock on a file without a name
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            owner = _read(folder)
            who = f"another server (process {owner.pid} on {owner.host})" if owner else "another process"
            raise AnotherServerError(f"{who} works in {folder}: {advice}") from None
    return descriptor


def _read(folder: Path) -> Owner | None:
    with suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode((folder / FILE).read_bytes(), type=Owner)
    return None


def refuse_other_kinds(folder: Path, kind: Kind, option: str = "--out") -> None:
    """Refuse to write a run, a sweep or a study into a folder that has one of another kind.

    Args:
        folder: of the command.
        kind: what it writes.
        option: with which somebody names the folder.

    Raises:
        CannotGoOnError: the folder has the results of another kind.
    """
    for other, results in RESULTS.items():
        if other != kind and (folder / results).exists():
            raise CannotGoOnError(f"{folder} has a {other}, not a {kind}; {option} names another folder")
