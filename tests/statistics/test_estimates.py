"""Means over seeds: intervals that cover, differences by seed, and no conclusion from one seed."""

import math
import random
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.statistics.estimates import VERDICT_SEEDS, Verdict, difference, estimate, ratio, t_quantile

scores = st.floats(-1e3, 1e3).map(lambda value: round(value, 6))
by_seed = st.dictionaries(st.integers(0, 20), scores, min_size=1, max_size=10)


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042), (99, 1.984)],
)
def test_quantiles_are_those_of_the_books(degrees: int, quantile: float) -> None:
    assert t_quantile(0.975, degrees) == pytest.approx(quantile, abs=6e-4)


def test_one_value_has_no_interval() -> None:
    of = estimate([0.7])
    assert of is not None
    assert (of.n, of.mean, of.deviation, of.low, of.high, of.margin) == (1, 0.7, None, None, None, None)
    assert estimate([]) is None


@given(st.lists(scores, min_size=2, max_size=12))
def test_an_interval_lies_about_the_mean(values: list[float]) -> None:
    of = estimate(values)
    assert of is not None
    assert of.mean == pytest.approx(fmean(values))
    assert of.deviation == pytest.approx(stdev(values))
    assert of.low is not None
    assert of.high is not None
    assert of.low <= of.mean <= of.high


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_intervals_cover_as_often_as_they_say(n: int) -> None:
    draws = random.Random(n)
    covered = 0
    for _ in range(2000):
        of = estimate([draws.gauss(0.8, 0.02) for _ in range(n)])
        assert of is not None
        assert of.low is not None
        assert of.high is not None
        covered += of.low <= 0.8 <= of.high
    assert 0.935 <= covered / 2000 <= 0.965  # 0.95, and three standard errors of 2,000 tries


def test_a_table_without_differences_seldom_has_a_verdict() -> None:
    draws = random.Random(1)
    wrong = 0
    for _ in range(500):
        arms = [{seed: draws.gauss(0.8, 0.02) for seed in range(5)} for _ in range(5)]
        best = max(arms, key=lambda arm: fmean(arm.values()))
        of_each = [difference(arm, best, at_once=10) for arm in arms if arm is not best]
        wrong += any(each is not None and each.verdict is not Verdict.OPEN for each in of_each)
    assert wrong / 500 <= 0.07  # at most 0.05, and two standard errors


@given(by_seed, by_seed, st.booleans())
def test_a_difference_is_the_other_way_round_from_the_other_side(
    mine: dict[int, float], its: dict[int, float], higher: bool
) -> None:
    one = difference(mine, its, higher_is_better=higher)
    other = difference(its, mine, higher_is_better=higher)
    if one is None or other is None:
        assert one is other
        assert not mine.keys() & its.keys()
        return
    assert one.of.n == other.of.n == len(mine.keys() & its.keys())
    assert one.of.mean == pytest.approx(-other.of.mean)
    assert {one.verdict, other.verdict} in ({Verdict.OPEN}, {Verdict.BETTER, Verdict.WORSE})


@given(by_seed, scores.filter(bool))
def test_what_a_seed_does_to_both_cancels_out(values: dict[int, float], more: float) -> None:
    of = difference({seed: value + more for seed, value in values.items()}, values)
    assert of is not None
    assert of.of.mean == pytest.approx(more, abs=1e-9)


@given(by_seed, by_seed)
def test_few_seeds_conclude_nothing(mine: dict[int, float], its: dict[int, float]) -> None:
    few = dict(list(mine.items())[: VERDICT_SEEDS - 1])
    of = difference(few, its)
    assert of is None or of.verdict is Verdict.OPEN


def test_two_differences_that_are_equal_by_chance_conclude_nothing() -> None:
    of = difference({1: 0.81, 2: 0.83}, {1: 0.80, 2: 0.82})
    assert of is not None
    assert of.of.margin == pytest.approx(0)
    assert of.in_words == "not told apart, 2 seeds"


def test_lower_may_be_better() -> None:
    low, high = dict(enumerate((1.0, 1.1, 1.2))), dict(enumerate((2.0, 2.1, 2.3)))
    for higher, verdict in ((True, Verdict.WORSE), (False, Verdict.BETTER)):
        of = difference(low, high, higher_is_better=higher)
        assert of is not None
        assert of.verdict is verdict


def test_more_pairs_at_once_need_wider_intervals() -> None:
    margins = [of.margin for pairs in (1, 3, 10) if (of := estimate([1.0, 2.0, 4.0], at_once=pairs))]
    assert margins == sorted(margins, key=lambda margin: margin or 0)
    assert len(set(margins)) == 3


def test_a_ratio_is_a_geometric_mean_of_pairs() -> None:
    of = ratio({1: 2.0, 2: 8.0, 3: 5.0}, {1: 1.0, 2: 2.0, 4: 1.0})
    assert of is not None
    assert of.n == 2
    assert of.mean == pytest.approx(math.sqrt(2 * 4))
    assert ratio({1: 0.0}, {1: 2.0}) is None
