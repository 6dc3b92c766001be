"""Joins charts, words and tables to one page that needs nothing from anywhere else."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from broker.cli.wording import format_bytes, format_seconds
from broker.files import atomic_write, writing
from server_node.summary import total_wire_bytes
from sim.report import charts, words
from sim.report.rounds import RoundTime, round_times
from sim.report.runs import Run, Sweep, read_all

WORST = 10
"""Rows of the table of stragglers."""


@dataclass(frozen=True)
class Table:
    """Rows of cells below a row of headings; None is shown as a dash."""

    head: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True)
class Section:
    """A part of the page: a title, what it says in words, charts, a table."""

    title: str
    readings: Sequence[str]
    figures: Sequence[go.Figure] = ()
    table: Table | None = None
    how: str = field(default="")


def write_report(folders: Sequence[Path], out: Path | None) -> Path:
    """Write the page about runs and sweeps.

    Args:
        folders: of runs and sweeps.
        out: the file; by default report.html, in the folder if there is one, else here.

    Returns:
        Where it is.

    Raises:
        ReportError: a folder lacks a file, or holds one that cannot be read.
        RunError: the page cannot be written.
    """
    runs, sweeps = read_all(folders)
    file = out or (folders[0] if len(folders) == 1 else Path()) / "report.html"
    page = render(runs, sweeps)
    with writing(file), atomic_write(file) as part:
        part.write_text(page, encoding="utf-8")
    return file


def render(runs: Sequence[Run], sweeps: Sequence[Sweep]) -> str:
    """Make the page's HTML; the same runs give the same page."""
    sections = [*_of_all(runs)] if runs else []
    for run in runs:
        sections += _of_one(run, alone=len(runs) == 1)
    sections += [_sweep(sweep) for sweep in sweeps]
    names = [run.label for run in runs] + [sweep.folder.resolve().name for sweep in sweeps]
    source = files("sim.report").joinpath("template.html").read_text(encoding="utf-8")
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return page.from_string(source).render(
        title=", ".join(names),
        natures=[*map(words.nature, runs), *map(words.sweep_nature, sweeps)],
        sections=sections,
        drawn=_drawn,
        plotly=Markup(get_plotlyjs()),  # noqa: S704  the library's own text
    )


def _drawn(figure: go.Figure, name: str) -> Markup:
    html = figure.to_html(
        full_html=False, include_plotlyjs=False, div_id=name, default_height="auto",
        config={"displaylogo": False, "responsive": True, "modeBarButtons": [["resetScale2d", "toImage"]]},
    )  # fmt: skip
    return Markup(html)  # noqa: S704  plotly escapes its JSON, charts escapes names


def _of_all(runs: Sequence[Run]) -> list[Section]:
    several = len(runs) > 1
    metric = " or ".join(sorted({run.summary["metric"]["name"] for run in runs}))
    race = words.race(runs)
    readings = [_named(run, words.learning(run), alone=not several) for run in runs]
    scored = [run for run in runs if words.evaluated(run)]
    curves = [charts.learning(scored, against=against) for against in ("bytes", "time") if scored]
    sections = [
        Section(
            f"What did {metric} cost, in bytes and in time?",
            [race, *readings] if race else readings,
            curves,
        ),
        Section(
            "Which way did the bytes go?",
            [_named(run, words.traffic(run), alone=not several) for run in runs],
            [charts.traffic(runs)],
        ),
    ]
    return [*sections, _comparison(runs)] if several else sections


