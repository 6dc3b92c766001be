"""`fedlite edge install`, `status`, `update`, `uninstall`: a device as a service of its machine."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from broker.cli.console import command
from broker.errors import RunError
from broker.installing import service
from broker.installing.archive import read_files
from broker.installing.commands import (
    DryRun,
    Program,
    Root,
    do,
    need_root,
    places_of,
    program_for,
    tell_installed,
    tell_status,
    unpacked,
    with_sudo,
)
from broker.installing.service import EDGE, Machine, in_a_home, why_unreachable
from broker.provisioning.bundle import Bundle, read_bundle
from broker.provisioning.unit import unit_text


@command
def install(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="Of this device: a folder or .tar.gz of `fedlite fleet`.")
    ],
    root: Root = None,
    dry_run: DryRun = False,
    program: Program = None,
) -> None:
    """Install this device as a service: a user of its own, its bundle, a systemd unit; then start it.

    The service waits for runs of the fleet and takes part in them, from each start of the machine on.
    """
    machine = Machine.here(root)
    need_root(machine, dry_run=dry_run)
    files = read_files(bundle)
    told = _checked(files)
    there = _installed(machine)
    if there is not None:
        _need_same(there, told)
    _put(files, told, machine, program, dry_run=dry_run)


@command
def update(
    bundle: Annotated[
        Path | None, typer.Argument(metavar="BUNDLE", help="The device's new bundle; default: as it was.")
    ] = None,
    root: Root = None,
    dry_run: DryRun = False,
    program: Program = None,
) -> None:
    """Start the service anew, with a new bundle or after the package was updated."""
    machine = Machine.here(root)
    need_root(machine, dry_run=dry_run)
    there = _need_installed(machine)
    files = read_files(bundle or machine.path(EDGE.bundle))
    told = _checked(files)
    _need_same(there, told)
    _put(files, told, machine, program, dry_run=dry_run)


@command
def uninstall(root: Root = None, dry_run: DryRun = False) -> None:
    """Stop the service and remove its user, its files and its unit; the package itself stays."""
    machine = Machine.here(root)
    need_root(machine, dry_run=dry_run)
    do(service.uninstall(EDGE, machine), machine, dry_run=dry_run)
    if not dry_run:
        typer.echo(f"nothing of the service is left; the package is in {sys.prefix}")


@command
def status(root: Root = None) -> None:
    """Tell whether the service runs, and what it said last; the exit code is 0 if it runs."""
    machine = Machine.here(root)
    there = _need_installed(machine)
    brokers = " or ".join(map(str, there.access.brokers))
    run = f"run {there.run}" if there.run else "any run"
    typer.echo(f"{there.name} of fleet {there.fleet}, {run}, broker {brokers}")
    tell_status(EDGE, machine)


def _put(
    files: Mapping[str, bytes], told: Bundle, machine: Machine, program: Path | None, *, dry_run: bool
) -> None:
    path = program_for(machine, program)
    data = str(Path(told.data).resolve()) if told.data else ""
    home = in_a_home(*places_of(path, machine), data)
    unit = unit_text(told.fleet, told.name, program=path, bundle=EDGE.bundle, home=home)
    do(service.install(EDGE, files, unit, machine), machine, dry_run=dry_run)
    if data and machine.runs and (why := why_unreachable(Path(data))):
        typer.echo(f"the device cannot read its data, {data}: {why}; chmod o+rX lets it", err=True)
    if not dry_run:
        by_hand = [path, "edge", "--bundle", EDGE.bundle, "--stay"]
        tell_installed(EDGE, told.name, machine, by_hand, status="fedlite edge status")


def _checked(files: Mapping[str, bytes]) -> Bundle:
    """Read a bundle's files as the device will.

    Raises:
        UserError: what `fedlite edge --bundle` would say of it.
    """
    with unpacked(files) as folder:
        told = read_bundle(folder, "device")
        told.access.context()
        return told


def _installed(machine: Machine) -> Bundle | None:
    folder = machine.path(EDGE.bundle)
    try:
        return read_bundle(folder, "device") if folder.is_dir() else None
    except PermissionError:
        raise RunError(f"only root may look into {EDGE.bundle}: {with_sudo()}") from None


def _need_installed(machine: Machine) -> Bundle:
    there = _installed(machine)
    if there is None:
        raise RunError("no device is installed here; `fedlite edge install BUNDLE` installs one")
    return there


def _need_same(there: Bundle, told: Bundle) -> None:
    if told.name != there.name:
        raise RunError(
            f"this machine is {there.name}, and the bundle is that of {told.name}: "
            "`fedlite edge uninstall` first, if that is what you want"
        )
