"""Draws the charts. What they show is worked out in rounds and words; names of others are escaped here."""

from collections.abc import Sequence
from html import escape
from itertools import cycle

import plotly.graph_objects as go

from broker.cli.wording import format_bytes, format_seconds
from server_node.summary import wire_bytes_so_far
from server_node.vocabulary.ledger import DOWN, FLOWS, U_SHAPE_FLOWS, UP
from sim.report.rounds import CAUSES, CLOSING, PHASES, WAITING, RoundTime
from sim.report.runs import Row, Run, Sweep
from sim.report.words import SECONDS, TOTAL, evaluated, held_up, pareto, sweep_points, who

# Okabe and Ito's colours, which the colour-blind can tell apart, and greys
_BLUE, _ORANGE, _GREEN, _RED, _PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
_SKY, _BLACK, _GREY, _PALE = "#56B4E9", "#222222", "#767676", "#D0D0D0"
_RUNS = (_BLUE, _RED, _GREEN, _PURPLE, _ORANGE, _SKY, _GREY)
_FLOWS = dict(zip((*FLOWS, *U_SHAPE_FLOWS), (_BLUE, _ORANGE, _SKY, _RED, _GREEN, _PURPLE), strict=True))
_PHASES = dict(
    zip(
        (*dict.fromkeys(PHASES.values()), CLOSING, WAITING),
        (_BLUE, _SKY, _ORANGE, _GREY, _GREEN, _RED, _PURPLE, _BLACK, _PALE),
        strict=True,
    )
)
_CAUSES = dict(zip(CAUSES, (_BLUE, _ORANGE, _RED, _GREEN, _BLACK, _GREY), strict=True))

_MARGIN = {"l": 10, "r": 24, "t": 56, "b": 10}
_FAR = 20  # times as much
_BAR, _LINE = 44, 24  # pixels of height


def learning(runs: Sequence[Run], *, against: str) -> go.Figure:
    """Draw the metric of runs that were evaluated against "bytes" on the wire or "time"."""
    figure = go.Figure()
    for run, colour in zip(runs, cycle(_RUNS)):
        rows = evaluated(run)
        if against == "bytes":
            x = [wire_bytes_so_far(row) / 1e6 for row in rows]
            words = [format_bytes(wire_bytes_so_far(row)) for row in rows]
        else:
            x = [row["elapsed_s"] for row in rows]
            words = [f"{format_seconds(seconds)} of {run.clock} time" for seconds in x]
        hover = [f"round {row['round']}, {text}" for row, text in zip(rows, words, strict=True)]
        figure.add_scatter(
            x=x,
            y=[row["metric"] for row in rows],
            name=escape(run.label),
            mode="lines+markers",
            showlegend=len(runs) > 1,
            line_color=colour,
            text=hover,
            hovertemplate="%{y:.3f} after %{text}",
        )
    clocks = " or ".join(sorted({run.clock for run in runs}))
    metrics = " / ".join(sorted({run.summary["metric"]["name"] for run in runs}))
    x_title = "MB on the wire, both directions" if against == "bytes" else f"seconds of {clocks} time"
    ends = [max(trace.x) for trace in figure.data]
    scale = _scale(ends)
    note = ", logarithmic" if scale == "log" else ""
    figure.update_xaxes(title=f"{x_title}{note}", rangemode="tozero", type=scale)
    figure.update_yaxes(title=escape(metrics), rangemode="tozero")
    return _styled(figure, 380)


def traffic(runs: Sequence[Run]) -> go.Figure:
    """Draw every flow's bytes up and down, on the wire and as float32, as stacked bars."""
    figure = go.Figure()
    bars = [(run, way, names, kind) for run in runs for way, names in (("up", UP), ("down", DOWN))
            for kind in ("wire", "float32")]  # fmt: skip
    labels = [f"{way}, {'on the wire' if kind == 'wire' else 'as float32'}" for _, way, _, kind in bars]
    y = [[escape(run.label) for run, *_ in bars], labels] if len(runs) > 1 else labels
    sizes = [{name: _size(run, name, kind) if name in names else 0 for name in _FLOWS}
             for run, _, names, kind in bars]  # fmt: skip
    for name, colour in _FLOWS.items():
        each = [size[name] for size in sizes]
        if not any(each):
            continue
        figure.add_bar(
            y=y,
            x=[size / 1e6 for size in each],
            name=name,
            orientation="h",
            marker_color=colour,
            text=[format_bytes(size) for size in each],
            textposition="none",
            hovertemplate="%{text}",
        )
    totals = [sum(size.values()) for size in sizes]
    figure.add_scatter(
        y=y,
        x=[total / 1e6 for total in totals],
        text=[f" {format_bytes(total)}" for total in totals],
        mode="text",
        textposition="middle right",
        cliponaxis=False,
        showlegend=False,
        hoverinfo="skip",
    )
    figure.update_layout(barmode="stack")
    figure.update_xaxes(title="MB", range=[0, 1.2 * max(totals) / 1e6 or 1])
    figure.update_yaxes(autorange="reversed")
    return _styled(figure, 130 + _BAR * len(bars))


