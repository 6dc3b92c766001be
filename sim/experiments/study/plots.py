"""The plots of a study, up to three for each task, as SVG: accuracy over compression, rounds and bytes."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator

from sim.experiments.study.results import Result, by_arm, evaluated_as_often
from sim.statistics.axes import axis_of, tick_of_bytes
from sim.statistics.curves import ROUNDS, mean_curve
from sim.statistics.drawing import COLOURS, mark_of
from sim.statistics.trials import BYTES, Setting, trial_of

MARKERS = "osD^vP*Xhp<>d8"


def write_plots(folder: Path, results: Sequence[Result]) -> None:
    """Write the plots of each task that has results, apart from those in which nothing would be drawn.

    Args:
        folder: the study's.
        results: of all tasks.
    """
    families = list(dict.fromkeys(each.run.arm.family for each in results))
    kinds = {"compression": _compression, "rounds": _rounds, "bytes": _bytes}
    for task in dict.fromkeys(each.run.task.name for each in results):
        mine = [each for each in results if each.run.task.name == task]
        for kind, draw in kinds.items():
            with rc_context({"svg.hashsalt": "fedlite"}):
                figure = Figure(figsize=(7.5, 4.8), layout="constrained")
                axes = figure.subplots()
                draw(axes, mine, families)
                axes.set(title=task, ylabel=mine[0].row["metric"])
                axes.grid(alpha=0.3)
                file = folder / f"{task}-{kind}.svg"
                if not axes.get_legend_handles_labels()[0]:
                    file.unlink(missing_ok=True)  # of what was there before
                    continue
                axes.legend(fontsize=8)
                figure.savefig(file, metadata={"Date": None})  # the same results give the same file


def _compression(axes: Axes, results: Sequence[Result], families: Sequence[str]) -> None:
    """Draw a point an arm, with the standard deviation over seeds; a marker a family."""
    labelled = set()
    for group in by_arm(results):
        ratios = [each.row["ratio_wire"] for each in group if each.row["ratio_wire"] is not None]
        scores = [each.row["final"] for each in group if each.row["final"] is not None]
        if not ratios or not scores:
            continue
        family = group[0].run.arm.family
        place = families.index(family)
        axes.errorbar(
            fmean(ratios),
            fmean(scores),
            yerr=stdev(scores) if len(scores) > 1 else None,
            marker=MARKERS[place % len(MARKERS)],
            color=COLOURS[place % len(COLOURS)],
            linestyle="none",
            label=None if family in labelled else family,
        )
        axes.annotate(group[0].run.arm.name, (fmean(ratios), fmean(scores)), (5, 5),
                      textcoords="offset points", fontsize=7)  # fmt: skip
        labelled.add(family)
    _logarithmic(axes)
    axes.margins(x=0.2)  # for the names
    axes.set_xlabel("bytes of uncompressed activation messages over these")


def _rounds(axes: Axes, results: Sequence[Result], _families: Sequence[str]) -> None:
    _curves(axes, results, ROUNDS)
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _bytes(axes: Axes, results: Sequence[Result], _families: Sequence[str]) -> None:
    _curves(axes, results, BYTES)
    axis_of(axes, "x", "bytes of all messages so far, both ways", tick_of_bytes, logarithmic=True)


def _curves(axes: Axes, results: Sequence[Result], what: str) -> None:
    """Draw a line an arm: the metric, means over seeds, with a band from three seeds on."""
    for number, group in enumerate(by_arm(evaluated_as_often(results))):
        colour, style, mark = mark_of(number)
        trials = (trial_of(each.row, (), each.rounds) for each in group)
        curve = mean_curve(Setting({}, tuple(trials)), what, logarithmic=what == BYTES)
        if curve is None:
            continue
        if curve.low:
            axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.12, linewidth=0)
        axes.plot(curve.x, curve.mean, color=colour, linestyle=style, marker=mark, markersize=3,
                  markevery=max(1, len(curve.x) // 8), label=group[0].run.arm.name)  # fmt: skip


def _logarithmic(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.margins(x=0.1)
    for axis_format in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        axis_format(LogFormatter())  # 20 rather than 2 x 10^1
