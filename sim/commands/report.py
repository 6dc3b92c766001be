"""`fedlite report`: the command."""

from pathlib import Path
from typing import Annotated

import typer

from broker.cli.console import command
from sim.report.page import write_report


@command
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs or sweeps.")],
    out: Annotated[
        Path | None,
        typer.Option(help="File; default: report.html, in the folder if there is one, else here."),
    ] = None,
) -> None:
    """Write one HTML page about runs or sweeps: what they learned, what it cost, who held them up."""
    typer.echo(f"report in {write_report(runs, out)}")
