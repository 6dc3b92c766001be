"""`fedlite run` and `fedlite simulate`: a scenario, live on this machine or in virtual time."""

import json
from pathlib import Path
from typing import Annotated

import typer

from broker.cli.console import command
from broker.cli.options import CaFileOption, PasswordFileOption, access_from
from broker.errors import RunError
from broker.exits import COMPLETE, STOPPED, exit_of
from broker.stopping import stop_on_signals
from broker.transports.access import Access
from scenarios.loading.load import load_scenario
from scenarios.local.places import data_setting
from scenarios.schema.scenario import Scenario
from scenarios.tasks import task_of
from server_node.board.screen import watching_live
from server_node.progress import over
from server_node.summary import Summary, refusals
from server_node.trackers.opening import Log, Observer, telling_trackers
from sim.commands.options import Settings, Spec
from sim.commands.progress import summary_table, watching_run
from sim.live.run import run_here
from sim.simulation.moment import standing_of
from sim.simulation.run import simulate as simulate_scenario

Out = Annotated[Path | None, typer.Option(help="Run folder; below runs/ if not given.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Begin anew, over what the run folder has.")]
DATA = typer.Option("--data", help="With partition local: a folder with the data of each client.")
AsJson = Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")]


@command
def run(
    scenario: Spec,
    settings: Settings = None,
    data_folder: Annotated[Path | None, DATA] = None,
    out: Out = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Edge processes that share the fleet; default: one per core.")
    ] = None,
    fresh: Fresh = False,
    takeover: Annotated[
        bool, typer.Option("--takeover", help="Take the run over from a server that is at work or frozen.")
    ] = False,
    shape: Annotated[
        bool, typer.Option("--shape", help="Put the scenario's links between clients and broker.")
    ] = False,
    speed_up: Annotated[
        float | None, typer.Option(min=0.01, help="With --shape: link times are divided by this.")
    ] = None,
    broker: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="A broker that runs already, or several.")
    ] = None,
    ca_file: CaFileOption = None,
    password_file: PasswordFileOption = None,
    log: Log = None,
    observer: Observer = None,
    as_json: AsJson = False,
) -> None:
    """Run a scenario here and now: broker, server and all clients on this machine.

    The broker is the scenario's, or the one of --broker, which runs already.

    Ctrl-C and SIGTERM pause it: the same command goes on.
    """
    if speed_up and not shape:
        raise RunError("--speed-up is for --shape: it divides the times of links")
    changes = [*(settings or ()), *data_setting(data_folder)]
    loaded = load_scenario(scenario, changes)
    access = _access(loaded, broker, ca_file, password_file)
    folder = out or Path("runs") / loaded.name
    finished = None if fresh else over(loaded, folder)
    if finished is not None:
        summary, words = finished
        typer.echo(words, err=True)
        _tell(loaded, summary, folder, as_json=as_json)
        return
    rounds, clients = loaded.training.rounds, loaded.fleet_size
    with (
        telling_trackers(log, observer, folder) as tell,
        stop_on_signals() as stop,
        watching_live(rounds, clients, as_json=as_json) as (watch, glance),
    ):
        summary = run_here(
            scenario,
            changes,
            folder=folder,
            processes=processes,
            watch=watch,
            access=access,
            glance=glance,
            stop=stop,
            fresh=fresh,
            takeover=takeover,
            shape=(speed_up or 1.0) if shape else None,
            tell=tell,
        )
    _tell(loaded, summary, folder, as_json=as_json)


def _access(
    scenario: Scenario, urls: list[str] | None, ca_file: Path | None, password_file: Path | None
) -> Access | None:
    """Give the way to a broker that runs already; None where the scenario's is started here."""
    if urls or scenario.broker.kind == "url":
        return access_from(urls, ca_file=ca_file, password_file=password_file, spec=scenario.broker)
    if ca_file or password_file:
        raise RunError("--ca-file and --password-file go with --broker, or a scenario with broker.url")
    return None


@command
def simulate(
    scenario: Spec,
    settings: Settings = None,
    data_folder: Annotated[Path | None, DATA] = None,
    out: Out = None,
    timing_only: Annotated[
        bool, typer.Option("--timing-only", help="Train nothing: sizes and durations only.")
    ] = False,
    fresh: Fresh = False,
    log: Log = None,
    observer: Observer = None,
    as_json: AsJson = False,
) -> None:
    """Run a scenario in virtual time, over the network, devices and broker that it describes.

    After Ctrl-C, SIGTERM or a crash the same command goes on, unless it trains nothing: then it begins anew.
    """
    loaded = load_scenario(scenario, [*(settings or ()), *data_setting(data_folder)])
    folder = out or Path("runs") / f"{loaded.name}-simulated"
    finished = None if fresh else standing_of(loaded, folder, timing_only=timing_only).finished
    if finished is not None:
        summary, words = finished
        typer.echo(words, err=True)
        _tell(loaded, summary, folder, as_json=as_json)
        return
    metric = task_of(loaded).metric
    watching = watching_run(
        rounds=loaded.training.rounds, clients=loaded.fleet_size, metric=metric, as_json=as_json
    )
    telling = telling_trackers(log, observer, folder, waits=True)
    with telling as tell, stop_on_signals() as stop, watching as watch:
        summary = simulate_scenario(
            loaded, folder, timing_only=timing_only, watch=watch, stop=stop, fresh=fresh, tell=tell
        )
    _tell(loaded, summary, folder, as_json=as_json, goes_on=not timing_only)


def _tell(scenario: Scenario, summary: Summary, folder: Path, *, as_json: bool, goes_on: bool = True) -> None:
    """Tell what a run came to.

    Args:
        scenario: that ran.
        summary: of the run.
        folder: its run folder.
        as_json: whether to tell it to programs.
        goes_on: whether the same command would go on with a run that was stopped.

    Raises:
        typer.Exit: with the code of the reason, if the run is not complete.
    """
    reason = summary["reason"]
    if as_json:
        typer.echo(json.dumps(summary))
    else:
        if reason not in (COMPLETE, STOPPED):
            typer.echo(f"ended early: {reason}")
        typer.echo(summary_table(summary))
        typer.echo(f"\nresults in {folder}")
        if said := refusals(summary):
            typer.echo(f"\n{said}")
    if reason == STOPPED:
        rounds = f"{summary['rounds']} of {scenario.training.rounds} rounds"
        command = "goes on" if goes_on else "begins anew"
        typer.echo(
            f"stopped after {rounds}; {folder} says what they came to; the same command {command}", err=True
        )
    if reason != COMPLETE:
        raise typer.Exit(exit_of(reason))
