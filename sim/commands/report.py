"""`fedlite report`: the command."""

import math
from pathlib import Path
from typing import Annotated

import typer

from broker.cli.console import command
from broker.errors import ReportError
from sim.report.page import write_report
from sim.report.runs import read_all
from sim.report.trials import RUN, trials_of_runs, trials_of_sweep
from sim.report.words import sweep_nature
from sim.statistics.terminal import chosen_key, print_comparison


@command
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs or sweeps.")],
    out: Annotated[
        Path | None,
        typer.Option(help="File; default: report.html, in the folder if there is one, else here."),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Swept key whose values are compared; default: what matters most."),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(help="Metric whose cost is told; default: the best that every run reached."),
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write the charts as PDF, SVG and PNG for a paper, and CSV, here too."
        ),
    ] = None,
) -> None:
    """Write one HTML page about runs or sweeps: what they learned, what it cost, who held them up."""
    if target is not None and not math.isfinite(target):
        raise ReportError(f"--target {target}: must be a number that a metric may reach, such as 0.8")
    page, *more = write_report(runs, out, by=by, target=target, figures=figures)
    typer.echo(f"report in {page}")
    for folder in more:
        typer.echo(f"figures and tables in {folder}")


@command
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs or sweeps.")],
    by: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Swept key whose values are compared; default: what matters most."),
    ] = None,
) -> None:
    """Hold runs, or the points of sweeps, against each other: means over seeds, what can be told apart."""
    read, sweeps = read_all(runs)
    for number, sweep in enumerate(sweeps):
        typer.echo(("\n" if number else "") + sweep_nature(sweep))
        print_comparison(trials_of_sweep(sweep), chosen_key(by, sweep.keys))
    if read:
        print_comparison(trials_of_runs(read), RUN)