def _of_one(run: Run, *, alone: bool) -> list[Section]:
    tail = "?" if alone else f" in {run.label}?"
    if run.trace is None:
        why = (
            f"{run.folder / 'trace.json'} is missing, so nothing can be said about single rounds. "
            "It is written when a run ends; older versions of fedlite run wrote none."
        )
        return [Section(f"Where did the time go{tail}", [why])]
    times = round_times(
        run.trace,
        run.rows,
        virtual_s=run.summary["virtual_seconds"],
        overlapping=run.scenario.get("stragglers.policy") == "buffered",
    )
    if not times:
        return [Section(f"Where did the time go{tail}", ["No round can be found on the trace."])]
    cut = words.cut_off(run, times)
    late = words.held_up(times)
    return [
        Section(
            f"Where did each round's time go{tail}",
            [words.where_time_went(times), *([cut] if cut else [])],
            [charts.where_time_went(times, run.clock)],
            how="Each bar follows the client that finished last: what it was doing, moment by moment. "
            "Closing is the server's: averages and evaluation. Waiting is when nothing was on its lane: "
            "it was away, its machine was busy with others (live), or the round waited for somebody who is "
            "not on the trace.",
        ),
        Section(
            f"Who held up which round{tail}",
            [words.stragglers(times), *([cut] if cut else [])],
            [charts.stragglers(times)] if late else (),
            _worst(late) if late else None,
            how="Time lost is how much later than the median of the others this client finished (of a client "
            "that is not on the trace: how much later than the last answer); the cause is what it spent most "
            "of that on."
            if late
            else "",
        ),
    ]


def _worst(late: Sequence[RoundTime]) -> Table:
    rows = [
        (
            time.round,
            words.who(time),
            time.cause,
            format_seconds(time.lost_s),
            format_seconds(time.duration_s),
            None if time.client is None else "yes" if time.answered else "no",
            time.missing,
        )
        for time in late[:WORST]
    ]
    head = ("round", "held up by", "cause", "time lost", "round took", "answered in time", "others missing")
    return Table(head, rows)


def _comparison(runs: Sequence[Run]) -> Section:
    """Hold the figures of several runs against each other, and the keys in which they differ."""
    keys = dict.fromkeys(key for run in runs for key in run.scenario if key != "name")
    differing = [key for key in keys if len({repr(run.scenario.get(key)) for run in runs}) > 1]
    rows: list[list[object]] = [[name, *(value(run) for run in runs)] for name, value in _FIGURES.items()]
    rows += [[key, *(run.scenario.get(key) for run in runs)] for key in differing]
    if differing:
        reading = f"Settings in which the scenarios differ: {len(differing)}. They are the last rows."
    else:
        reading = "The scenarios do not differ in any setting but the name."
    return Section("What differs?", [reading], table=Table(["", *(run.label for run in runs)], rows))


def _score(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


_FIGURES: dict[str, Any] = {
    "final metric": lambda run: _score(run.summary["metric"]["final"]),
    "best metric": lambda run: _score(run.summary["metric"]["best"]),
    "rounds": lambda run: run.summary["rounds"],
    "client steps": lambda run: run.summary["client_steps"],
    "bytes, both directions": lambda run: format_bytes(total_wire_bytes(run.summary)),
    "bytes per client": lambda run: format_bytes(total_wire_bytes(run.summary) / run.summary["clients"]),
    "duration": lambda run: f"{format_seconds(run.rows[-1]['elapsed_s'])} ({run.clock})",
    "ended": lambda run: run.summary["reason"],
}


def _sweep(sweep: Sweep) -> Section:
    columns = (*sweep.keys, "metric", "bytes", "seconds", "run")
    rows = [
        (
            *(row[key] for key in sweep.keys),
            _score(row.get("metric.final")),
            format_bytes(words.total_bytes(row)) if row.get("error") is None else None,
            None if row.get("virtual_seconds") is None else f"{row['virtual_seconds']:.1f}",
            row["run"] if row.get("error") is None else f"{row['run']}: {row['error']}",
        )
        for row in sweep.rows
    ]
    return Section(
        f"Which points of {sweep.folder.resolve().name} are worth their bytes, and which their time?",
        [words.sweep_front(sweep)],
        [charts.front(sweep, cost) for cost in (words.TOTAL, words.SECONDS) if words.sweep_points(sweep)],
        Table(columns, rows),
        how="A point on the front has a better metric than every other one that cost as little or less.",
    )


def _named(run: Run, text: str, *, alone: bool) -> str:
    return text if alone else f"{run.label}: {text}"
