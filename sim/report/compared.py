"""What a page, figures and tables show of settings: charts along cost and of costs, sentences, a table."""

from collections.abc import Sequence
from dataclasses import dataclass

from broker.cli.wording import format_bytes, format_seconds
from sim.report.runs import Run, Sweep
from sim.report.trials import RUN, trials_of_runs, trials_of_sweep
from sim.statistics.comparison import Comparison, compare, spread
from sim.statistics.comparison_charts import legend_of, number_axis, over_number, side_by_side
from sim.statistics.curve_charts import along
from sim.statistics.curves import common_target, costs_to_target, equal_cost, metric_at_cost
from sim.statistics.drawing import Chart, Key
from sim.statistics.setting_words import in_words, key_in_words
from sim.statistics.terminal import chosen_key
from sim.statistics.trials import BYTES, METRIC, SECONDS, Trial, keys_of


@dataclass(frozen=True)
class Compared:
    """Settings, and what is drawn and said of them.

    Attributes:
        name: of the sweep; empty of runs given one by one.
        comparison: of the settings.
        target: of the metric, whose cost is told; None if nothing was trained.
        chosen: whether somebody has chosen the target.
        at_s: the equal time at which metrics are told.
        along: charts of the metric over time and over bytes.
        costs: charts of what the target costs and the metric at equal time, or of how long rounds take.
        keys: the legend of both.
    """

    name: str
    comparison: Comparison
    target: float | None
    chosen: bool
    at_s: float | None
    along: Sequence[Chart]
    costs: Sequence[Chart]
    keys: Sequence[Key]

    @property
    def trained(self) -> bool:
        """Whether anything was learned."""
        return self.comparison.what == METRIC

    @property
    def title(self) -> str:
        """Ask what the charts along cost answer."""
        name = f"{self.name}: " if self.name else ""
        return f"{name}What did {self.metric} cost, in bytes and in time?"

    @property
    def metric(self) -> str:
        """Name of the metric."""
        return self.comparison.metric_name

    @property
    def how(self) -> str:
        """Explain lines and bands."""
        text = "Between two evaluations lines are straight."
        if any(len(setting.trials) > 1 for setting in self.comparison.settings):
            text += (
                " Lines are means over seeds, bands the 95% t-intervals of these means; of two seeds each "
                "has a thin line besides. Seeds whose evaluations have no stretch in common have thin lines "
                "alone."
            )
        if any(trial.why for trial in self.comparison.trials):
            text += " Dotted lines are runs that are not over."
        return text

    def cost_title(self) -> str:
        """Ask what the charts of costs answer."""
        name = f"{self.name}: " if self.name else ""
        if not self.trained:
            return f"{name}How long do the rounds take?"
        return f"{name}What does the same {self.metric} cost, and what is there after the same time?"

    def cost_sentences(self) -> list[str]:
        """Say which target and which time were taken."""
        said = []
        if self.target is not None:
            how = "" if self.chosen else ", the best that every run reached (--target chooses another)"
            said.append(f"The target is {self.metric} {self.target:.3g}{how}.")
        if self.at_s is not None:
            after = format_seconds(self.at_s)
            said.append(f"The same time is {after}, the longest that every run has got to.")
        return [" ".join(said)] if said else []

    def cost_table(self) -> tuple[list[str], list[list[str]]]:
        """Give headings and rows: cost of the target, and the metric after the same time."""
        keys = keys_of(self.comparison.settings)
        clock = self.comparison.clock
        head = [
            *(key_in_words(key, keys) for key in keys), "reached the target", f"{clock} time to it",
            "bytes to it", f"{self.metric} after {format_seconds(self.at_s or 0)}",
        ]  # fmt: skip
        rows = []
        for setting in self.comparison.settings:
            row = [in_words(setting.keys.get(key)) for key in keys]
            if self.target is None:
                row += [""] * 3
            else:
                seconds, reached = costs_to_target(setting, SECONDS, self.target)
                size, _ = costs_to_target(setting, BYTES, self.target)
                row.append(f"{reached} of {len(setting.whole)}")
                row += [spread(seconds, format_seconds), spread(size, format_bytes)]
            then = None if self.at_s is None else metric_at_cost(setting, SECONDS, self.at_s)
            rows.append([*row, spread(then, "{:.3f}".format)])
        return head, rows


def compared_runs(runs: Sequence[Run], target: float | None) -> Compared:
    """Compare runs that were given one by one."""
    return _compared("", trials_of_runs(runs), RUN, target)


def compared_sweep(sweep: Sweep, by: str | None, target: float | None) -> Compared:
    """Compare the points of a sweep."""
    key = chosen_key(by, sweep.keys)
    return _compared(sweep.folder.resolve().name, trials_of_sweep(sweep), key, target)


def _compared(name: str, trials: Sequence[Trial], key: str | None, target: float | None) -> Compared:
    comparison = compare(trials, key)
    settings = comparison.settings
    one_metric = len({trial.metric_name for trial in trials}) == 1
    goal = target if target is not None or not one_metric else common_target(settings)
    at_s = equal_cost(settings, SECONDS) if len({trial.clock for trial in trials}) == 1 else None
    number = number_axis(comparison)
    costs = over_number(comparison, number, goal, at_s) if number else side_by_side(comparison, goal, at_s)
    return Compared(
        name=name,
        comparison=comparison,
        target=goal,
        chosen=target is not None,
        at_s=at_s,
        along=along(comparison),
        costs=costs if len(settings) > 1 else [],
        keys=legend_of(comparison),
    )
