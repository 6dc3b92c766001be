"""The commands `fedlite links list`, `convert`, `make` and `plot`."""

from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.table import Table

from broker.cli.console import command
from broker.files import atomic_write, writing
from scenarios.errors import ScenarioError, suggestion
from scenarios.schema.base import without_defaults
from scenarios.schema.links import LINKS, GilbertElliott, Link
from scenarios.text_files import read_text
from sim.network.links.importing.converters import SETTINGS, joined, mobile_log, rates_of
from sim.network.links.importing.generators import GENERATORS
from sim.network.links.importing.writing import as_csv
from sim.network.links.traces import Trace, read_trace, shipped_traces

app = typer.Typer(
    help="List, convert, make and draw links: presets, and traces of links that change as time goes.",
    no_args_is_help=True,
    add_completion=False,
)
To = Annotated[Path, typer.Option(metavar="FILE", help="The trace to write, a .csv file.")]


@app.command("list")
@command
def list_links() -> None:
    """List the presets of links and the shipped traces."""
    table = Table("preset", "up, kbit/s", "down, kbit/s", "latency, ms", "loss", "source", box=None)
    for name, link in LINKS.items():
        rates = (str(rate or "unlimited") for rate in (link.uplink_kbps, link.downlink_kbps))
        table.add_row(name, *rates, f"{link.latency_ms:g}", _loss(link), link.source)
    traces = Table("trace", "seconds", "what it is like", box=None)
    for name in shipped_traces():
        traces.add_row(name, f"{read_trace(name).length_s:g}", GENERATORS[name].question)
    Console().print(table, traces, sep="\n\n")


@app.command()
@command
def convert(
    file: Annotated[
        Path,
        typer.Argument(help="Rates down, or a phone's log of both ways; or another tool's settings."),
    ],
    up: Annotated[Path | None, typer.Option(metavar="FILE", help="Rates up, in the same form.")] = None,
    to: Annotated[Path | None, typer.Option(metavar="FILE", help="The trace to write, a .csv file.")] = None,
    settings: Annotated[
        str | None, typer.Option(metavar="TOOL", help=f"FILE has settings of: {', '.join(SETTINGS)}.")
    ] = None,
    every_s: Annotated[
        float,
        typer.Option("--every", min=0.001, metavar="SECONDS", help="Step of counting packets."),
    ] = 0.1,
) -> None:
    """Turn a recording of a link into a trace, or another tool's settings into a link.

    FILE may have Mahimahi's milliseconds, lines of seconds and Mbit/s, the six columns of the HSDPA logs, or
    be the CSV of a phone (Timestamp, DL_bitrate, UL_bitrate). With --settings the link is printed as YAML.
    """
    if settings is not None:
        if settings not in SETTINGS:
            near = suggestion(settings, SETTINGS, label="known")
            raise ScenarioError(f"--settings: unknown tool '{settings}'{near}")
        link = SETTINGS[settings](read_text(file))
        typer.echo(yaml.safe_dump({"link": without_defaults(link)}, sort_keys=False), nl=False)
        return
    if to is None:
        raise ScenarioError("--to: name the .csv file to write")
    header = read_text(file).split("\n", 1)[0]
    if "DL_bitrate" in header:
        if up is not None:
            raise ScenarioError(f"--up: {file} has the rates of both directions")
        _write(to, as_csv(mobile_log(file)))
    else:
        _write(to, as_csv(joined([] if up is None else rates_of(up, every_s), rates_of(file, every_s))))


@app.command()
@command
def make(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(GENERATORS)}.")],
    to: To,
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives another trace of its kind.")] = 0,
) -> None:
    """Make a trace by the rules of a shipped one, which is that of seed 0."""
    if name not in GENERATORS:
        raise ScenarioError(f"no rules for '{name}'{suggestion(name, GENERATORS, label='known')}")
    _write(to, as_csv(GENERATORS[name].rows(seed)))


@app.command()
@command
def plot(
    trace: Annotated[str, typer.Argument(help="A .csv file, or the name of a shipped trace.")],
    to: Annotated[Path, typer.Option(metavar="FILE", help="An .svg, .png or .pdf file to write.")],
) -> None:
    """Draw a trace."""
    read = read_trace(trace)
    if to.suffix not in {".svg", ".png", ".pdf"}:
        raise ScenarioError(f"--to: {to}: must end in .svg, .png or .pdf")
    try:
        from sim.network.links.importing.plot import draw  # noqa: PLC0415  matplotlib is an extra
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        raise ScenarioError("drawing needs matplotlib: pip install 'fedlite-mqtt[plots]'") from None
    with writing(to):
        draw(read, Path(trace).stem, to)
    typer.echo(f"wrote {to}")


def _write(file: Path, text: str) -> None:
    """Write a trace; one that no run could use leaves the file as it was."""
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as part:
            part.write_text(text, encoding="utf-8")
            trace = _read_as(part.resolve(), file)
    typer.echo(f"wrote {file}: {len(trace.states)} rows, {trace.length_s:g} s")


def _read_as(part: Path, file: Path) -> Trace:
    """Read what will be `file`, and call it so."""
    read_trace.cache_clear()
    try:
        return read_trace(str(part))
    except ScenarioError as error:
        raise ScenarioError(str(error).replace(str(part), str(file))) from None


def _loss(link: Link) -> str:
    return "in bursts" if isinstance(link.loss, GilbertElliott) else f"{100 * link.loss:g} %"
