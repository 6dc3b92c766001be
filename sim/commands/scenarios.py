"""The commands `fedlite scenarios list`, `show` and `validate`."""

import typer
from rich.console import Console
from rich.table import Table

from broker.cli.console import command
from scenarios.loading.grid import load_grid
from scenarios.loading.load import dump_resolved, load_scenario, read_tree
from scenarios.loading.rehearsal import data_missing
from scenarios.loading.shipped import question, shipped
from sim.commands.options import Settings, Spec
from sim.network.csv_inputs import check_csv_inputs

app = typer.Typer(help="List, show and check scenarios.", no_args_is_help=True)


@app.command("list")
@command
def list_scenarios() -> None:
    """List the shipped scenarios, each with the question it answers."""
    table = Table("name", "question", box=None)
    for name, path in shipped().items():
        table.add_row(name, question(path))
    Console().print(table)


@app.command()
@command
def show(scenario: Spec, settings: Settings = None) -> None:
    """Print a scenario with everything it inherits and every default."""
    typer.echo(dump_resolved(load_scenario(scenario, settings or ())), nl=False)


@app.command()
@command
def validate(scenario: Spec, settings: Settings = None) -> None:
    """Check a scenario and say what is wrong: file, line, key, what is allowed."""
    loaded = load_scenario(scenario, settings or ())
    check_csv_inputs(loaded)
    why_untried = data_missing(loaded)
    _, swept = read_tree(scenario, settings or ())
    grid = f", a sweep of {len(load_grid(scenario, settings or ()))} points" if swept else ""
    typer.echo(f"{loaded.name}: valid, {loaded.fleet_size} clients, {loaded.training.rounds} rounds{grid}")
    if why_untried:
        typer.echo(
            f"{loaded.name}: not tried, here it can only be simulated with --timing-only: {why_untried}"
        )
