"""What stands on the page: its parts, each a question that words, charts and tables answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from broker.cli.wording import format_bytes, format_seconds
from server_node.summary import total_link_bytes
from sim.report import charts, words
from sim.report.compared import Compared
from sim.report.ladder.rungs import rungs_of
from sim.report.rounds import RoundTime, round_times
from sim.report.runs import Run
from sim.report.trials import differing_keys
from sim.statistics.comparison import cells, head_of, how_compared, in_one_sentence
from sim.statistics.drawing import Chart, Key
from sim.statistics.setting_words import in_words

WORST = 10
"""Rows of the table of stragglers."""


@dataclass(frozen=True)
class Table:
    """Rows of cells below a row of headings; None is shown as a dash."""

    head: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True)
class Section:
    """A part of the page: a title, what it says in words, charts with one legend, tables."""

    title: str
    readings: Sequence[str]
    charts: Sequence[Chart] = ()
    keys: Sequence[Key] = ()
    tables: Sequence[Table] = ()
    how: str = ""


def of_runs(runs: Sequence[Run], compared: Compared) -> list[Section]:
    """Tell of runs that were given one by one: of all together, then of each."""
    alone = len(runs) == 1
    of_each = (part for run in runs for of in (_of_ladder, _of_one) for part in of(run, alone=alone))
    return [*_of_all(runs, compared), *of_each]


def _of_all(runs: Sequence[Run], compared: Compared) -> list[Section]:
    several = len(runs) > 1
    readings = [_named(run, words.learning(run), alone=not several) for run in runs]
    metric = " or ".join(sorted({run.summary["metric"]["name"] for run in runs}))
    sections = [
        Section(
            f"What did {metric} cost, in bytes{' and in time' * any(run.takes_time for run in runs)}?",
            readings,
            compared.along,
            compared.keys,
            how=compared.how if compared.along else "",
        )
    ]
    if several:
        sections += _costs(compared)
    sections.append(
        Section(
            "Which way did the bytes go?",
            [_named(run, words.traffic(run), alone=not several) for run in runs],
            [charts.traffic(run) for run in runs],
        )
    )
    return [*sections, _differences(runs)] if several else sections


def of_settings(compared: Compared) -> list[Section]:
    """Answer what a sweep asks."""
    comparison = compared.comparison
    if not compared.along:
        return _costs(compared)
    told = in_one_sentence(comparison)
    return [
        Section(
            compared.title,
            [told] if told else [],
            compared.along,
            compared.keys,
            how=compared.how,
        ),
        *_costs(compared),
    ]


def _costs(compared: Compared) -> list[Section]:
    comparison = compared.comparison
    tables = [Table(head_of(comparison), cells(comparison))]
    if compared.trained:
        tables.append(Table(*compared.cost_table()))
    lost = [f"{trial.run}: {trial.why}" for trial in comparison.trials if trial.why]
    readings = compared.cost_sentences() if compared.trained else [in_one_sentence(comparison)]
    if lost:
        more = " and more" if len(lost) > WORST else ""
        readings.append(f"Not counted: {'; '.join(lost[:WORST])}{more}.")
    readings = [text for text in readings if text]
    how = how_compared(comparison)
    return [Section(compared.cost_title(), readings, compared.costs, compared.keys, tables, how)]


def _of_ladder(run: Run, *, alone: bool) -> list[Section]:
    rungs = rungs_of(run)
    if rungs is None:
        return []
    return [
        Section(
            f"Which rungs of the ladder did clients get{'' if alone else f' in {run.label}'}?",
            [rungs.reading],
            [rungs.chart],
            rungs.chart.keys,
            [Table(rungs.head, rungs.rows)],
            how="A rung is chosen anew for each client and round, the finest with which it is expected to be "
            "in time. Payload is that of all messages, both ways, that were answered.",
        )
    ]


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
        one_machine=run.one_machine,
    )
    if not times:
        return [Section(f"Where did the time go{tail}", [words.no_rounds(run)])]
    cut = words.cut_off(run, times)
    cores = words.own_cores(times)
    late = words.held_up(times)
    path = charts.where_time_went(times, run.clock, run.label)
    held = [charts.stragglers(times, run.groups, run.label)] if late else []
    return [
        Section(
            f"Where did each round's time go{tail}",
            [words.where_time_went(times), *([cut] if cut else [])],
            [path],
            path.keys,
            how="Each round follows the client that finished last: what it was doing, moment by moment. "
            "Closing is the server's: averages and evaluation. Waiting is when nothing was on its lane: "
            "it was away, or the round waited for somebody who is not on the trace."
            + (
                " Waiting for a core: this machine runs all clients, and was busy with others."
                if cores
                else ""
            ),
        ),
        Section(
            f"Who held up which round{tail}",
            [words.stragglers(times, run.groups), *([cores] if cores else []), *([cut] if cut else [])],
            held,
            held[0].keys if held else (),
            [_by_group(late, run.groups), _worst(late, run.groups)] if late else (),
            how="Time lost is how much later than the median of the others this client finished (of a client "
            "that is not on the trace: how much later than the last answer); the cause is what it spent most "
            "of that on. The larger a mark, the more was lost."
            if late
            else "",
        ),
    ]


def _by_group(late: Sequence[RoundTime], groups: Mapping[str, str]) -> Table:
    """Sum up what the groups of the fleet have lost."""
    lost_s: dict[str, list[float]] = {}
    for time in late:
        name = groups.get(time.client or "", "") or ("not known" if time.client is None else "all alike")
        lost_s.setdefault(name, []).append(time.lost_s)
    rows = sorted(lost_s.items(), key=lambda each: sum(each[1]), reverse=True)
    return Table(
        ("group of the fleet", "rounds held up", "time lost"),
        [(name, len(each), format_seconds(sum(each))) for name, each in rows],
    )


def _worst(late: Sequence[RoundTime], groups: Mapping[str, str]) -> Table:
    rows = [
        (
            time.round,
            words.who(time, groups),
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


def _differences(runs: Sequence[Run]) -> Section:
    """Hold the figures of several runs against each other, and the keys in which they differ."""
    differing = differing_keys([run.scenario for run in runs])
    rows: list[list[object]] = [[name, *(value(run) for run in runs)] for name, value in _FIGURES.items()]
    rows += [[key, *(in_words(run.scenario.get(key)) for run in runs)] for key in differing]
    if differing:
        reading = (
            f"The scenarios differ in {len(differing)} settings besides the seed, which are the last rows."
        )
    else:
        reading = "The scenarios do not differ in any setting but name and seed."
    return Section("What differs?", [reading], tables=[Table(["", *(run.label for run in runs)], rows)])


def _score(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


def _size(size_bytes: int | None) -> str | None:
    return None if size_bytes is None else format_bytes(size_bytes)


_FIGURES: dict[str, Any] = {
    "final metric": lambda run: _score(run.summary["metric"]["final"]),
    "best metric": lambda run: _score(run.summary["metric"]["best"]),
    "seed": lambda run: run.seed,
    "rounds": lambda run: run.summary["rounds"],
    "client steps": lambda run: run.summary["client_steps"],
    "bytes, both directions": lambda run: format_bytes(run.total_bytes),
    "bytes on the devices' links": lambda run: _size(total_link_bytes(run.summary)),
    "bytes per client": lambda run: format_bytes(run.total_bytes / run.summary["clients"]),
    "duration": lambda run: f"{format_seconds(run.rows[-1]['elapsed_s'])} ({run.clock})",
    "ended": lambda run: run.summary["reason"],
}


def _named(run: Run, text: str, *, alone: bool) -> str:
    return text if alone else f"{run.label}: {text}"
