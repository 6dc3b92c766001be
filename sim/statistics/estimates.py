"""Means of a few seeds, how sure they are, and when one setting may be called better than another.

Intervals are Student's t-intervals. Studies have 3 to 10 seeds; a bootstrap of so few values covers clearly
less than it says (of five, a percentile interval of 95 % covers about 84 %), and a t-interval of values that
are about normal covers what it says with any number of them.

Settings are compared by the differences between runs of the same seed, which share data, cohorts and first
weights: what a seed does to both of them cancels out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from statistics import fmean, stdev

CONFIDENCE = 0.95

VERDICT_SEEDS = 3
"""Of fewer pairs nothing is concluded: two differences may be equal by chance, above all of a metric that
counts samples, and then their spread is no measure of anything."""


class Verdict(StrEnum):
    """What a paired difference says."""

    BETTER = "better"
    WORSE = "worse"
    OPEN = "not told apart"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean of independent values.

    Attributes:
        n: how many values.
        mean: of them.
        deviation: their standard deviation (of a sample); None of one value.
        low: lower end of the interval of the mean; None of one value.
        high: its upper end.
    """

    n: int
    mean: float
    deviation: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def margin(self) -> float | None:
        """Half the width of the interval."""
        return None if self.high is None else self.high - self.mean


def estimate(values: Sequence[float], *, at_once: int = 1) -> Estimate | None:
    """Estimate the mean that values come from.

    Args:
        values: independent of each other, about normal.
        at_once: so many intervals shall all hold together with the probability CONFIDENCE (Bonferroni).

    Returns:
        None if there are no values.
    """
    if not values:
        return None
    n, mean = len(values), fmean(values)
    if n == 1:
        return Estimate(1, mean)
    deviation = stdev(values)
    margin = t_quantile(1 - (1 - CONFIDENCE) / (2 * at_once), n - 1) * deviation / math.sqrt(n)
    return Estimate(n, mean, deviation, mean - margin, mean + margin)


@dataclass(frozen=True, slots=True)
class Difference:
    """How much higher one setting is than another one.

    Attributes:
        of: the differences between runs of the same seed.
        verdict: whether that is better, if anything can be said.
    """

    of: Estimate
    verdict: Verdict

    @property
    def in_words(self) -> str:
        """Write the verdict, and of too few seeds how many."""
        few = f", {self.of.n} {'seed' if self.of.n == 1 else 'seeds'}" if self.of.n < VERDICT_SEEDS else ""
        return f"{self.verdict}{few}"


def difference(
    mine: Mapping[int, float],
    its: Mapping[int, float],
    *,
    higher_is_better: bool = True,
    at_once: int = 1,
) -> Difference | None:
    """Compare two settings by their runs of the same seed.

    Args:
        mine: values by seed.
        its: of the other setting.
        higher_is_better: what a verdict takes for better.
        at_once: see estimate; the number of pairs of settings that are compared.

    Returns:
        None if they have no seed in common.
    """
    of = estimate([mine[seed] - its[seed] for seed in mine if seed in its], at_once=at_once)
    if of is None:
        return None
    verdict = Verdict.OPEN
    if of.n >= VERDICT_SEEDS and of.low is not None and of.high is not None and not of.low <= 0 <= of.high:
        verdict = Verdict.BETTER if (of.mean > 0) is higher_is_better else Verdict.WORSE
    return Difference(of, verdict)


def ratio(mine: Mapping[int, float], its: Mapping[int, float]) -> Estimate | None:
    """Say how many times as much one setting is of another one: the geometric mean over common seeds.

    Returns:
        An estimate whose mean and interval are ratios, and whose deviation is that of their logarithms; None
        if no pair of positive values has a common seed.
    """
    pairs = [(mine[seed], its[seed]) for seed in mine if seed in its]
    of = estimate([math.log(one / other) for one, other in pairs if one > 0 and other > 0])
    if of is None:
        return None
    low, high = (None if end is None else math.exp(end) for end in (of.low, of.high))
    return Estimate(of.n, math.exp(of.mean), of.deviation, low, high)


@cache
def t_quantile(probability: float, degrees: int) -> float:
    """Give the quantile, above the median, of Student's t-distribution with whole degrees of freedom."""
    low, high = 0.0, 1.0
    while _t_cdf(high, degrees) < probability:
        low, high = high, 2 * high
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_cdf(middle, degrees) < probability else (low, middle)
    return high


def _t_cdf(t: float, degrees: int) -> float:
    """Give the distribution function for t >= 0: Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(degrees))
    squared = math.cos(angle) ** 2
    odd = degrees % 2
    term = total = (math.cos(angle) if odd else 1.0) if degrees > 1 else 0.0
    for k in range(2 + odd, degrees - 1, 2):
        term *= squared * (k - 1) / k
        total += term
    total *= math.sin(angle)
    within = 2 / math.pi * (angle + total) if odd else total
    return (1 + within) / 2
