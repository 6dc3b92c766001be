"""Draws the charts of single runs. What they show is worked out in rounds and words."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from broker.cli.wording import format_bytes, format_ratio, format_seconds
from server_node.vocabulary.ledger import FLOWS, U_SHAPE_FLOWS
from sim.report.lanes import CLOSING, OWN_CORES, PHASES, WAITING
from sim.report.rounds import CAUSES, RoundTime
from sim.report.runs import Run
from sim.report.words import held_up, who
from sim.statistics.axes import axis_of, tick_of_bytes, tick_of_seconds
from sim.statistics.drawing import LINE, SOFT, Chart, Hovers, Key, file_name

_BLUE, _ORANGE, _GREEN, _RED, _PURPLE = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7"
_SKY, _BLACK, _GREY, _PALE = "#56b4e9", "#333333", "#767676", "#c4c7cc"
_FLOWS = dict(zip((*FLOWS, *U_SHAPE_FLOWS), (_BLUE, _ORANGE, _SKY, _RED, _GREEN, _PURPLE), strict=True))
_PHASES = dict(
    zip(
        (*dict.fromkeys(PHASES.values()), CLOSING, WAITING, OWN_CORES),
        (_BLUE, _SKY, _ORANGE, _GREY, _GREEN, _RED, _PURPLE, _BLACK, _PALE, "#f0e442"),
        strict=True,
    )
)
_CAUSES = dict(zip(CAUSES, (_BLUE, _ORANGE, _RED, _GREEN, _BLACK, _GREY), strict=True))
_MARKS = dict(zip(CAUSES, "osD^vP", strict=True))

MOST_CLIENTS = 20
"""Clients in the chart of who held up rounds: those that lost most time."""


def traffic(run: Run) -> Chart:
    """Draw every flow's bytes on the wire beside the same tensors as float32, with the ratio in numbers."""
    sent = run.summary["bytes"]
    flows = [name for name in _FLOWS if name in sent and sent[name]["wire"]]
    return Chart(
        file_name("bytes", run.label), "", partial(_draw_traffic, run, flows), (), 0.6 + 0.36 * len(flows)
    )


def _draw_traffic(run: Run, flows: Sequence[str], axes: Axes) -> Hovers:
    hovers: Hovers = {}
    for place, name in enumerate(flows):
        size = run.summary["bytes"][name]
        raw, wire = size.get("raw_float32", 0), size["wire"]
        fewer = f", {format_ratio(raw / wire)} fewer" if raw else ""
        for kind, bytes_, up, colour, text in (
            ("raw", raw, -0.2, LINE, f"{format_bytes(raw)} as float32"),
            ("wire", wire, 0.2, _FLOWS[name], f"{format_bytes(wire)}{fewer}"),
        ):
            if not bytes_:
                continue
            axes.barh(
                place + up, bytes_, 0.36, color=colour, edgecolor=SOFT, linewidth=0.4, gid=f"{kind}-{place}"
            )
            axes.annotate(
                text, (bytes_, place + up), (3, 0), textcoords="offset points", va="center", fontsize=7
            )
            hovers[f"{kind}-{place}"] = [f"{name}: {text}"]
    most = max((run.summary["bytes"][name].get("raw_float32", 0) for name in flows), default=0)
    most = max(most, *(run.summary["bytes"][name]["wire"] for name in flows), 1)
    axes.set_yticks(range(len(flows)), ["\n".join(wrap(name.replace("_", " "), 12)) for name in flows])
    axes.set_ylim(max(len(flows), 1) - 0.5, -0.5)
    axes.set_xlim(0, 1.6 * most)
    axis_of(axes, "x", "bytes of the whole run", tick_of_bytes, logarithmic=False)
    return hovers


def where_time_went(times: Sequence[RoundTime], clock: str, label: str) -> Chart:
    """Draw the phases of every round's critical path, one upon the other."""
    phases = [phase for phase in _PHASES if any(time.seconds.get(phase, 0.0) for time in times)]
    keys = [Key(phase, _PHASES[phase], "none", "s") for phase in phases]
    return Chart(
        file_name("rounds", label), "", partial(_draw_where_time_went, times, phases, clock), keys, 2.4
    )


def _draw_where_time_went(
    times: Sequence[RoundTime], phases: Sequence[str], clock: str, axes: Axes
) -> Hovers:
    hovers: Hovers = {}
    rounds = np.array([time.round for time in times])
    total_s = sum(time.duration_s for time in times)
    parts = np.split(
        np.arange(len(times)), [i + 1 for i, (a, b) in enumerate(pairwise(rounds)) if b != a + 1]
    )
    base = np.zeros(len(times))
    for number, phase in enumerate(phases):
        seconds = np.array([time.seconds.get(phase, 0.0) for time in times])
        for part in parts:
            edges = np.append(rounds[part] - 0.5, rounds[part][-1] + 0.5)
            axes.stairs(base[part] + seconds[part], edges, baseline=base[part], fill=True,
                        color=_PHASES[phase], gid=f"phase-{number}-{part[0]}")  # fmt: skip
            spent = f"{format_seconds(seconds.sum())}, {seconds.sum() / total_s:.0%}" if total_s else ""
            hovers[f"phase-{number}-{part[0]}"] = [f"{phase}: {spent} of the time of all rounds"]
        base = base + seconds
    axis_of(axes, "y", f"{clock} time of the round", tick_of_seconds, logarithmic=False)
    axes.set_xlim(rounds[0] - 0.5, rounds[-1] + 0.5)
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return hovers


def stragglers(times: Sequence[RoundTime], groups: Mapping[str, str], label: str) -> Chart:
    """Draw who held up which round; the colour is the cause, the area the time lost."""
    late = held_up(times)
    lost_s = Counter[str]()
    for time in late:
        lost_s[who(time, groups)] += time.lost_s  # type: ignore[assignment]
    names = [name for name, _ in lost_s.most_common(MOST_CLIENTS)]
    causes = [cause for cause in CAUSES if any(time.cause == cause for time in late)]
    keys = [Key(cause, _CAUSES[cause], "none", _MARKS[cause]) for cause in causes]
    draw = partial(_draw_stragglers, times, late, names, causes, groups)
    return Chart(file_name("stragglers", label), "", draw, keys, 0.7 + 0.22 * len(names))


def _draw_stragglers(
    times: Sequence[RoundTime], late: Sequence[RoundTime], names: Sequence[str], causes: Sequence[str],
    groups: Mapping[str, str], axes: Axes,
) -> Hovers:  # fmt: skip
    most_s = max(time.lost_s for time in late)
    hovers: Hovers = {}
    for cause in causes:
        those = [time for time in late if time.cause == cause and who(time, groups) in names]
        axes.scatter(
            [time.round for time in those],
            [names.index(who(time, groups)) for time in those],
            [8 + 60 * time.lost_s / most_s for time in those],
            color=_CAUSES[cause], marker=_MARKS[cause], alpha=0.8, linewidths=0, clip_on=False,
            gid=f"cause-{cause}",
        )  # fmt: skip
        hovers[f"cause-{cause}"] = [
            f"round {time.round}: {who(time, groups)} lost {format_seconds(time.lost_s)}, {cause}"
            for time in those
        ]
    axes.set_yticks(range(len(names)), ["\n".join(wrap(name, 28)) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(times[0].round - 1, times[-1].round + 1)
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return hovers