def where_time_went(times: Sequence[RoundTime], clock: str) -> go.Figure:
    """Draw the phases of every round's critical path as stacked bars."""
    figure = go.Figure()
    rounds = [time.round for time in times]
    for phase, colour in _PHASES.items():
        seconds = [time.seconds.get(phase, 0.0) for time in times]
        if not any(seconds):
            continue
        words = [f"{format_seconds(s)}, along the path of {escape(who(t))}"
                 for s, t in zip(seconds, times, strict=True)]  # fmt: skip
        figure.add_bar(
            x=rounds, y=seconds, name=phase, marker_color=colour, text=words, textposition="none",
            hovertemplate="round %{x}: %{text}",
        )  # fmt: skip
    figure.update_layout(barmode="stack", bargap=0.15)
    figure.update_xaxes(title="round")
    figure.update_yaxes(title=f"seconds of {clock} time")
    return _styled(figure, 420)


def stragglers(times: Sequence[RoundTime]) -> go.Figure:
    """Draw who held up which round; the colour is the cause, the area the time lost."""
    late = held_up(times)
    most_s = max(time.lost_s for time in late)
    figure = go.Figure()
    for cause, colour in _CAUSES.items():
        those = [time for time in late if time.cause == cause]
        if those:
            figure.add_scatter(
                x=[time.round for time in those],
                y=[escape(who(time)) for time in those],
                name=cause,
                showlegend=True,
                mode="markers",
                marker={"color": colour, "size": [time.lost_s for time in those], "sizemode": "area",
                        "sizeref": 2 * most_s / 28**2, "sizemin": 4, "opacity": 0.85},
                text=[format_seconds(time.lost_s) for time in those],
                hovertemplate="round %{x}: %{text} lost against the median client",
            )  # fmt: skip
    names = sorted({escape(who(time)) for time in late})
    figure.update_layout(legend_itemsizing="constant")
    figure.update_xaxes(title="round", range=[times[0].round - 1, times[-1].round + 1])
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=names[::-1])
    return _styled(figure, 190 + _LINE * len(names))


def front(sweep: Sweep, cost: str) -> go.Figure:
    """Draw a sweep's points, metric against cost (TOTAL or SECONDS), and mark the front."""
    points = sweep_points(sweep)
    best = pareto(points, cost)
    unit, title = {TOTAL: (1e6, "MB on the wire, both directions"), SECONDS: (1, "seconds of virtual time")}[
        cost
    ]
    figure = go.Figure()
    for name, rows, marks in (
        ("beaten by another point", [row for row in points if row not in best], {"color": _GREY, "size": 8}),
        ("on the front", best, {"color": _RED, "size": 11, "symbol": "diamond"}),
    ):
        figure.add_scatter(
            x=[row[cost] / unit for row in rows],
            y=[row["metric.final"] for row in rows],
            name=name,
            mode="lines+markers" if rows is best else "markers",
            marker=marks,
            line={"color": _RED, "width": 1, "dash": "dot", "shape": "hv"},
            text=[_point(sweep, row) for row in rows],
            hovertemplate="%{y:.3f}<br>%{text}",
        )
    figure.update_xaxes(title=title, type=_scale([row[cost] for row in points]))
    figure.update_yaxes(title=escape(f"final {points[0].get('metric.name', 'metric')}"))
    return _styled(figure, 440)


def _point(sweep: Sweep, row: Row) -> str:
    keys = [f"{escape(key)}: {escape(str(row[key]))}" for key in sweep.keys]
    return "<br>".join([format_bytes(row[TOTAL]), *keys])


def _scale(values: Sequence[float]) -> str:
    """Choose a logarithmic axis where the small would vanish beside the large."""
    return "log" if min(values) > 0 and max(values) > _FAR * min(values) else "linear"


def _size(run: Run, flow: str, kind: str) -> int:
    size = run.summary["bytes"].get(flow)
    if size is None:
        return 0
    return size["wire"] if kind == "wire" else size["raw_float32"]


def _styled(figure: go.Figure, height: int) -> go.Figure:
    legend = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom",
              "traceorder": "normal"}  # fmt: skip
    figure.update_layout(
        template="plotly_white", height=height, margin=_MARGIN, legend=legend,
        font={"family": "system-ui, sans-serif", "size": 13, "color": "#1a1a1a"},
        hoverlabel={"namelength": -1},
    )  # fmt: skip
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    return figure
