"""Charts of settings: the metric along cost, and what a target or all rounds cost over a key of numbers."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from textwrap import shorten, wrap

from matplotlib.axes import Axes

from broker.cli.wording import format_bytes, format_seconds
from sim.statistics.comparison import Comparison
from sim.statistics.curves import Curve, costs_to_target, mean_curve, metric_at_cost, points_of
from sim.statistics.drawing import (
    SOFT,
    Chart,
    Hovers,
    Key,
    axis_of,
    file_name,
    mark_of,
    plain_tick,
    tick_of_bytes,
    tick_of_seconds,
)
from sim.statistics.estimates import VERDICT_SEEDS, Estimate
from sim.statistics.setting_words import in_words, key_in_words, keys_in_words, short_keys
from sim.statistics.trials import BYTES, METRIC, SECONDS, Setting, is_number, keys_of

_TICKS = {SECONDS: tick_of_seconds, BYTES: tick_of_bytes, METRIC: plain_tick}

MOST = 12
"""Panels of one kind on a page; there are two kinds."""

_FAR, _WIDE = 20, 5  # times as much: cost of runs on one axis, and values over a key
_SEEN = 40  # evaluations, each of which has a mark


def legend_of(comparison: Comparison) -> list[Key]:
    """Give each value of the key that is compared its colour, style and mark, in every chart."""
    return [Key(name, *mark_of(number)) for number, name in enumerate(_values(comparison))]


def _values(comparison: Comparison) -> list[str]:
    return list(dict.fromkeys(_name(setting, comparison.by) for setting in comparison.settings))


def _name(setting: Setting, by: str) -> str:
    return shorten(in_words(setting.keys.get(by, "")) if by else "the run", 80, placeholder=" ...")


def along(comparison: Comparison, what: str) -> list[Chart]:
    """Draw the metric over SECONDS or BYTES: a chart for each panel, a line and a band for each setting."""
    looks = {key.name: key for key in legend_of(comparison)}
    words = {SECONDS: "time", BYTES: "bytes"}[what]
    charts = []
    for panel in comparison.panels[:MOST]:
        if not any(trial.curve for setting in panel.settings for trial in setting.trials):
            continue
        title = keys_in_words(panel.rest)
        name = file_name(comparison.trials[0].metric_name, "over", words, _file_part(panel.rest))
        draw = partial(_draw_along, comparison, panel.settings, looks, what)
        keys = [looks[_name(setting, comparison.by)] for setting in panel.settings]
        charts.append(Chart(name, title, draw, keys))
    return charts


def _file_part(rest: Mapping[str, object]) -> str:
    short = short_keys(rest)
    return "-".join(f"{short[key]}={in_words(value)}" for key, value in rest.items())


def _draw_along(
    comparison: Comparison, settings: Sequence[Setting], looks: dict[str, Key], what: str, axes: Axes
) -> Hovers:
    """Draw means with bands from three seeds on, and thin lines of two seeds and of unfinished runs."""
    ends = [points_of(trial, what)[0] for setting in settings for trial in setting.trials if trial.curve]
    firsts = [x[0] for x in ends]
    far = min(firsts) > 0 and max(x[-1] for x in ends) > _FAR * min(x[-1] for x in ends)
    hovers: Hovers = {}
    write = format_seconds if what == SECONDS else format_bytes
    for number, setting in enumerate(settings):
        look = looks[_name(setting, comparison.by)]
        whole = [trial for trial in setting.whole if trial.curve]
        curve = mean_curve(setting, what, logarithmic=far)
        if curve is not None:
            hovers |= _draw_curve(axes, curve, look, f"mark-{number}", len(whole), write)
        thin = [trial for trial in setting.trials if trial.why and trial.curve]
        thin += whole if 1 < len(whole) < VERDICT_SEEDS else []
        for trial in thin:
            x, y = points_of(trial, what)
            axes.plot(
                x, y, color=look.colour, linewidth=0.7, linestyle=":" if trial.why else look.style, alpha=0.8
            )
    clock = comparison.trials[0].clock
    label = f"{clock} time" if what == SECONDS else "bytes on the wire, both directions"
    axes.set_ylabel(comparison.trials[0].metric_name)
    axis_of(axes, "x", label, _TICKS[what], logarithmic=far)
    if not far:
        axes.set_xlim(left=0)
    return hovers


def _draw_curve(
    axes: Axes, curve: Curve, look: Key, gid: str, seeds: int, write: Callable[[float], str]
) -> Hovers:
    if curve.low:
        axes.fill_between(curve.x, curve.low, curve.high, color=look.colour, alpha=0.18, linewidth=0)
    every = max(1, len(curve.x) // 8)
    marks = list(range(0, len(curve.x), 1 if len(curve.x) <= _SEEN and seeds == 1 else every))
    axes.plot(curve.x, curve.mean, color=look.colour, linestyle=look.style)
    axes.plot(
        [curve.x[i] for i in marks], [curve.mean[i] for i in marks],
        color=look.colour, marker=look.mark, linestyle="none", gid=gid,
    )  # fmt: skip
    return {gid: [f"{look.name}: {curve.mean[i]:.3f} after {write(curve.x[i])}" for i in marks]}


def number_axis(comparison: Comparison) -> str | None:
    """Choose the key of numbers to draw costs over: the one with the most values; None if there is none."""
    settings = comparison.settings
    numbers = {key: len({setting.keys.get(key) for setting in settings}) for key in keys_of(settings)
               if is_number(settings, key)}  # fmt: skip
    return (
        max(numbers, key=lambda key: numbers[key], default=None)
        if max(numbers.values(), default=0) > 1
        else None
    )


def over_number(
    comparison: Comparison, key: str, target: float | None, at_s: float | None = None
) -> list[Chart]:
    """Draw over a key that is a number: what the target costs and the metric, or all rounds if untrained."""
    kinds = {"seconds": SECONDS}
    if comparison.what == METRIC:
        kinds = {"seconds-to-target": SECONDS, "bytes-to-target": BYTES, "metric": METRIC}
    charts = []
    lines = _lines_over(comparison, key)
    for rest_words, of_line in lines.items():
        keys = [look for look in legend_of(comparison) if look.name in of_line]
        for kind, what in kinds.items():
            draw = partial(_draw_over, comparison, key, of_line, kind, what, target, at_s)
            name = file_name(kind, "over", short_keys(keys_of(comparison.settings))[key], rest_words)
            charts.append(Chart(name, rest_words, draw, keys))
    return charts[: 3 * MOST]


def _lines_over(comparison: Comparison, key: str) -> dict[str, dict[str, list[Setting]]]:
    """Group settings by the keys that are neither axis nor line, and then by line."""
    groups: dict[str, dict[str, list[Setting]]] = {}
    for setting in comparison.settings:
        rest = {name: value for name, value in setting.keys.items() if name not in (key, comparison.by)}
        line = "" if comparison.by == key else _name(setting, comparison.by)
        groups.setdefault(keys_in_words(rest), {}).setdefault(line, []).append(setting)
    return groups


def _draw_over(
    comparison: Comparison, key: str, lines: dict[str, list[Setting]], kind: str, what: str,
    target: float | None, at_s: float | None, axes: Axes,
) -> Hovers:  # fmt: skip
    looks = {look.name: look for look in legend_of(comparison)}
    hovers: Hovers = {}
    means: list[float] = []
    xs: list[float] = []
    write = {SECONDS: format_seconds, BYTES: format_bytes, METRIC: "{:.3g}".format}[what]
    for number, (name, settings) in enumerate(lines.items()):
        look = looks.get(name) or Key(name, *mark_of(0))
        values = [(float(str(each.keys[key])), _value(each, kind, what, target, at_s)) for each in settings]
        known = sorted(((x, of) for x, of in values if of is not None), key=lambda each: each[0])
        if not known:
            continue
        x, estimates = [each[0] for each in known], [each[1] for each in known]
        y = [each.mean for each in estimates]
        axes.plot(x, y, color=look.colour, linestyle=look.style)
        axes.plot(x, y, color=look.colour, marker=look.mark, linestyle="none", gid=f"mark-{number}")
        if all(each.n >= VERDICT_SEEDS for each in estimates):
            low = [each.low if each.low is not None else each.mean for each in estimates]
            high = [each.high if each.high is not None else each.mean for each in estimates]
            floor = min(y) / 10 if what != METRIC else min(low)
            axes.fill_between(
                x, [max(each, floor) for each in low], high, color=look.colour, alpha=0.18, linewidth=0
            )
        hovers[f"mark-{number}"] = [
            f"{name + ': ' if name else ''}{write(b)} at {a:g}" for a, b in zip(x, y, strict=True)
        ]
        means += y
        xs += x
    label = {
        "seconds": f"{comparison.trials[0].clock} time",
        "seconds-to-target": f"{comparison.trials[0].clock} time to {target or 0:.3g}",
        "bytes-to-target": f"bytes to {target or 0:.3g}",
        "metric": comparison.trials[0].metric_name
        + ("" if at_s is None else f" after {format_seconds(at_s)}"),
    }[kind]
    axis_of(axes, "x", key_in_words(key, keys_of(comparison.settings)), plain_tick, logarithmic=_wide(xs))
    axis_of(axes, "y", label, _TICKS[what], logarithmic=what != METRIC and _wide(means))
    if not means:
        axes.text(
            0.5,
            0.5,
            "no setting reached it with every seed",
            transform=axes.transAxes,
            ha="center",
            color=SOFT,
        )
    return hovers


def _wide(values: Sequence[float]) -> bool:
    return bool(values) and min(values) > 0 and max(values) > _WIDE * min(values)


def _value(
    setting: Setting, kind: str, what: str, target: float | None, at_s: float | None
) -> Estimate | None:
    if kind == "metric":
        return setting.estimate(METRIC) if at_s is None else metric_at_cost(setting, SECONDS, at_s)
    if kind == "seconds" or target is None:
        return setting.estimate(what)
    return costs_to_target(setting, what, target)[0]


def side_by_side(comparison: Comparison, target: float | None, at_s: float | None) -> list[Chart]:
    """Draw settings below each other: what the target costs, and the metric at equal time, with intervals."""
    kinds: dict[str, tuple[str, str]] = {
        "seconds": (SECONDS, f"{comparison.trials[0].clock} time of all rounds")
    }
    if comparison.what == METRIC:
        metric = comparison.trials[0].metric_name
        kinds = {
            "metric": (METRIC, metric if at_s is None else f"{metric} after {format_seconds(at_s)}"),
            "seconds-to-target": (
                SECONDS,
                f"{comparison.trials[0].clock} time to {metric} {target or 0:.3g}",
            ),
            "bytes-to-target": (BYTES, f"bytes to {metric} {target or 0:.3g}"),
        }
    charts = []
    for panel in comparison.panels[:MOST]:
        for kind, (what, label) in kinds.items():
            draw = partial(_draw_side_by_side, comparison, panel.settings, kind, what, label, target, at_s)
            height = 0.7 + sum(0.14 * _rows(_name(each, comparison.by)) + 0.08 for each in panel.settings)
            name = file_name(kind, "side-by-side", _file_part(panel.rest))
            charts.append(Chart(name, keys_in_words(panel.rest), draw, (), height))
    return charts


_LABEL = 24  # characters in a line of an axis


def _rows(name: str) -> int:
    return len(wrap(name, _LABEL)) or 1


def _draw_side_by_side(
    comparison: Comparison, settings: Sequence[Setting], kind: str, what: str, label: str,
    target: float | None, at_s: float | None, axes: Axes,
) -> Hovers:  # fmt: skip
    looks = {look.name: look for look in legend_of(comparison)}
    write = {SECONDS: format_seconds, BYTES: format_bytes, METRIC: "{:.3g}".format}[what]
    missing = "not evaluated by then" if kind == "metric" else "not reached with every seed"
    hovers: Hovers = {}
    values = [_value(setting, kind, what, target, at_s) for setting in settings]
    known = [each.mean for each in values if each is not None]
    far = what != METRIC and _wide(known)
    for place, (setting, of) in enumerate(zip(settings, values, strict=True)):
        look = looks[_name(setting, comparison.by)]
        if of is None:
            axes.text(
                0.02,
                place,
                missing,
                transform=axes.get_yaxis_transform(),
                va="center",
                color=SOFT,
            )
            continue
        if of.n >= VERDICT_SEEDS and of.low is not None and of.high is not None:
            axes.plot(
                [max(of.low, of.mean / 10) if far else of.low, of.high], [place, place], color=look.colour
            )
        axes.plot(
            [of.mean], [place], color=look.colour, marker=look.mark, linestyle="none", gid=f"mark-{place}"
        )
        axes.annotate(
            write(of.mean), (of.mean, place), (0, 4), textcoords="offset points", ha="center", fontsize=7
        )
        hovers[f"mark-{place}"] = [f"{look.name}: {write(of.mean)}, {of.n} seeds"]
    names = ["\n".join(wrap(_name(setting, comparison.by), _LABEL)) for setting in settings]
    axes.set_yticks(range(len(settings)), names)
    axes.set_ylim(len(settings) - 0.5, -0.7)
    axes.margins(x=0.15)
    if what != METRIC and not far:
        axes.set_xlim(left=0)
    axis_of(axes, "x", label, _TICKS[what], logarithmic=far)
    return hovers
