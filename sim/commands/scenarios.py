"""The commands `fedlite scenarios`: list, show, validate, cuts, reference, schema."""

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from broker.cli.console import command
from broker.files import writing
from scenarios.computing.placing import place_named
from scenarios.errors import MissingDataError
from scenarios.loading.explaining.reference import editor_schema, reference
from scenarios.loading.grid import load_grid
from scenarios.loading.grid_trial import in_lines, refuse_all, try_all
from scenarios.loading.load import dump_resolved, load_scenario, read_tree
from scenarios.loading.rehearsal import rehearse
from scenarios.loading.shipped import question, shipped
from scenarios.loading.trial.memory import replay_bytes
from scenarios.tasks import task_of
from scenarios.tasks.own_model import cuts_of
from sim.commands.options import Settings, Spec
from sim.network.csv_inputs import check_csv_inputs

app = typer.Typer(help="List, show and check scenarios.", no_args_is_help=True, add_completion=False)


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
    for key, part in (("server.device", loaded.server), ("simulation.device", loaded.simulation)):
        place_named(part.device, key)
    _, swept = read_tree(scenario, settings or ())
    points = load_grid(scenario, settings or ()) if swept else []
    need, why_untried = None, []
    if points:
        mistakes = try_all((point.title, point.scenario) for point in points)
        refuse_all(each for each in mistakes if not isinstance(each[1], MissingDataError))
        why_untried = in_lines(mistakes)
    else:
        try:
            need = rehearse(loaded)
        except MissingDataError as error:
            why_untried = [str(error)]
    grid = f", a sweep of {len(points)} points" if points else ""
    typer.echo(f"{loaded.name}: valid, {loaded.fleet_size} clients, {loaded.training.rounds} rounds{grid}")
    if need is not None:
        typer.echo(f"{loaded.name}: a device with one client needs about {need.words}")
    if kept := replay_bytes(loaded, task_of(loaded)):
        typer.echo(f"{loaded.name}: the server keeps up to {kept / 1e6:.1f} MB of activations for the replay")
    for why in why_untried:
        typer.echo(f"{loaded.name}: not tried, here it can only be simulated with --timing-only: {why}")


@app.command()
@command
def cuts(
    module: Annotated[str, typer.Argument(help="A Python file with build() and data().")],
    model: Annotated[str, typer.Option(help="The function in it that makes the model.")] = "build",
) -> None:
    """List the layers behind which a model of your own can be cut (`task.cut`), and what each cut costs."""
    torch.set_num_threads(1)  # a few rows through small parts: threads would only wait for each other
    table = Table("cut", "a sample", "float32 a sample", "head", "tail", box=None)
    for number in range(2, 5):
        table.columns[number].justify = "right"
    for cut in cuts_of(module, model):
        shape = " x ".join(map(str, cut.cut_shape))
        sent = f"{4 * cut.size:,} bytes"
        table.add_row(cut.layer, shape, sent, f"{cut.head_parameters:,}", f"{cut.tail_parameters:,}")
    Console().print(table)
    typer.echo(
        "head and tail: parameters to train. Each sample's activations go up and their gradient comes down, "
        "in every step; the head goes both ways once in a round."
    )


To = Annotated[Path | None, typer.Option(metavar="FILE", help="Write it there; default: to the screen.")]


@app.command("reference")
@command
def write_reference(to: To = None) -> None:
    """Write a page with every key of a scenario file: what it takes, its default, what it means."""
    _write(reference(), to)


@app.command("schema")
@command
def write_schema(to: To = None) -> None:
    """Write a JSON Schema of scenario files, for completion and checks in an editor."""
    _write(json.dumps(editor_schema(), indent=1) + "\n", to)


def _write(text: str, to: Path | None) -> None:
    if to is None:
        typer.echo(text, nl=False)
        return
    with writing(to):
        to.write_text(text, encoding="utf-8")
    typer.echo(f"wrote {to}")
