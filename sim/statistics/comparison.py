"""What is told of settings: tables for the terminal, reports and figures, and a sentence on what they say."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from broker.cli.wording import format_bytes, format_ratio
from sim.statistics.estimates import (
    CONFIDENCE,
    VERDICT_SEEDS,
    Difference,
    Estimate,
    Verdict,
    difference,
    ratio,
)
from sim.statistics.setting_words import compact, in_words, key_in_words, keys_in_words
from sim.statistics.trials import (
    BYTES,
    LINK_BYTES,
    METRIC,
    SECONDS,
    Panel,
    Setting,
    Trial,
    key_that_matters,
    keys_of,
    panels_of,
    settings_of,
    trained,
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Settings in panels, and what of them is compared.

    Attributes:
        by: the key whose values are compared; "" if there is only one setting.
        panels: the settings, by all other keys.
        what: METRIC, or SECONDS where nothing was trained.
    """

    by: str
    panels: tuple[Panel, ...]
    what: str

    @property
    def settings(self) -> list[Setting]:
        """All settings, panel by panel."""
        return [setting for panel in self.panels for setting in panel.settings]

    @property
    def metric_name(self) -> str:
        """What the metric is called; there may be several, in panels of their own."""
        return " or ".join(dict.fromkeys(trial.metric_name for trial in self.trials)) or METRIC

    @property
    def clock(self) -> str:
        """Whether seconds are virtual or real."""
        return " or ".join(dict.fromkeys(trial.clock for trial in self.trials)) or "virtual"

    def higher_is_better(self, panel: Panel) -> bool:
        """Say which way what is compared in a panel is better."""
        return self.what == METRIC and panel.settings[0].trials[0].higher_is_better

    @property
    def trials(self) -> list[Trial]:
        """All trials, in the same order."""
        return [trial for setting in self.settings for trial in setting.trials]


@dataclass(frozen=True, slots=True)
class Line:
    """A setting beside the reference of its panel.

    Attributes:
        panel: that it stands in.
        setting: what it is about.
        reference: the setting that it is compared with; itself of the reference, None if there is none.
        difference: to the reference; None without one, or without a common seed.
    """

    panel: Panel
    setting: Setting
    reference: Setting | None
    difference: Difference | None


def compare(trials: Sequence[Trial], by: str | None = None) -> Comparison:
    """Group trials into settings and panels. Trials of different metrics are never in one panel.

    Args:
        trials: of one sweep, or of several runs.
        by: the key whose values are compared within a panel; the one that matters most if not given.
    """
    if len({trial.metric_name for trial in trials}) > 1:
        trials = [replace(each, keys={METRIC: each.metric_name, **each.keys}) for each in trials]
    settings = settings_of(trials)
    key = by if by is not None else key_that_matters(settings)
    what = METRIC if trained(settings) else SECONDS
    return Comparison(key, tuple(panels_of(settings, key)), what)


