"""What installing, updating and removing a service of this project comes to, as steps."""

import stat
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from broker.errors import RunError
from broker.installing.steps import File, Folder, Link, Move, Remove, Run, Step, ids_of
from broker.provisioning.unit import (
    EDGE_BUNDLE,
    EDGE_USER,
    SERVER_BUNDLE,
    SERVER_UNIT_FILE,
    SERVER_USER,
    UNIT_FILE,
)

UNITS = "/etc/systemd/system"
_HOMES = ("/home", "/root", "/run/user")


@dataclass(frozen=True, slots=True)
class Service:
    """A program that the system keeps running.

    Attributes:
        unit: name of its unit.
        user: that it runs as; nobody else's, and /var/lib/USER and /var/cache/USER are its folders.
        bundle: where its files lie.
    """

    unit: str
    user: str
    bundle: str

    @property
    def folders(self) -> tuple[str, str]:
        """What it may write to."""
        return f"/var/lib/{self.user}", f"/var/cache/{self.user}"


EDGE = Service(UNIT_FILE, EDGE_USER, EDGE_BUNDLE)
SERVER = Service(SERVER_UNIT_FILE, SERVER_USER, SERVER_BUNDLE)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a service is installed.

    Attributes:
        root: its folder; / for this machine as it runs.
        systemd: whether systemd manages it.
    """

    root: Path = Path("/")
    systemd: bool = True

    @classmethod
    def here(cls, root: Path | None) -> "Machine":
        """Look at this machine, or at the image in a folder, which has systemd.

        Raises:
            RunError: there is no such folder, or this is no Linux.
        """
        if root is None and sys.platform != "linux":
            raise RunError("services are for Linux; here start `fedlite edge` or `fedlite server` by hand")
        if root is None:
            return cls(systemd=Path("/run/systemd/system").is_dir())
        if not root.is_dir():
            raise RunError(f"--root {root}: there is no such folder; it is that of a system's image")
        return cls(root.resolve())

    @property
    def runs(self) -> bool:
        """Whether something can be started: it is no image."""
        return self.root == Path("/")

    def path(self, path: str) -> Path:
        """Give where a path of the machine lies."""
        return self.root / path.lstrip("/")

    def knows(self, user: str) -> bool:
        """Whether it has a user."""
        return ids_of(user, self.root) is not None

    @property
    def keeps_users(self) -> bool:
        """Whether a user can be made; an empty folder has no list of users."""
        return self.runs or self.path("/etc/passwd").is_file()


def install(service: Service, files: Mapping[str, bytes], unit: str, machine: Machine) -> list[Step]:
    """Give the steps that put a service on a machine, or replace it there.

    The new files are whole before they take the place of the old ones, of which none is left.

    Args:
        service: which.
        files: of its bundle, by their paths within.
        unit: text of its unit.
        machine: where.
    """
    parent, _, name = service.bundle.rpartition("/")
    new = f"{parent}/.{name}.new"
    folders = sorted({str(up) for file in files for up in Path(file).parents} - {"."})
    steps: list[Step] = [
        *_make_user(service, machine),
        Folder(parent),
        Remove(new),
        Folder(new, 0o700, service.user),
        *(Folder(f"{new}/{folder}", 0o700, service.user) for folder in folders),
        *(File(f"{new}/{file}", content, 0o600, service.user) for file, content in files.items()),
        Move(new, service.bundle),
    ]
    if not machine.systemd:
        return [*steps, *(Folder(folder, 0o700, service.user) for folder in service.folders)]
    steps += [File(f"{UNITS}/{service.unit}", unit.encode())]
    if not machine.runs:
        return [*steps, Link(f"{UNITS}/multi-user.target.wants/{service.unit}", f"../{service.unit}")]
    return [
        *steps,
        Run(("systemctl", "daemon-reload")),
        Run(("systemctl", "enable", service.unit)),
        Run(("systemctl", "restart", "--no-block", service.unit)),
    ]


def uninstall(service: Service, machine: Machine, keep: Collection[str] = ()) -> list[Step]:
    """Give the steps after which nothing of a service is left; its program, which is not its own, stays.

    Args:
        service: which.
        machine: where.
        keep: those of its folders that stay, for root alone.
    """
    live = machine.runs and machine.systemd
    return [
        *([Run(("systemctl", "disable", "--now", service.unit), must=False)] if live else []),
        Remove(f"{UNITS}/multi-user.target.wants/{service.unit}"),
        Remove(f"{UNITS}/{service.unit}.d"),
        Remove(f"{UNITS}/{service.unit}"),
        *([Run(("systemctl", "daemon-reload"))] if live else []),
        *([Run(("systemctl", "reset-failed", service.unit), must=False)] if live else []),
        Remove(service.bundle),
        Remove(service.bundle.rpartition("/")[0], if_empty=True),
        *(Remove(folder) for folder in service.folders if folder not in keep),
        *(Folder(folder, 0o700) for folder in keep),
        *([Run(("userdel", *_prefix(machine), service.user))] if machine.knows(service.user) else []),
    ]


def _make_user(service: Service, machine: Machine) -> list[Step]:
    if machine.knows(service.user) or not machine.keeps_users:
        return []
    home = service.folders[0]
    words = (
        "--system",
        "--user-group",
        "--no-create-home",
        "--home-dir",
        home,
        "--shell",
        "/usr/sbin/nologin",
    )
    return [Run(("useradd", *_prefix(machine), *words, service.user))]


def _prefix(machine: Machine) -> tuple[str, ...]:
    return () if machine.runs else ("--prefix", str(machine.root))


def in_a_home(*paths: str) -> bool:
    """Tell whether any path lies in somebody's home folder."""
    return any(path == home or path.startswith(f"{home}/") for path in paths for home in _HOMES)


def why_unreachable(path: Path) -> str | None:
    """Say which folder or file keeps others than its owner from a program or from data; None: nothing does.

    Args:
        path: of this machine; links are followed.
    """
    place = path.resolve()
    if not place.exists():
        return f"there is no {place}"
    for each in (*reversed(place.parents), place):
        mode = each.stat().st_mode
        needed = stat.S_IXOTH if each != place else stat.S_IROTH | (mode & stat.S_IXUSR and stat.S_IXOTH)
        if mode & needed != needed:
            return f"{each} is its owner's alone"
    return None
