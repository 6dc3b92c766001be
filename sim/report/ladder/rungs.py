"""Which rungs of `flows.adaptive` a run used: how many clients and bytes, over its rounds."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.axes import Axes

from broker.cli.wording import format_bytes
from server_node.summary import RungUse
from sim.report.runs import Run
from sim.statistics.axes import axis_of, plain_tick
from sim.statistics.drawing import Chart, Hovers, Key, file_name
from sim.statistics.setting_words import in_words

_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9")
"""Of the rungs, the finest first; a longer ladder begins anew."""

_MOST_STEPS = 60
"""So many steps the chart has at most: of a longer run several rounds are one step."""


@dataclass(frozen=True)
class Rungs:
    """What the page tells of a run's ladder.

    Attributes:
        reading: in words.
        chart: clients by rung, over the rounds.
        head: headings of the table.
        rows: of the table, one for each rung.
    """

    reading: str
    chart: Chart
    head: Sequence[str]
    rows: Sequence[Sequence[object]]


def rungs_of(run: Run) -> Rungs | None:
    """Tell which rungs a run used; nothing of one without `flows.adaptive`, or of an earlier version."""
    used = _used(run)
    if not used:
        return None
    names = [_name(run, number) for number in range(len(used))]
    keys = [Key(name, _colour(number), "none", "s") for number, name in enumerate(names)]
    rows = [
        (
            name,
            rung["answered"],
            rung["late"],
            format_bytes(rung["payload"]),
            format_bytes(rung["payload"] / rung["answered"]) if rung["answered"] else None,
        )
        for name, rung in zip(names, used, strict=True)
    ]
    return Rungs(
        _reading(names, used),
        Chart(file_name("rungs", run.label), "", partial(_draw, run, names), keys, 2.0),
        ("rung", "answered", "too late", "payload", "payload of a client and round"),
        rows,
    )


def _reading(names: Sequence[str], used: Sequence[RungUse]) -> str:
    answered, late = sum(rung["answered"] for rung in used), sum(rung["late"] for rung in used)
    most = max(range(len(used)), key=lambda number: used[number]["answered"])
    share = f", {used[most]['answered'] / answered:.0%} of them with rung {names[most]}" if answered else ""
    return f"{answered} updates of clients came in time{share}; {late} times an answer came too late."


def _used(run: Run) -> Sequence[RungUse]:
    """Give the counts of each rung; of a run that is not over those of its last round."""
    if "rungs" in run.summary:
        return run.summary["rungs"]
    used: list[RungUse] = []
    last = run.rows[-1] if run.rows else {}
    while (start := f"rung_{len(used)}_") + "answered" in last:
        counts = (last[start + name] for name in ("answered", "late", "payload_bytes"))
        used.append(RungUse(**dict(zip(("answered", "late", "payload"), counts, strict=True))))  # type: ignore[typeddict-item]
    return used


def _name(run: Run, number: int) -> str:
    """Say which codecs a rung names."""
    start = f"flows.adaptive.ladder.{number}."
    codecs: dict[str, dict[str, object]] = {}
    for path, value in run.scenario.items():
        flow, _, key = path.removeprefix(start).partition(".")
        if path.startswith(start) and key:  # a flow that is not named is a leaf without a value
            codecs.setdefault(flow, {})[key] = value
    said = [f"{flow.replace('_', ' ')} {in_words(codec)}" for flow, codec in codecs.items()]
    return f"{number} ({'; '.join(said) or 'the codecs of all clients'})"


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _draw(run: Run, names: Sequence[str], axes: Axes) -> Hovers:
    """Stack the clients whose updates came with each rung, as means over some rounds."""
    hovers: Hovers = {}
    rounds = np.array([0, *(row["round"] for row in run.rows)])
    places = np.unique(np.linspace(0, len(rounds) - 1, _MOST_STEPS + 1).round().astype(int))
    edges, base = rounds[places], np.zeros(len(places) - 1)
    for number, name in enumerate(names):
        so_far = np.array([0, *(row[f"rung_{number}_answered"] for row in run.rows)])
        clients = np.diff(so_far[places]) / np.diff(edges)
        axes.stairs(base + clients, edges, baseline=base, fill=True, color=_colour(number),
                    gid=f"rung-{number}")  # fmt: skip
        hovers[f"rung-{number}"] = [f"{name}: {so_far[-1]} updates, {so_far[-1] / edges[-1]:.1f} a round"]
        base = base + clients
    axis_of(axes, "y", "clients of a round", plain_tick, logarithmic=False)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xlabel("round")
    return hovers
