"""`fedlite sweep`: the command, and the table that it prints."""

import os
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from broker.cli.console import command
from broker.errors import StudyError
from broker.stopping import STOPPED, stop_on_signals
from scenarios.loading.grid import load_grid
from sim.commands.options import Settings, Spec
from sim.commands.progress import watching_sweep
from sim.experiments.grid_runs import GridRun, kept_rows, try_runs
from sim.experiments.grid_runs import sweep as run_sweep
from sim.experiments.pool import dask_pool, local_pool
from sim.experiments.results import Mode
from sim.statistics.terminal import chosen_key, print_comparison
from sim.statistics.trials import trial_of


@command
def sweep(
    scenario: Spec,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY.PATH=V1,V2,...",
            help="Sweep a key, besides or in place of what the scenario sweeps; repeatable.",
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Run each point with N seeds, the scenario's and the next ones."
        ),
    ] = None,
    settings: Settings = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", help="Swept key whose values the table compares; default: what matters most."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Sweep folder; below runs/ if not given.")] = None,
    mode: Annotated[Mode, typer.Option(help="Train, or give sizes and durations only.")] = Mode.SIMULATE,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; default: one per core.")] = None,
    dask: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Scheduler of a Dask cluster that runs the points instead."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="A JSON line per point on standard output.")
    ] = False,
) -> None:
    """Run a scenario in virtual time at every point of a grid; the same command goes on where it stopped."""
    if jobs and dask:
        raise StudyError("--jobs counts processes of this machine, --dask runs none here; give one of them")
    points = load_grid(scenario, settings or (), grid or (), seeds)
    keys = list(points[0].values)
    by = chosen_key(by, keys)
    folder = out or Path("runs") / f"{points[0].scenario.name}-sweep"
    jobs = min(jobs or os.cpu_count() or 1, len(points))
    pool = partial(dask_pool, dask) if dask else partial(local_pool, jobs)
    runs = [GridRun(point, mode) for point in points]
    with stop_on_signals() as stop:
        kept = kept_rows(runs, folder)
        if not dask:  # whose workers may have data that this machine has not
            missing = (run for number, run in enumerate(runs) if number not in kept)
            try_runs(((run.point.title, run) for run in missing), stop)
        with watching_sweep(len(points), as_json=as_json) as watch:
            rows = run_sweep(points, folder, mode, pool, watch, stop, one_disk=dask is None, kept=kept)
        if not as_json and rows:
            print_comparison([trial_of(row, keys) for row in rows], by)
            typer.echo(f"\nresults in {folder}")
    failed = [row for row in rows if row["error"] is not None]
    for row in failed:
        typer.echo(f"failed: {row['run']}: {row['error']}", err=True)
    if len(rows) < len(points):
        done = len(rows) - len(failed)
        typer.echo(f"stopped: {done} of {len(points)} points are done; the same command goes on", err=True)
        raise typer.Exit(STOPPED)
    if failed:
        raise typer.Exit(1)
