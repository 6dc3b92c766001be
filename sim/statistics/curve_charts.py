"""Charts of the metric along cost: a line and a band for each setting."""

from collections.abc import Callable, Sequence
from functools import partial

from matplotlib.axes import Axes

from broker.cli.wording import format_bytes, format_seconds
from sim.statistics.axes import axis_of
from sim.statistics.comparison import Comparison
from sim.statistics.comparison_charts import MOST, TICKS, file_part, legend_of, metric_of, name_of
from sim.statistics.curves import Curve, mean_curve, points_of
from sim.statistics.drawing import Chart, Hovers, Key, file_name
from sim.statistics.estimates import VERDICT_SEEDS
from sim.statistics.setting_words import keys_in_words
from sim.statistics.trials import BYTES, SECONDS, Setting

_FAR = 20  # times as much
_SEEN = 40  # evaluations, each of which has a mark


def along(comparison: Comparison) -> list[Chart]:
    """Draw the metric over seconds and over bytes: two charts a panel, a line and a band for each setting.

    Where links and devices take no time there is no chart over seconds.
    """
    looks = {key.name: key for key in legend_of(comparison)}
    charts = []
    for panel in comparison.panels[:MOST]:
        trials = [trial for setting in panel.settings for trial in setting.trials if trial.curve]
        for what, words in ((SECONDS, "time"), (BYTES, "bytes")):
            if not any(points_of(trial, what)[0][-1] for trial in trials):
                continue
            title = keys_in_words(panel.rest)
            name = file_name(metric_of(panel.settings), "over", words, file_part(panel.rest))
            draw = partial(_draw_along, comparison, panel.settings, looks, what)
            keys = [looks[name_of(setting, comparison.by)] for setting in panel.settings]
            charts.append(Chart(name, title, draw, keys))
    return charts


def _draw_along(
    comparison: Comparison, settings: Sequence[Setting], looks: dict[str, Key], what: str, axes: Axes
) -> Hovers:
    """Draw means with bands from three seeds on, and thin lines of runs where a mean would not say enough."""
    ends = [points_of(trial, what)[0] for setting in settings for trial in setting.trials if trial.curve]
    firsts = [x[0] for x in ends]
    far = min(firsts) > 0 and max(x[-1] for x in ends) > _FAR * min(x[-1] for x in ends)
    hovers: Hovers = {}
    write = format_seconds if what == SECONDS else format_bytes
    for number, setting in enumerate(settings):
        look = looks[name_of(setting, comparison.by)]
        whole = [trial for trial in setting.whole if trial.curve]
        curve = mean_curve(setting, what, logarithmic=far)
        if curve is not None:
            hovers |= _draw_curve(axes, curve, look, f"mark-{number}", len(whole), write)
        thin = [trial for trial in setting.trials if trial.why and trial.curve]
        thin += whole if curve is None or 1 < len(whole) < VERDICT_SEEDS else []
        for trial in thin:
            x, y = points_of(trial, what)
            axes.plot(
                x, y, color=look.colour, linewidth=0.7, linestyle=":" if trial.why else look.style, alpha=0.8,
                marker=look.mark if len(x) == 1 else "",
            )  # fmt: skip
    label = f"{comparison.clock} time" if what == SECONDS else "bytes on the wire, both directions"
    axes.set_ylabel(metric_of(settings))
    axis_of(axes, "x", label, TICKS[what], logarithmic=far)
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
