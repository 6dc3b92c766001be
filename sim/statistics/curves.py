"""The metric along a run, over seconds or bytes: means over seeds, values at equal cost, cost of a target."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from server_node.summary import wire_bytes_so_far
from sim.statistics.estimates import VERDICT_SEEDS, Estimate, estimate
from sim.statistics.trials import Row, Setting, Trial, reached

ROUNDS = "rounds"

POINTS = 100
"""Of a mean curve."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A mean over seeds, point by point.

    Attributes:
        x: seconds or bytes.
        mean: of the metric.
        low: lower end of its interval; empty with fewer than VERDICT_SEEDS seeds.
        high: upper end.
    """

    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


def cost_of(row: Row, what: str) -> float:
    """Give the SECONDS, BYTES or ROUNDS that a run had taken by the end of a round."""
    match what:
        case "seconds":
            return float(row["elapsed_s"])
        case "bytes":
            return float(wire_bytes_so_far(row))
        case _:
            return float(row["round"])


def points_of(trial: Trial, what: str) -> tuple[list[float], list[float]]:
    """Give cost and metric of each evaluation of a run."""
    return [cost_of(row, what) for row in trial.curve], [row["metric"] for row in trial.curve]


def mean_curve(setting: Setting, what: str, *, logarithmic: bool = False) -> Curve | None:
    """Average the curves of a setting's runs that are over, where all of them have one.

    Between two evaluations a curve is a straight line.

    Args:
        setting: with a trial for each seed.
        what: SECONDS, BYTES or ROUNDS.
        logarithmic: whether the points shall lie evenly on a logarithmic axis.

    Returns:
        None if no run that is over was evaluated.
    """
    curves = [points_of(trial, what) for trial in setting.whole if trial.curve]
    if not curves:
        return None
    if len(curves) == 1:
        [(x, y)] = curves
        return Curve(x, y, [], [])
    first, last = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    if first > last:
        return None
    spaced = np.geomspace if logarithmic and first > 0 else np.linspace
    grid = spaced(first, last, POINTS if last > first else 1)
    values = np.array([np.interp(grid, x, y) for x, y in curves])
    of_each = [each for column in values.T if (each := estimate(column.tolist())) is not None]
    bounded = len(curves) >= VERDICT_SEEDS
    return Curve(
        grid.tolist(),
        [each.mean for each in of_each],
        [each.low for each in of_each if each.low is not None] if bounded else [],
        [each.high for each in of_each if each.high is not None] if bounded else [],
    )


def metric_at(trial: Trial, what: str, cost: float) -> float | None:
    """Give what the last evaluation up to a cost has shown; None if there was none."""
    x, y = points_of(trial, what)
    place = bisect_right(x, cost)
    return float(y[place - 1]) if place else None


def metric_at_cost(setting: Setting, what: str, cost: float) -> Estimate | None:
    """Estimate the metric at equal cost; None if a run was not evaluated by then."""
    values = [metric_at(trial, what, cost) for trial in setting.whole]
    known = [value for value in values if value is not None]
    return estimate(known) if len(known) == len(values) else None


def equal_cost(settings: Sequence[Setting], what: str) -> float | None:
    """Give the largest cost that every run has got to."""
    ends = [points_of(trial, what)[0][-1] for each in settings for trial in each.whole if trial.curve]
    return min(ends, default=None)


def cost_to_target(trial: Trial, what: str, target: float) -> float | None:
    """Give the cost at the first evaluation that has a target; None if none has."""
    better = trial.higher_is_better
    rows = (row for row in trial.curve if reached(row["metric"], target, higher_better=better))
    row = next(rows, None)
    return None if row is None else cost_of(row, what)


def costs_to_target(setting: Setting, what: str, target: float) -> tuple[Estimate | None, int]:
    """Estimate the cost of a target, and say how many runs reached it.

    Returns:
        No estimate unless all of the setting's runs that are over reached it: the mean of those that did
        would praise a setting for the runs that did not.
    """
    costs = [cost_to_target(trial, what, target) for trial in setting.whole]
    known = [cost for cost in costs if cost is not None]
    return (estimate(known) if len(known) == len(costs) else None), len(known)


def common_target(settings: Sequence[Setting]) -> float | None:
    """Give the best value of the metric that every run that is over has reached."""
    best: list[float] = []
    higher = True
    for trial in (trial for each in settings for trial in each.whole if trial.curve):
        values = [row["metric"] for row in trial.curve]
        best.append(max(values) if trial.higher_is_better else min(values))
        higher = trial.higher_is_better
    if not best:
        return None
    return min(best) if higher else max(best)
