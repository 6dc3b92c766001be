"""The commands `fedlite data fetch`, `list`, `export` and `plot`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from broker.cli.console import command
from broker.files import writing
from broker.stopping import interrupt_on_signals
from scenarios.data.cache import data_folder
from scenarios.data.fetch import SOURCES, fetch, is_there
from scenarios.loading.named import scenario_of
from scenarios.local.shares import write_shares
from scenarios.partition import client_rows
from scenarios.schema.scenario import client_names
from scenarios.tasks import task_of
from sim.commands.options import Settings
from sim.labels.counts import count_labels, labels_of
from sim.labels.table import tell_counts

app = typer.Typer(
    help="Get the data of tasks; write and show what each device would have.",
    no_args_is_help=True,
    add_completion=False,
)


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


What = Annotated[str, typer.Argument(metavar="TASK|SCENARIO", help="A task's name, or a scenario.")]
Clients = Annotated[
    int | None, typer.Option(min=1, help="How many; default: 3, or of a scenario as many as its fleet has.")
]


@app.command("export")
@command
def export_data(
    what: What,
    to: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder in which each client gets a folder of its name.")
    ],
    clients: Clients = None,
    settings: Settings = None,
) -> None:
    """Write the samples that each client of a task would get as local data, to try `partition: local`.

    Of a task they are equal random shares. Of a scenario they are divided with its partition and seed. A run
    with `task.partition=local` and `--data DIR` then is the same run.
    """
    scenario = scenario_of(what, clients, settings or ())
    data = task_of(scenario).load()
    shares = dict(zip(client_names(scenario), client_rows(scenario, data), strict=True))
    with interrupt_on_signals(), writing(to):
        write_shares(to, ((client, data.train.take(rows)) for client, rows in shares.items()))
    for client, rows in shares.items():
        typer.echo(f"{to / client}: {len(rows)} samples")


@app.command("plot")
@command
def plot_data(
    what: What,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Picture to draw: .html, .svg, .png or .pdf; only a table if not given."
        ),
    ] = None,
    clients: Clients = None,
    settings: Settings = None,
) -> None:
    """Show how a scenario divides its data: the rows and classes of each client, as a table and a picture."""
    if to is not None:
        from sim.labels.plot import check_kind, write_plot  # noqa: PLC0415  matplotlib is an extra, and slow

        check_kind(to)
    scenario = scenario_of(what, clients, settings or ())
    task = task_of(scenario)
    data = task.load()
    shares = client_rows(scenario, data)
    counts = count_labels(*labels_of(task, data), shares, client_names(scenario))
    tell_counts(counts, rows=len(data.train))
    if to is not None:
        write_plot(to, f"{scenario.name}: {task.name}, {len(shares)} clients", counts)
        typer.echo(f"plot in {to}")
