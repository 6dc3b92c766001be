"""`fedlite reproduce`: the command."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from broker.cli.console import command
from broker.files import writing
from broker.stopping import STOPPED, Stop, stop_on_signals
from scenarios.errors import ScenarioError, suggestion
from server_node.ownership import refuse_other_kinds
from sim.experiments.study.budget import seconds_of
from sim.experiments.study.points import StudyRun, load_runs
from sim.experiments.study.results import read_results, write_csv
from sim.experiments.study.run import lacking_data, migrate_run_folders, run_study
from sim.experiments.study.study import Study
from sim.experiments.study.tables import markdown


@command
def reproduce(
    study: Annotated[
        str, typer.Option(metavar="STUDY", help="A file, or the name of a shipped study.")
    ] = "fedlite-paper",
    budget: Annotated[
        str, typer.Option(help="Such as 15m, 1h, 3h, or full; 0 writes the report only.")
    ] = "15m",
    tasks: Annotated[
        str | None, typer.Option(metavar="A,B", help="Run these tasks only; the report has all.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The study's folder; below runs/ if not given.")
    ] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Runs at once; default: one per core.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a setting of every run; repeatable."),
    ] = None,
) -> None:
    """Run a study, such as the FedLite paper's, as far as a budget of time reaches; write tables, plots.

    The same command goes on where it stopped. Ctrl-C ends it; the report is written of what has finished.
    """
    with stop_on_signals() as stop:
        _reproduce(
            study, settings or (), tasks, to, seconds_of(budget), processes or os.cpu_count() or 1, stop
        )


def _reproduce(
    study: str,
    settings: Sequence[str],
    tasks: str | None,
    to: Path | None,
    budget_s: float,
    processes: int,
    stop: Stop,
) -> None:
    loaded, runs = load_runs(study, settings)
    folder = to or Path("runs") / loaded.name
    refuse_other_kinds(folder, "study", "--to")
    migrate_run_folders(runs, folder)
    todo = _of_tasks(loaded, runs, tasks) if budget_s else []
    for task, how in lacking_data(todo).items():
        typer.echo(f"{task} is left out: {how}")
        todo = [run for run in todo if run.task.name != task]
    failures = run_study(todo, folder, budget_s=budget_s, processes=processes, tell=typer.echo, stop=stop)
    stopped = stop.asked  # what comes after this does not stop any more
    _report(loaded, runs, folder)
    for line in failures:
        typer.echo(f"failed: {line}", err=True)
    if stopped:
        typer.echo("stopped; the same command goes on", err=True)
        raise typer.Exit(STOPPED)
    if failures:
        raise typer.Exit(1)


def _of_tasks(study: Study, runs: list[StudyRun], tasks: str | None) -> list[StudyRun]:
    if tasks is None:
        return runs
    known, wanted = [task.name for task in study.tasks], tasks.split(",")
    for name in wanted:
        if name not in known:
            raise ScenarioError(f"--tasks: unknown task '{name}'{suggestion(name, known, label='known')}")
    return [run for run in runs if run.task.name in wanted]


def _report(study: Study, runs: Sequence[StudyRun], folder: Path) -> None:
    """Write tables and, if matplotlib is there, plots of what has finished."""
    results = read_results(runs, folder)
    if not results:
        typer.echo("nothing has finished, so there is no report")
        return
    planned = sum(run.first for run in runs)
    write_csv(folder / "results.csv", results)
    with writing(folder):
        (folder / "results.md").write_text(markdown(study, results, planned), encoding="utf-8")
    typer.echo(f"{len(results)} of {planned} trained runs in {folder / 'results.md'}")
    try:
        from sim.experiments.study.plots import write_plots  # noqa: PLC0415  an optional extra
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        typer.echo("no plots: they need matplotlib, pip install 'fedlite-mqtt[plots]'")
        return
    with writing(folder):
        write_plots(folder, results)
