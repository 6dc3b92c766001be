"""`fedlite run` and `fedlite simulate`: a scenario, live on this machine or in virtual time."""

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

from broker.console import command
from broker.errors import RunError
from broker.exits import COMPLETE, STOPPED, exit_of
from broker.stopping import stop_on_signals
from scenarios.loading.load import load_scenario
from scenarios.schema.scenario import Scenario
from scenarios.tasks import load_task
from server_node.progress import over
from server_node.summary import Summary, refusals
from server_node.vocabulary.reports import Watch
from sim.commands.options import Settings, Spec
from sim.commands.progress import summary_table, watching_run
from sim.live.run import run_here
from sim.simulation.run import simulate as simulate_scenario

Out = Annotated[Path | None, typer.Option(help="Run folder; below runs/ if not given.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")]


@command
def run(
    scenario: Spec,
    settings: Settings = None,
    out: Out = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Edge processes that share the fleet; default: cores - 1.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew, over what the run folder has.")] = False,
    takeover: Annotated[
        bool, typer.Option("--takeover", help="Take the run over from a server that is at work or frozen.")
    ] = False,
    shape: Annotated[
        bool, typer.Option("--shape", help="Put the scenario's links between clients and broker.")
    ] = False,
    speed_up: Annotated[
        float | None, typer.Option(min=0.01, help="With --shape: link times are divided by this.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a scenario here and now: broker, server and all clients on this machine.

    Ctrl-C and SIGTERM pause it: the same command goes on.
    """
    if speed_up and not shape:
        raise RunError("--speed-up is for --shape: it divides the times of links")
    loaded = load_scenario(scenario, settings or ())
    folder = out or Path("runs") / loaded.name
    finished = None if fresh else over(loaded, folder)
    if finished is not None:
        summary, words = finished
        typer.echo(words, err=True)
        _tell(loaded, summary, folder, as_json=as_json)
        return
    with stop_on_signals() as stop, _watching(loaded, as_json=as_json) as watch:
        summary = run_here(
            scenario,
            settings or (),
            folder=folder,
            processes=processes,
            watch=watch,
            stop=stop,
            fresh=fresh,
            takeover=takeover,
            shape=(speed_up or 1.0) if shape else None,
        )
    _tell(loaded, summary, folder, as_json=as_json)


@command
def simulate(
    scenario: Spec,
    settings: Settings = None,
    out: Out = None,
    timing_only: Annotated[
        bool, typer.Option("--timing-only", help="Train nothing: sizes and durations only.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a scenario in virtual time, over the network, devices and broker that it describes."""
    loaded = load_scenario(scenario, settings or ())
    folder = out or Path("runs") / f"{loaded.name}-simulated"
    with stop_on_signals() as stop, _watching(loaded, as_json=as_json) as watch:
        summary = simulate_scenario(loaded, folder, timing_only=timing_only, watch=watch, stop=stop)
    _tell(loaded, summary, folder, as_json=as_json)


def _watching(scenario: Scenario, *, as_json: bool) -> AbstractContextManager[Watch]:
    metric = load_task(scenario.task).metric
    return watching_run(
        rounds=scenario.training.rounds, clients=scenario.fleet_size, metric=metric, as_json=as_json
    )


def _tell(scenario: Scenario, summary: Summary, folder: Path, *, as_json: bool) -> None:
    """Tell what a run came to.

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
        typer.echo(f"stopped after {rounds}; {folder} says what they came to", err=True)
    if reason != COMPLETE:
        raise typer.Exit(exit_of(reason))
