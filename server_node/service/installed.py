"""`fedlite server install`, `status`, `uninstall`: the server of a run and its broker as services."""

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
    opened,
    places_of,
    program_for,
    tell_installed,
    tell_status,
)
from broker.installing.mosquitto import install_mosquitto, uninstall_mosquitto
from broker.installing.service import SERVER, Machine, in_a_home
from broker.provisioning.bundle import Bundle, read_bundle
from broker.provisioning.unit import server_unit
from scenarios.loading.load import dump_resolved, load_scenario
from scenarios.schema.broker import BrokerSpec
from scenarios.schema.scenario import Scenario
from scenarios.tasks.user_module import is_file

SCENARIO = "scenario.yaml"


@command
def install(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FLEET", help="Folder of a fleet: its broker is installed, too. Or a server's bundle."
        ),
    ],
    scenario: Annotated[str, typer.Argument(help="Scenario file, or the name of a shipped one.")],
    run: Annotated[str, typer.Option(help="Name of the run; the scenario's name if not given.")] = "",
    settings: Annotated[list[str] | None, typer.Option("--set", help="key.path=value")] = None,
    root: Root = None,
    dry_run: DryRun = False,
    program: Program = None,
) -> None:
    """Install the server of a run as a service, with Mosquitto beside it if FLEET is a fleet's folder.

    The same command updates both: after `fedlite fleet` has changed something, or the package is another.
    """
    machine = Machine.here(root)
    need_root(machine, dry_run=dry_run)
    loaded = load_scenario(scenario, settings or ())
    name = run or loaded.name
    whole = (source / "fleet.json").is_file()
    bundle = source / "bundles" / f"server.{name}" if whole else source
    if whole and not bundle.is_dir():
        raise RunError(f"{source} has no run {name}: `fedlite fleet allow {scenario} --fleet {source}`")
    with opened(bundle) as folder:
        told = read_bundle(folder, "server")
        told.access.context()
        if told.name != name:
            raise RunError(f"{bundle} is for run {told.name}, not {name}: give --run {told.name}")
        files = read_files(folder)
    path = program_for(machine, program)
    files |= _scenario_files(loaded, told)
    data = loaded.task.path
    home = in_a_home(*places_of(path, machine), str(data.resolve()) if data else "")
    unit = server_unit(name, program=path, home=home)
    steps = service.install(SERVER, files, unit, machine)
    if whole:
        steps = [*install_mosquitto(read_files(source / "broker"), machine), *steps]
    do(steps, machine, dry_run=dry_run)
    if not dry_run:
        words = [path, "server", f"{SERVER.bundle}/{SCENARIO}", "--bundle", SERVER.bundle, "--run", name]
        tell_installed(SERVER, f"the server of run {name}", machine, words, status="fedlite server status")


@command
def status(root: Root = None) -> None:
    """Tell whether the server runs, and what it said last; the exit code is 0 if it runs."""
    machine = Machine.here(root)
    folder = machine.path(SERVER.bundle)
    if not folder.is_dir():
        raise RunError("no server is installed here; `fedlite server install FLEET SCENARIO` installs one")
    typer.echo(f"results in {machine.path(SERVER.folders[0])}/runs")
    tell_status(SERVER, machine)


@command
def uninstall(
    root: Root = None,
    dry_run: DryRun = False,
    delete_results: Annotated[
        bool, typer.Option("--delete-results", help="Remove the run folders and checkpoints, too.")
    ] = False,
) -> None:
    """Stop the server and remove its files and its unit, and the fleet's settings of Mosquitto."""
    machine = Machine.here(root)
    need_root(machine, dry_run=dry_run)
    kept = () if delete_results else (SERVER.folders[0],)
    do(
        [*service.uninstall(SERVER, machine, keep=kept), *uninstall_mosquitto(machine)],
        machine,
        dry_run=dry_run,
    )
    if kept and not dry_run:
        typer.echo(f"results stay in {machine.path(kept[0])}; --delete-results removes them")


def _scenario_files(scenario: Scenario, told: Bundle) -> Mapping[str, bytes]:
    """Give the scenario with all that it inherits, and its task's file, as they lie beside the bundle."""
    files = dict[str, bytes]()
    module = scenario.task.module
    if module is not None and is_file(module):
        file = Path(module)
        files[file.name] = file.read_bytes()
        module = f"{SERVER.bundle}/{file.name}"
    task = scenario.task.model_copy(update={"module": module})
    kept = BrokerSpec(packet_bytes=scenario.broker.packet_bytes, client_id=scenario.broker.client_id)
    text = dump_resolved(scenario.model_copy(update={"task": task, "broker": kept}))
    return {**files, SCENARIO: f"# of run {told.name}\n{text}".encode()}
