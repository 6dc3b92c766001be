"""Quantiles, intervals and verdicts are those of Student's t-test, computed another way: in 30 digits,
from the incomplete beta function."""

import math
from collections.abc import Mapping, Sequence

import mpmath
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sim.statistics.comparison import compare, lines_of
from sim.statistics.estimates import (
    CONFIDENCE,
    VERDICT_SEEDS,
    Verdict,
    difference,
    estimate,
    ratio,
    t_quantile,
)
from sim.statistics.trials import METRIC, Trial

ALPHA = 1 - CONFIDENCE

at_once = st.sampled_from([1, 3, 6, 10, 45])
values = st.lists(st.integers(-(10**6), 10**6).map(lambda value: value / 1000), min_size=2, max_size=12)


@st.composite
def of_seeds(draw: st.DrawFn) -> dict[int, float]:
    """Draw values of some of the seeds 0 to 9: about a level of their own, near to each other or not."""
    level = draw(st.integers(1, 4))
    spread = draw(st.sampled_from([10, 1000]))
    noise = st.integers(-99, 99).map(lambda value: level + value / (100 * spread))
    return draw(st.dictionaries(st.integers(0, 9), noise, min_size=1))


def two_sided(t: float, degrees: int) -> float:
    """Give the probability of a |t| at least as large: I_x(d / 2, 1 / 2) with x = d / (d + t^2)."""
    with mpmath.workdps(30):
        x = degrees / (degrees + mpmath.mpf(t) ** 2)
        return float(mpmath.betainc(mpmath.mpf(degrees) / 2, 0.5, 0, x, regularized=True))


def p_value(differences: Sequence[float]) -> float:
    """Give the p-value of the t-test that the mean of these differences is 0."""
    n = len(differences)
    with mpmath.workdps(30):
        exact = [mpmath.mpf(each) for each in differences]
        mean = mpmath.fsum(exact) / n
        variance = mpmath.fsum((each - mean) ** 2 for each in exact) / (n - 1)
        assume(variance > 1e-24)  # of differences that are all the same there is no test
        return two_sided(mean / mpmath.sqrt(variance / n), n - 1)


def verdict_of(mine: Mapping[int, float], its: Mapping[int, float], higher: bool, pairs: int) -> Verdict:
    """Give the verdict of a paired t-test at the level ALPHA / pairs."""
    pairs_of_values = [(mine[seed], its[seed]) for seed in mine.keys() & its.keys()]
    if len(pairs_of_values) < VERDICT_SEEDS:
        return Verdict.OPEN
    p = p_value([one - other for one, other in pairs_of_values])
    assume(not math.isclose(p, ALPHA / pairs, rel_tol=1e-6))
    if p > ALPHA / pairs:
        return Verdict.OPEN
    above = sum(one - other for one, other in pairs_of_values) > 0
    return Verdict.BETTER if above is higher else Verdict.WORSE


@given(st.floats(0.51, 1 - 1e-7), st.integers(1, 400))
def test_a_quantile_is_where_the_distribution_has_that_value(probability: float, degrees: int) -> None:
    above = two_sided(t_quantile(probability, degrees), degrees) / 2
    assert above == pytest.approx(1 - probability, rel=1e-6, abs=1e-14)


@given(values, at_once)
def test_an_interval_ends_where_the_test_does_not_reject_any_more(values: list[float], at_once: int) -> None:
    of = estimate(values, at_once=at_once)
    assert of is not None
    assert of.low is not None
    assert of.high is not None
    for end in (of.low, of.high):
        p = p_value([value - end for value in values])
        assert p == pytest.approx(ALPHA / at_once, rel=1e-6)


@given(of_seeds(), of_seeds(), st.booleans(), at_once)
def test_a_verdict_is_that_of_a_paired_test(
    mine: dict[int, float], its: dict[int, float], higher: bool, at_once: int
) -> None:
    of = difference(mine, its, higher_is_better=higher, at_once=at_once)
    assert (of is None) is not bool(mine.keys() & its.keys())
    if of is not None:
        assert of.verdict is verdict_of(mine, its, higher, at_once)


@given(st.lists(of_seeds(), min_size=2, max_size=5), st.booleans())
def test_a_table_has_the_verdicts_of_paired_tests_of_all_its_pairs(
    settings: list[dict[int, float]], higher: bool
) -> None:
    trials = [
        Trial(
            {"policy": str(number)},
            seed,
            f"{number}-{seed}",
            "virtual",
            "accuracy",
            metric=value,
            higher_is_better=higher,
        )
        for number, by_seed in enumerate(settings)
        for seed, value in by_seed.items()
    ]
    pairs = math.comb(len(settings), 2)
    for line in lines_of(compare(trials, "policy")):
        if line.difference is None or line.reference is None:
            continue
        mine, its = line.setting.by_seed(METRIC), line.reference.by_seed(METRIC)
        assert line.difference.verdict is verdict_of(mine, its, higher, pairs)
        high = line.difference.of.high
        if high is not None:
            differences = [mine[seed] - its[seed] for seed in mine.keys() & its.keys()]
            assert p_value([each - high for each in differences]) == pytest.approx(ALPHA / pairs, rel=1e-6)


@given(of_seeds(), of_seeds())
def test_a_ratio_is_tested_by_its_logarithm(mine: dict[int, float], its: dict[int, float]) -> None:
    common = mine.keys() & its.keys()
    of = ratio(mine, its)
    assume(len(common) > 1)
    assert of is not None
    assert of.low is not None
    assert of.high is not None
    logs = [math.log(mine[seed]) - math.log(its[seed]) for seed in common]
    for end in (of.low, of.high):
        assert p_value([each - math.log(end) for each in logs]) == pytest.approx(ALPHA, rel=1e-6)
