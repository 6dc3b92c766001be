"""What is done to a machine, as a list that can be shown before it is carried out."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from broker.errors import RunError
from broker.files import writing


@dataclass(frozen=True, slots=True)
class Folder:
    """Make a folder, if it is not there, and give it to somebody."""

    path: str
    mode: int = 0o755
    owner: str = "root"

    def __str__(self) -> str:
        return f"make folder   {self.path} ({self.mode:04o} {self.owner})"


@dataclass(frozen=True, slots=True)
class File:
    """Write a file; it replaces one that is there."""

    path: str
    content: bytes
    mode: int = 0o644
    owner: str = "root"

    def __str__(self) -> str:
        return f"write         {self.path} ({self.mode:04o} {self.owner}, {len(self.content)} bytes)"


@dataclass(frozen=True, slots=True)
class Link:
    """Make a symbolic link; it replaces one that is there."""

    path: str
    target: str

    def __str__(self) -> str:
        return f"link          {self.path} -> {self.target}"


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove a file, or a folder with all that is in it; it need not be there.

    Attributes:
        path: of it.
        if_empty: a folder in which something is stays.
    """

    path: str
    if_empty: bool = False

    def __str__(self) -> str:
        return f"remove        {self.path}{' if it is empty' if self.if_empty else ''}"


@dataclass(frozen=True, slots=True)
class Move:
    """Put a folder where another one is or was."""

    path: str
    to: str

    def __str__(self) -> str:
        return f"move          {self.path} to {self.to}"


@dataclass(frozen=True, slots=True)
class Run:
    """Run a program of the system.

    Attributes:
        words: its command line.
        must: whether it has to succeed.
    """

    words: tuple[str, ...]
    must: bool = True

    def __str__(self) -> str:
        return f"run           {shlex.join(self.words)}"


Step = Folder | File | Link | Remove | Move | Run


def carry_out(steps: Iterable[Step], root: Path = Path("/")) -> None:
    """Do all steps, in their order; what was done before an error stays, and can be done again.

    Args:
        steps: with paths that begin with /.
        root: the folder that / stands for.

    Raises:
        RunError: something cannot be written, a program fails, or a path leads out of `root`.
    """
    base = root.resolve()
    for step in steps:
        if isinstance(step, Run):
            _run(step)
            continue
        path = _below(base, step.path)
        with writing(path):
            match step:
                case Folder():
                    path.mkdir(mode=step.mode, parents=True, exist_ok=True)
                    path.chmod(step.mode)
                    _give(path, step.owner, base)
                case File():
                    _write(path, step, base)
                case Link():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.unlink(missing_ok=True)
                    path.symlink_to(step.target)
                case Remove():
                    _remove(path, if_empty=step.if_empty)
                case Move():
                    to = _below(base, step.to)
                    _remove(to)
                    path.rename(to)


def _below(base: Path, path: str) -> Path:
    """Give the place of a path; an absolute link in an image would lead to this machine's own files."""
    place = base / path.lstrip("/")
    parent = place.parent.resolve()
    if not parent.is_relative_to(base):
        raise RunError(
            f"{place} leads out of {base}, to {parent}: a link in the way; nothing is written there"
        )
    return parent / place.name


def _write(path: Path, step: File, base: Path) -> None:
    """Write a file that never has a wider mode than it shall have, and is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, step.mode)
    try:
        with os.fdopen(descriptor, "wb") as output:
            output.write(step.content)
        part.chmod(step.mode)
        _give(part, step.owner, base)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _remove(path: Path, *, if_empty: bool = False) -> None:
    if path.is_dir() and not path.is_symlink():
        if not if_empty:
            shutil.rmtree(path)
        elif not any(path.iterdir()):
            path.rmdir()
    elif not if_empty:
        path.unlink(missing_ok=True)


def _run(step: Run) -> None:
    try:
        done = subprocess.run(step.words, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    except OSError as error:
        if step.must:
            raise RunError(f"{step.words[0]} cannot be run: {error.strerror}; is it installed?") from error
        return
    if done.returncode and step.must:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise RunError(
            f"`{shlex.join(step.words)}` failed with code {done.returncode}: {' '.join(said[-3:])}"
        )


def ids_of(user: str, root: Path) -> tuple[int, int] | None:
    """Give the numbers of a user and its group on a machine, or None: it is not there.

    Args:
        user: its name.
        root: the machine's folder; / for this one.
    """
    if root == Path("/"):
        import pwd  # noqa: PLC0415  not on Windows, where other commands must be found

        try:
            found = pwd.getpwnam(user)
        except KeyError:
            return None
        return found.pw_uid, found.pw_gid
    try:
        lines = (root / "etc/passwd").read_text().splitlines()
    except OSError:
        return None
    entries = (line.split(":") for line in lines)
    return next(((int(entry[2]), int(entry[3])) for entry in entries if entry[0] == user), None)


def _give(path: Path, owner: str, base: Path) -> None:
    """Make somebody the owner, where this process may do so and the machine knows the user."""
    ids = (0, 0) if owner == "root" else ids_of(owner, base)
    if os.geteuid() == 0 and ids is not None:
        os.chown(path, *ids, follow_symlinks=False)
