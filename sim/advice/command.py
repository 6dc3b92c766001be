"""`fedlite advise`: the command, and what it tells."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from broker.cli.console import command
from broker.codecs import Codec, Float32, GradientCodec, codec_to_wire
from broker.errors import RunError
from broker.stopping import interrupt_on_signals
from scenarios.loading.named import scenario_of
from scenarios.loading.rehearsal import rehearse
from scenarios.schema.scenario import Scenario
from scenarios.tasks import load_task
from sim.advice.batches import FirstBatch, first_batches
from sim.advice.candidates import codecs_at_cut, means_of
from sim.advice.measure import C, Measured, measure_activations, measure_gradients
from sim.advice.rule import front, smallest_pair, smallest_within, worth_more_batches

ACTIVATIONS_ERROR, GRADIENT_ERROR = 0.1, 0.25
"""Relative errors up to which a codec is advised, unless somebody asks for others."""

T = TypeVar("T")


@dataclass(frozen=True)
class Advice:
    """What was measured, and what follows from it.

    Attributes:
        activations: measured codecs of `activations_up`.
        gradients: of `gradient_down`, with the advised codec of the activations; empty if the head is not
            trained.
        up: the advised codec of `activations_up`.
        down: that of `gradient_down`; None if the head is not trained.
        rows: samples that were measured.
        d: values at the cut.
    """

    activations: Sequence[Measured[Codec]]
    gradients: Sequence[Measured[GradientCodec]]
    up: Measured[Codec]
    down: Measured[GradientCodec] | None
    rows: int
    d: int
    activations_error: float
    gradient_error: float


@command
def advise(
    what: Annotated[str, typer.Argument(metavar="TASK|SCENARIO", help="A task's name, or a scenario.")],
    rows: Annotated[int, typer.Option(min=1, help="Samples to measure, of several clients.")] = 200,
    error: Annotated[
        float, typer.Option(min=0, help="Relative error of activations up to which a codec is advised.")
    ] = ACTIVATIONS_ERROR,
    gradient_error: Annotated[
        float, typer.Option(min=0, help="The same of gradients, at the head's parameters.")
    ] = GRADIENT_ERROR,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="A run's folder: with its trained weights, not the first ones."),
    ] = None,
    all_codecs: Annotated[bool, typer.Option("--all", help="Show every codec that was measured.")] = False,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key.path=value")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="A JSON line per codec on standard output.")
    ] = False,
) -> None:
    """Measure codecs on a task's own activations and gradients, and advise which to take.

    A TASK gets the plainest scenario: equal random shares, batches of 20. With a SCENARIO it is its own
    partition, cut and batch size. The weights are those that training starts from, or with --weights those of
    a run that has ended; its model may be cut elsewhere.
    """
    scenario = scenario_of(what, None, settings or ())
    if scenario.training.method == "fedavg":
        raise RunError("advise is about the cut, and method fedavg has none: --set training.method=split")
    rehearse(scenario)
    with interrupt_on_signals():
        found = measure(scenario, rows, error, gradient_error, weights)
    if as_json:
        for line in _lines(found):
            typer.echo(json.dumps(line))
    else:
        _tell(found, scenario, weights, all_codecs=all_codecs)


def measure(
    scenario: Scenario, rows: int, error: float, gradient_error: float, weights: Path | None = None
) -> Advice:
    """Measure what may be worth it; the progress is shown on a terminal.

    Every codec is tried on the first batch. Those that another one beats clearly are left out, and the others
    are measured on all batches.
    """
    task, seed = load_task(scenario.task), scenario.seed
    batches = list(first_batches(scenario, task, rows, weights))
    n, d = batches[0].z.shape
    codecs = codecs_at_cut(task.cut_shape, d, n)

    def activations_of(codec: Codec, some: Sequence[FirstBatch]) -> Measured[Codec]:
        return measure_activations(codec, some, seed)

    def gradients_of(codec: Codec, some: Sequence[FirstBatch]) -> Measured[GradientCodec]:
        return measure_gradients(codec, Float32(), some, seed)

    activations = _worthy(codecs, batches, activations_of, "activations")
    of = sum(len(each.z) for each in batches), d, error, gradient_error
    if batches[0].g is None:
        return Advice(activations, [], smallest_within(activations, error), None, *of)

    def means(up: Codec) -> list[Measured[GradientCodec]]:
        return [measure_gradients(codec, up, batches, seed) for codec in means_of(up)]

    gradients = _worthy(codecs, batches, gradients_of, "gradients")
    best = smallest_pair(activations, gradients, means, error, gradient_error)
    return Advice(activations, [*gradients, *best.means], best.up, best.down, *of)


def _worthy(
    codecs: Sequence[Codec],
    batches: Sequence[FirstBatch],
    measure_one: Callable[[Codec, Sequence[FirstBatch]], Measured[C]],
    of: str,
) -> list[Measured[C]]:
    """Measure on all batches what no other codec beats clearly on the first one."""
    tried = [measure_one(codec, batches[:1]) for codec in _shown(f"{of}, one batch", codecs)]
    kept = [cast("Codec", each.codec) for each in worth_more_batches(tried)]
    return [measure_one(codec, batches) for codec in _shown(f"{of}, all batches", kept)]


def _shown(what: str, codecs: Sequence[T]) -> Iterable[T]:
    """Show how many of them are done, on a terminal."""
    console = Console(stderr=True)
    return track(codecs, what, console=console, transient=True, disable=not console.is_terminal)


def _lines(found: Advice) -> Iterable[dict[str, object]]:
    for flow, measured, best in (
        ("activations_up", found.activations, found.up),
        ("gradient_down", found.gradients, found.down),
    ):
        for each in measured:
            yield {
                "flow": flow,
                "codec": _parameters(each.codec),
                "sample_bytes": each.sample_bytes,
                "ratio": each.ratio,
                "error": each.error,
                "head_error": each.head_error,
                "encode_ms": each.encode_ms,
                "advised": each is best,
            }


def _tell(found: Advice, scenario: Scenario, weights: Path | None, *, all_codecs: bool) -> None:
    batch = scenario.task.batch_size
    values = f"{found.d:,} values each at the cut"
    typer.echo(f"{found.rows} samples in batches of {batch}, {values}, seed {scenario.seed}\n")
    _table("activations_up", found.activations, found.up, all_codecs=all_codecs)
    up, down = found.up, found.down
    if down is not None:
        _table("gradient_down", found.gradients, down, all_codecs=all_codecs)
    typer.echo(
        f"Advice: the fewest bytes, of both together, whose relative error is at most "
        f"{found.activations_error:g} (activations, ||z - z~||^2 / ||z||^2)"
    )
    if down is None:
        typer.echo("The head is not trained, so no gradient travels.")
    else:
        typer.echo(f"and at most {found.gradient_error:g} (gradients, at the head's parameters).")
    which = f"those of {weights}" if weights else "first ones"
    typer.echo(f"The weights are {which}: train with it and without before you rely on it.\n")
    typer.echo(f"flows:\n  activations_up: {codec_yaml(up.codec)}")
    if down is not None:
        typer.echo(f"  gradient_down: {codec_yaml(down.codec)}")


def _table(flow: str, measured: Sequence[Measured[C]], best: Measured[C], *, all_codecs: bool) -> None:
    """Print a line for each codec, the advised one marked; by default it and those that none other beats."""
    table = Table("", flow, box=None)
    has_head = any(each.head_error is not None for each in measured)
    for name in ("bytes a sample", "fewer", "error", *(("at the head",) if has_head else ()), "encode ms"):
        table.add_column(name, justify="right")
    shown = measured if all_codecs else [*front(measured), *([] if best in front(measured) else [best])]
    for each in sorted(shown, key=lambda one: one.sample_bytes):
        errors = [each.error, *([] if each.head_error is None else [each.head_error])]
        table.add_row(
            "*" if each is best else "",
            codec_yaml(each.codec),
            f"{each.sample_bytes:,.1f}",
            f"{each.ratio:,.1f}x",
            *(f"{error:.4f}" for error in errors),
            f"{each.encode_ms:.1f}",
        )
    Console(width=None if Console().is_terminal else 140).print(table)
    typer.echo("")


def codec_yaml(codec: GradientCodec) -> str:
    """Write a codec as a scenario does."""
    return "{" + ", ".join(f"{key}: {value}" for key, value in _parameters(codec).items()) + "}"


def _parameters(codec: GradientCodec) -> dict[str, object]:
    """Give the name and those of the parameters that travel."""
    kept = fields(cast("Any", codec))[: len(codec_to_wire(codec))]
    return {field.name: getattr(codec, field.name) for field in kept}