def lines_of(comparison: Comparison) -> list[Line]:
    """Compare each setting of a panel with the one whose mean is best, where there are several seeds.

    The reference is chosen by the data, so the intervals of the differences hold for all pairs of the panel
    at once: see estimates.estimate.
    """
    lines = []
    for panel in comparison.panels:
        reference = _reference(panel, comparison)
        pairs = max(1, len(panel.settings) * (len(panel.settings) - 1) // 2)
        for setting in panel.settings:
            apart = None
            if reference is not None and setting is not reference:
                apart = difference(
                    setting.by_seed(comparison.what),
                    reference.by_seed(comparison.what),
                    higher_is_better=comparison.higher_is_better(panel),
                    at_once=pairs,
                )
            lines.append(Line(panel, setting, reference, apart))
    return lines


def _reference(panel: Panel, comparison: Comparison) -> Setting | None:
    """Give the setting whose mean is best; None where one seed would decide, or nothing is to compare."""
    known = [(setting, setting.estimate(comparison.what)) for setting in panel.settings]
    means = {id(setting): each.mean for setting, each in known if each is not None and each.n > 1}
    candidates = [setting for setting in panel.settings if id(setting) in means]
    if len(panel.settings) == 1 or not candidates:
        return None
    choose = max if comparison.higher_is_better(panel) else min
    return choose(candidates, key=lambda setting: means[id(setting)])


def head_of(comparison: Comparison) -> list[str]:
    """Give the headings of the rows of `cells`; the first ones are the keys."""
    keys = keys_of(comparison.settings)
    return [
        *(key_in_words(key, keys) for key in keys),
        "seeds",
        *([comparison.metric_name] if comparison.what == METRIC else []),
        "bytes",
        *(["on links"] if _knows_links(comparison) else []),
        f"{comparison.clock} s",
        *(["difference", "verdict"] if _several(comparison) else []),
    ]


def cells(comparison: Comparison, *, brief: bool = False) -> list[list[str]]:
    """Give a row of texts for each setting, in the order of the grid.

    Args:
        comparison: what the table is of.
        brief: for a narrow table: values without words, times without intervals.
    """
    words = compact if brief else in_words
    rows = []
    for line in lines_of(comparison):
        setting = line.setting
        row = [*(words(setting.keys.get(key)) for key in keys_of(comparison.settings)), seeds_of(setting)]
        if comparison.what == METRIC:
            row.append(spread(setting.estimate(METRIC), "{:.3f}".format))
        size = setting.estimate(BYTES)
        row.append(format_bytes(size.mean) if size else "")
        if _knows_links(comparison):
            on_links = setting.estimate(LINK_BYTES)
            row.append(format_bytes(on_links.mean) if on_links else "")
        seconds = spread(setting.estimate(SECONDS), "{:.1f}".format)
        row.append(seconds.partition(" ")[0] if brief else seconds)
        rows.append([*row, *told(line, comparison)] if _several(comparison) else row)
    return rows


def seeds_of(setting: Setting) -> str:
    """Say how many seeds of a setting count, and how many others there are and why."""
    lost = [trial.why.partition(":")[0] for trial in setting.trials if trial.why]
    others = ", ".join(f"{lost.count(why)} {why}" for why in dict.fromkeys(lost))
    return f"{len(setting.whole)}{f' ({others})' if lost else ''}"


def _knows_links(comparison: Comparison) -> bool:
    """Say whether any run tells what its devices' links carried."""
    return any(trial.link_bytes is not None for trial in comparison.trials)


def _several(comparison: Comparison) -> bool:
    """Say whether anything is compared: settings of a panel, with several seeds."""
    return any(_reference(panel, comparison) is not None for panel in comparison.panels)


def spread(of: Estimate | None, form: Callable[[float], str]) -> str:
    """Write a mean and, of several seeds, half the width of its interval, unless that is nothing."""
    if of is None:
        return ""
    margin = f" ± {form(of.margin)}" if of.margin else ""
    return form(of.mean) + ("" if of.margin is not None and form(of.margin) == form(0.0) else margin)


def told(line: Line, comparison: Comparison) -> tuple[str, str]:
    """Write the difference between a setting and its panel's reference, and what that says."""
    if line.reference is None:
        return "", ""
    if line.setting is line.reference:
        return "", "reference"
    if line.difference is None:
        return "", "no seed in common"
    of = line.difference.of
    if comparison.what == SECONDS:
        times = ratio(line.setting.by_seed(SECONDS), line.reference.by_seed(SECONDS))
        words = format_ratio(times.mean, 2) if times else ""
    else:
        words = f"{of.mean:+.3f}" + (f" ± {of.margin:.3f}" if of.margin is not None else "")
    slower = comparison.what == SECONDS and line.difference.verdict is Verdict.WORSE
    return words, "slower" if slower else line.difference.in_words


def how_compared(comparison: Comparison) -> str:
    """Say what the columns of the table mean."""
    seeds = sorted({len(setting.whole) for setting in comparison.settings})
    if not seeds or seeds[-1] <= 1:
        return (
            "One seed each, so nothing is ranked: another seed may turn every difference round. "
            "fedlite sweep --seeds 5 repeats each point with five."
        )
    text = f"Means over seeds ± half of their {CONFIDENCE:.0%} t-interval."
    if not _several(comparison):
        return text
    best = "best mean" if comparison.what == METRIC else "least time"
    among = " among those that differ in nothing else" if len(comparison.panels) > 1 else ""
    text += (
        f" The reference is the setting with the {best}{among}; the others are compared with it by runs of "
        f"the same seed, and are called worse only where the {CONFIDENCE:.0%} interval of the differences, "
        "widened so that it holds for all pairs at once, is on one side of 0."
    )
    if seeds[0] < VERDICT_SEEDS:
        text += f" Of fewer than {VERDICT_SEEDS} seeds nothing is concluded."
    return text


def in_one_sentence(comparison: Comparison) -> str:
    """Say what the comparison came to."""
    if comparison.what == METRIC and not any(trial.metric is not None for trial in comparison.trials):
        return "None of the runs has a metric."
    said: dict[str, list[str]] = {}
    for panel in comparison.panels:
        if text := _conclusion(panel, comparison):
            said.setdefault(text, []).append(keys_in_words(panel.rest))
    told = [f"With {_listed(where)}: {text}" if where[0] else text for text, where in said.items()]
    if len(comparison.panels) > 1 and [len(where) for where in said.values()] == [len(comparison.panels)]:
        told = [f"In each of {len(comparison.panels)} cases: {next(iter(said))}"]
    return " ".join(filter(None, [*told, _lost(comparison)]))


def _conclusion(panel: Panel, comparison: Comparison) -> str:
    """Say what is better than what in a panel; empty where there is no reference."""
    lines = [line for line in lines_of(comparison) if line.panel is panel]
    reference = lines[0].reference
    if reference is None:
        return ""
    apart = [line for line in lines if line.difference and line.difference.verdict is Verdict.WORSE]
    alike = [line for line in lines if line.difference and line not in apart]
    superlative, better = ("best mean", "better") if comparison.what == METRIC else ("least time", "quicker")
    text = f"{in_words(reference.keys[comparison.by])} has the {superlative}"
    if any(len(setting.by_seed(comparison.what)) == 1 for setting in panel.settings):
        text += " of those with several seeds"
    if apart:
        text += f" and is {better} than {_names(apart, comparison.by)}"
    if alike:
        text += f"{', but' if apart else ', but it'} cannot be told apart from {_names(alike, comparison.by)}"
    return f"{text}."


def _lost(comparison: Comparison) -> str:
    """Say that runs failed, which makes a mean better than the setting is."""
    failed = sum(trial.why.startswith("failed") for trial in comparison.trials)
    return f"{failed} of {len(comparison.trials)} runs failed and count in no mean." if failed else ""


def _names(lines: Sequence[Line], by: str) -> str:
    return _listed([in_words(line.setting.keys[by]) for line in lines])


def _listed(names: Sequence[str]) -> str:
    between, last = ("; ", "; and ") if any("," in name for name in names) else (", ", " and ")
    return names[0] if len(names) == 1 else f"{between.join(names[:-1])}{last}{names[-1]}"
