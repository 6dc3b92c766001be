"""The commands `fedlite data fetch` and `fedlite data list`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from broker.console import command
from broker.stopping import interrupt_on_signals
from scenarios.data.cache import data_folder
from scenarios.data.fetch import SOURCES, fetch, is_there

app = typer.Typer(help="Get the data of tasks that do not bring them.", no_args_is_help=True)


@app.command("fetch")
@command
def fetch_data(
    task: Annotated[str, typer.Argument(help="A task of `fedlite data list`.")],
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder, for task.path; default: where the task looks.")
    ] = None,
) -> None:
    """Download and convert a task's data, unless they are there."""
    with interrupt_on_signals():  # what was made aside is cleared away
        fetch(task, to, typer.echo)


@app.command("list")
@command
def list_data() -> None:
    """List what can be fetched, under which licence, and what is there."""
    table = Table("task", "comes from", "licence", "here", box=None)
    for name, source in SOURCES.items():
        folder = data_folder(name)
        table.add_row(name, source.origin, source.licence, str(folder) if is_there(name, folder) else "no")
    Console().print(table)
