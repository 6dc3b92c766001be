"""What the commands that install services have in common: options, root, the program, what is told."""

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from broker.errors import RunError
from broker.exits import Exit
from broker.installing.archive import read_files
from broker.installing.service import Machine, Service, why_unreachable
from broker.installing.steps import Step, carry_out
from broker.provisioning.unit import PROGRAM

Root = Annotated[
    Path | None, typer.Option(help="Work on a system's image in this folder instead; starts nothing.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only tell what would be done.")]
Program = Annotated[
    Path | None,
    typer.Option(help=f"The command that the unit starts; default: this one, with --root {PROGRAM}."),
]

WITHOUT_SYSTEMD = "systemd does not run on this machine"


@contextmanager
def unpacked(files: Mapping[str, bytes]) -> Iterator[Path]:
    """Give a copy of a bundle's files, which nobody else can see, for as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="fedlite-") as folder:
        for name, content in files.items():
            place = Path(folder, name)
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            place.touch(mode=0o600)
            place.write_bytes(content)
        yield Path(folder)


@contextmanager
def opened(bundle: Path) -> Iterator[Path]:
    """Give the folder of a bundle, which may be an archive.

    Raises:
        RunError: it cannot be read.
    """
    if bundle.is_dir() or not bundle.exists():
        yield bundle
    else:
        with unpacked(read_files(bundle)) as folder:
            yield folder


def need_root(machine: Machine, *, dry_run: bool) -> None:
    """Refuse to change this machine for somebody else than root.

    Raises:
        RunError: it says which command to use.
    """
    if machine.runs and not dry_run and os.geteuid():
        raise RunError(f"this changes the system, so it needs root: {with_sudo()}")


def with_sudo() -> str:
    """Give this command line as root would give it; sudo does not search where this program may be."""
    return shlex.join(["sudo", str(_this_program()), *sys.argv[1:]])


def program_for(machine: Machine, told: Path | None) -> str:
    """Give the path of the program that a unit starts, if its user will be able to.

    Args:
        machine: where the unit is installed.
        told: on the command line.

    Raises:
        RunError: the program or its Python lies in somebody's own folder.
    """
    path = str(told or (_this_program() if machine.runs else PROGRAM))
    if not machine.runs:
        if not machine.path(path).is_file():
            typer.echo(f"the image has no {path} yet, which the unit starts", err=True)
        return path
    for place in (Path(path), Path(sys.executable)):
        if why := why_unreachable(place):
            raise RunError(
                f"the service could not start {path}: {why}. Put the package where every user can read it, "
                f"as {Path(PROGRAM).parents[1]} (python3 -m venv {Path(PROGRAM).parents[1]})"
            )
    return path


def places_of(program: str, machine: Machine) -> list[str]:
    """Give what the service must see: the program and, on this machine, its Python."""
    return [program, *([str(Path(sys.executable).resolve())] if machine.runs else [])]


def do(steps: Sequence[Step], machine: Machine, *, dry_run: bool) -> None:
    """Carry steps out, or tell them."""
    if not dry_run:
        carry_out(steps, machine.root)
        return
    where = "" if machine.runs else f" (below {machine.root})"
    typer.echo(f"nothing is done; without --dry-run this would be{where}:")
    for step in steps:
        typer.echo(f"  {step}")


def tell_installed(
    service: Service, name: str, machine: Machine, by_hand: Sequence[str], *, status: str
) -> None:
    """Tell what follows an installation.

    Args:
        service: which.
        name: of the member.
        machine: where.
        by_hand: command line that starts it without systemd.
        status: the command that tells how it is.
    """
    if not machine.runs:
        typer.echo(f"{name} is installed in {machine.root}; it starts with the machine")
        if not machine.keeps_users or os.geteuid():
            typer.echo(
                f"no system's image, or you are not root: give {service.bundle} to user {service.user}",
                err=True,
            )
    elif machine.systemd:
        typer.echo(f"{name} is installed and starts; `{status}` tells how it is")
    else:
        words = ["runuser", "-u", service.user, "--", "env", f"HOME={service.folders[0]}", *by_hand]
        typer.echo(f"{name} is installed. {WITHOUT_SYSTEMD}, so start it by hand, or at boot, with")
        typer.echo(f"  {shlex.join(words)}")


def tell_status(service: Service, machine: Machine) -> None:
    """Tell whether a service runs, and its last lines.

    Raises:
        RunError: without systemd nobody knows.
        typer.Exit: it does not run.
    """
    if not machine.runs:
        typer.echo(f"in the image {machine.root}; it starts with the machine")
        return
    if not machine.systemd:
        raise RunError(f"{WITHOUT_SYSTEMD}; it is not known whether {service.unit} runs")
    lines = _output("systemctl", "show", service.unit).splitlines()
    shown = dict(line.split("=", 1) for line in lines if "=" in line)
    typer.echo(describe(shown))
    log = _output("journalctl", "--no-pager", "-q", "-n", "5", "-o", "cat", "-u", service.unit)
    for line in log.splitlines():
        typer.echo(f"  {line}")
    if shown.get("ActiveState") != "active":
        raise typer.Exit(Exit.UNREACHABLE)


def describe(shown: Mapping[str, str]) -> str:
    """Say in a line what systemd shows of a service.

    Args:
        shown: of `systemctl show`: ActiveState, SubState, ActiveEnterTimestamp, NRestarts, MemoryCurrent,
            ExecMainStatus and Result, as far as they are there.
    """
    state = f"{shown.get('ActiveState', 'unknown')} ({shown.get('SubState', 'unknown')})"
    since = shown.get("ActiveEnterTimestamp", "")
    parts = [f"{state} since {since}" if since and state.startswith("active") else state]
    memory = shown.get("MemoryCurrent", "")
    if memory.isdecimal() and int(memory) < 2**63:  # 2^64 - 1: not known
        parts.append(f"{int(memory) >> 20} MiB")
    if shown.get("NRestarts", "0") != "0":
        parts.append(f"started again {shown['NRestarts']} times")
    code = shown.get("ExecMainStatus", "")
    if code.isdecimal() and int(code) and not state.startswith("active"):
        known = {each.value: each.name.lower().replace("_", " ") for each in Exit}
        parts.append(f"ended with {code} ({known.get(int(code), 'a signal or a limit')})")
    if shown.get("Result", "success") not in ("success", "exit-code"):
        parts.append(shown["Result"])
    return ", ".join(parts)


def _output(*words: str) -> str:
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout  # noqa: S603 - ours
    except OSError:
        return ""


def _this_program() -> Path:
    """Give the path of the command `fedlite` of this Python."""
    beside = Path(sys.executable).with_name("fedlite")
    return beside if beside.is_file() else Path(sys.argv[0]).absolute()
