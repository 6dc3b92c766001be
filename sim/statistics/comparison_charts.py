"""Charts of settings: the metric along cost, and what a target or all rounds cost over a key of numbers."""

from collections.abc import Mapping, Sequence
from functools import partial
from textwrap import shorten, wrap

from matplotlib.axes import Axes

from broker.cli.wording import format_bytes, format_seconds
from sim.statistics.axes import axis_of, plain_tick, tick_of_bytes, tick_of_seconds
from sim.statistics.comparison import Comparison
from sim.statistics.curves import costs_to_target, metric_at_cost
from sim.statistics.drawing import SOFT, Chart, Hovers, Key, file_name, mark_of
from sim.statistics.estimates import VERDICT_SEEDS, Estimate
from sim.statistics.setting_words import in_words, key_in_words, keys_in_words, short_keys
from sim.statistics.trials import BYTES, METRIC, SECONDS, Setting, is_number, keys_of

TICKS = {SECONDS: tick_of_seconds, BYTES: tick_of_bytes, METRIC: plain_tick}

MOST = 12
"""Panels of one kind of chart on a page."""

_WIDE = 5  # times as much


def legend_of(comparison: Comparison) -> list[Key]:
    """Give each value of the key that is compared its colour, style and mark, in every chart."""
    return [Key(name, *mark_of(number)) for number, name in enumerate(_values(comparison))]


def _values(comparison: Comparison) -> list[str]:
    return list(dict.fromkeys(name_of(setting, comparison.by) for setting in comparison.settings))


def name_of(setting: Setting, by: str) -> str:
    """Name a setting by its value of the key that is compared."""
    return shorten(in_words(setting.keys.get(by, "")) if by else "the run", 80, placeholder=" ...")


def metric_of(settings: Sequence[Setting]) -> str:
    """Name the metric of settings, which have the same."""
    return settings[0].trials[0].metric_name


def file_part(rest: Mapping[str, object]) -> str:
    """Write the keys that a chart's settings have in common as a part of its file's name."""
    short = short_keys(rest)
    return "-".join(f"{short[key]}={in_words(value)}" for key, value in rest.items())


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
        to_target = {"seconds-to-target": SECONDS, "bytes-to-target": BYTES}
        kinds = {**(to_target if target is not None else {}), "metric": METRIC}
    charts = []
    lines = _lines_over(comparison, key)
    for kind, what in kinds.items():
        for rest_words, of_line in list(lines.items())[:MOST]:
            keys = [look for look in legend_of(comparison) if look.name in of_line]
            draw = partial(_draw_over, comparison, key, of_line, kind, what, target, at_s)
            name = file_name(kind, "over", short_keys(keys_of(comparison.settings))[key], rest_words)
            charts.append(Chart(name, rest_words, draw, keys))
    return charts


def _lines_over(comparison: Comparison, key: str) -> dict[str, dict[str, list[Setting]]]:
    """Group settings by the keys that are neither axis nor line, and then by line."""
    groups: dict[str, dict[str, list[Setting]]] = {}
    for setting in comparison.settings:
        rest = {name: value for name, value in setting.keys.items() if name not in (key, comparison.by)}
        line = "" if comparison.by == key else name_of(setting, comparison.by)
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
            low = [max(each, floor) for each in low]
            axes.fill_between(x, low, high, color=look.colour, alpha=0.18, linewidth=0)
            if len(x) == 1:  # of which no band can be seen
                axes.vlines(x, low, high, color=look.colour)
        hovers[f"mark-{number}"] = [
            f"{name + ': ' if name else ''}{write(b)} at {a:g}" for a, b in zip(x, y, strict=True)
        ]
        means += y
        xs += x
    label = {
        "seconds": f"{comparison.clock} time",
        "seconds-to-target": f"{comparison.clock} time to {target or 0:.3g}",
        "bytes-to-target": f"bytes to {target or 0:.3g}",
        "metric": metric_of([each for line in lines.values() for each in line])
        + ("" if at_s is None else f" after {format_seconds(at_s)}"),
    }[kind]
    axis_of(axes, "x", key_in_words(key, keys_of(comparison.settings)), plain_tick, logarithmic=_wide(xs))
    axis_of(axes, "y", label, TICKS[what], logarithmic=what != METRIC and _wide(means))
    if not means:
        axes.text(
            0.5,
            0.5,
            "not evaluated by then" if kind == "metric" else "no setting reached it with every seed",
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
    kinds: dict[str, tuple[str, str]] = {"seconds": (SECONDS, f"{comparison.clock} time of all rounds")}
    if comparison.what == METRIC:
        metric = comparison.metric_name
        kinds = {
            "metric": (METRIC, metric if at_s is None else f"{metric} after {format_seconds(at_s)}"),
            "seconds-to-target": (
                SECONDS,
                f"{comparison.clock} time to {metric} {target or 0:.3g}",
            ),
            "bytes-to-target": (BYTES, f"bytes to {metric} {target or 0:.3g}"),
        }
    if target is None:
        kinds = {kind: each for kind, each in kinds.items() if not kind.endswith("target")}
    charts = []
    for kind, (what, label) in kinds.items():
        for panel in comparison.panels[:MOST]:
            draw = partial(_draw_side_by_side, comparison, panel.settings, kind, what, label, target, at_s)
            height = 0.7 + sum(0.14 * _rows(name_of(each, comparison.by)) + 0.08 for each in panel.settings)
            name = file_name(kind, "side-by-side", file_part(panel.rest))
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
        look = looks[name_of(setting, comparison.by)]
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
    names = ["\n".join(wrap(name_of(setting, comparison.by), _LABEL)) for setting in settings]
    axes.set_yticks(range(len(settings)), names)
    axes.set_ylim(len(settings) - 0.5, -0.7)
    axes.margins(x=0.15)
    if what != METRIC and not far:
        axes.set_xlim(left=0)
    axis_of(axes, "x", label, TICKS[what], logarithmic=far)
    return hovers
