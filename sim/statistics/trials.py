"""Trials (runs), and settings: the trials that differ in nothing but the seed.

A seed is a replicate and never a setting of its own, so nothing here ranks one.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import log
from statistics import fmean, pvariance
from typing import Any

from server_node.vocabulary.ledger import CONTROL, FLOWS, U_SHAPE_FLOWS
from sim.statistics.estimates import Estimate, estimate

Row = dict[str, Any]

SEED = "seed"
METRIC, SECONDS, BYTES, LINK_BYTES = "metric", "seconds", "bytes", "link_bytes"
"""What trials have to compare."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a setting.

    Attributes:
        keys: what makes the setting: values by key path, without the seed.
        seed: of the run.
        run: name of its folder.
        clock: virtual or real.
        metric_name: of the task.
        higher_is_better: of the metric.
        metric: after the last round; None if nothing was evaluated.
        seconds: that the rounds took.
        bytes: of all flows, both directions.
        link_bytes: on the devices' links, both directions; None of runs of earlier versions.
        why: what is wrong with the run, such as that it is not over; empty if nothing is.
        rounds: of metrics.parquet.
    """

    keys: Mapping[str, object]
    seed: int
    run: str
    clock: str
    metric_name: str
    higher_is_better: bool = True
    metric: float | None = None
    seconds: float | None = None
    bytes: int | None = None
    link_bytes: int | None = None
    why: str = ""
    rounds: Sequence[Row] = field(default=(), repr=False)

    @property
    def curve(self) -> list[Row]:
        """Rounds after which the model was evaluated."""
        return [row for row in self.rounds if row["metric"] is not None]


@dataclass(frozen=True, slots=True)
class Setting:
    """Trials that differ in nothing but the seed.

    Attributes:
        keys: of all of them.
        trials: in the order of the table.
    """

    keys: Mapping[str, object]
    trials: tuple[Trial, ...]

    @property
    def whole(self) -> list[Trial]:
        """Trials that are over, which alone count."""
        return [trial for trial in self.trials if not trial.why]

    def by_seed(self, what: str) -> dict[int, float]:
        """Give METRIC, SECONDS, BYTES or LINK_BYTES of the trials that are over, by seed."""
        values = {trial.seed: getattr(trial, what) for trial in self.whole}
        return {seed: value for seed, value in values.items() if value is not None}

    def estimate(self, what: str) -> Estimate | None:
        """Estimate the mean of METRIC, SECONDS, BYTES or LINK_BYTES over seeds."""
        return estimate(list(self.by_seed(what).values()))


@dataclass(frozen=True, slots=True)
class Panel:
    """Settings that differ in one key only: what is compared with each other.

    Attributes:
        rest: the other keys, which they have in common.
        by: the key.
        settings: one for each value of it.
    """

    rest: Mapping[str, object]
    by: str
    settings: tuple[Setting, ...]


def settings_of(trials: Sequence[Trial]) -> list[Setting]:
    """Group trials by what they are, whatever the seed; in the order of their first trials."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(_identity(trial.keys), []).append(trial)
    return [Setting(group[0].keys, tuple(group)) for group in groups.values()]


def panels_of(settings: Sequence[Setting], by: str) -> list[Panel]:
    """Group settings that differ in the key `by` only."""
    groups: dict[str, list[Setting]] = {}
    rests: dict[str, dict[str, object]] = {}
    for setting in settings:
        rest = {key: value for key, value in setting.keys.items() if key != by}
        rests[_identity(rest)] = rest
        groups.setdefault(_identity(rest), []).append(setting)
    return [Panel(rests[name], by, tuple(group)) for name, group in groups.items()]


def trained(settings: Sequence[Setting]) -> bool:
    """Say whether any trial has learned something."""
    return any(trial.metric is not None or trial.curve for each in settings for trial in each.trials)


def key_that_matters(settings: Sequence[Setting]) -> str:
    """Choose the key to compare: the one whose values differ most in the metric, or, untrained, in time.

    A choice, such as a policy or a codec, comes before a number, such as a rate: numbers make an axis.

    Returns:
        The first key if all are alike; "" if there is no key.
    """
    keys = keys_of(settings)
    choices = [key for key in keys if key != METRIC and not is_number(settings, key)]
    return max(choices or keys, key=lambda key: _effect(settings, key), default="")


def keys_of(settings: Sequence[Setting]) -> list[str]:
    """Give the keys of settings, in their order."""
    return list(dict.fromkeys(key for setting in settings for key in setting.keys))


def is_number(settings: Sequence[Setting], key: str) -> bool:
    """Say whether all values of a key are numbers."""
    values = [setting.keys.get(key) for setting in settings]
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _effect(settings: Sequence[Setting], key: str) -> float:
    """Give the mean variance of the settings' means within the panels of a key."""
    what = METRIC if trained(settings) else SECONDS
    variances = []
    for panel in panels_of(settings, key):
        of_each = (setting.estimate(what) for setting in panel.settings)
        means = [each.mean for each in of_each if each is not None]
        if what is SECONDS:
            means = [log(mean) for mean in means if mean > 0]
        if len(means) > 1:
            variances.append(pvariance(means))
    return fmean(variances) if variances else 0.0


def total_bytes(row: Mapping[str, Any]) -> int:
    """Sum up the bytes in a sweep's row: all flows, both directions."""
    return sum(row.get(f"bytes.{name}.wire") or 0 for name in (*FLOWS, *U_SHAPE_FLOWS, CONTROL))


def _link_bytes(row: Mapping[str, Any]) -> int | None:
    up, down = row.get("links.up"), row.get("links.down")
    return None if up is None or down is None else up + down


def trial_of(row: Mapping[str, Any], swept: Sequence[str], rounds: Sequence[Row] = ()) -> Trial:
    """Make a trial of a sweep's row.

    Args:
        row: of sweep.parquet.
        swept: its keys.
        rounds: of its run's metrics.parquet, if wanted.
    """
    failed = row.get("error")
    return Trial(
        keys={key: row[key] for key in swept if key != SEED},
        seed=row.get(SEED) or 0,
        run=row["run"],
        clock="real" if row.get("mode") == "live" else "virtual",
        metric_name=row.get("metric.name") or METRIC,
        higher_is_better=higher_is_better(row.get("metric.better")),
        metric=row.get("metric.final"),
        seconds=None if failed else row.get("virtual_seconds"),
        bytes=None if failed else total_bytes(row),
        link_bytes=None if failed else _link_bytes(row),
        why=f"failed: {failed}" if failed else "",
        rounds=rounds,
    )


def higher_is_better(better: object) -> bool:
    """Say which way a metric is better, from what a summary says of it; higher if it says nothing."""
    return better != "lower"


def reached(metric: float | None, target: float, *, higher_better: bool = True) -> bool:
    """Say whether a metric is at least as good as a target."""
    return metric is not None and (metric >= target if higher_better else metric <= target)


def _identity(keys: Mapping[str, object]) -> str:
    return json.dumps({key: _plain(value) for key, value in keys.items()}, sort_keys=True, default=str)


def _plain(value: object) -> object:
    """Make 1 of 1.0: a column of a table has one type."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
