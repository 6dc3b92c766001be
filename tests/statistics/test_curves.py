"""The metric along cost: means on common ground, values at equal cost, and what a target costs."""

from typing import Any

import pytest

from server_node.vocabulary.ledger import CONTROL, FLOWS
from sim.statistics.curves import (
    common_target,
    costs_to_target,
    equal_cost,
    mean_curve,
    metric_at,
    metric_at_cost,
)
from sim.statistics.trials import SECONDS, Setting, Trial


def trial(seed: int, *points: tuple[float, float | None], higher: bool = True, why: str = "") -> Trial:
    flows = {f"{name}_wire_bytes": 0 for name in (*FLOWS, CONTROL)}
    rounds: list[dict[str, Any]] = [
        {"round": number, "elapsed_s": at_s, "metric": metric, **flows}
        for number, (at_s, metric) in enumerate(points, 1)
    ]
    return Trial({}, seed, f"r{seed}", "virtual", "m", higher_is_better=higher, why=why, rounds=rounds)


def setting(*trials: Trial) -> Setting:
    return Setting({}, trials)


TWO = setting(trial(1, (1, 0.0), (2, None), (3, 0.4)), trial(2, (2, 0.2), (6, 0.6)))


def test_a_mean_curve_is_where_all_seeds_have_one() -> None:
    curve = mean_curve(TWO, SECONDS)
    assert curve is not None
    assert (curve.x[0], curve.x[-1]) == (2, 3)
    assert (curve.mean[0], curve.mean[-1]) == pytest.approx((0.2, 0.35))
    assert curve.low == curve.high == []  # of two seeds nothing is bounded


def test_three_seeds_have_a_band() -> None:
    curve = mean_curve(
        setting(*(trial(seed, (1, 0.1 * seed), (2, 0.2 * seed)) for seed in (1, 2, 3))), SECONDS
    )
    assert curve is not None
    assert all(low < mean < high for low, mean, high in zip(curve.low, curve.mean, curve.high, strict=True))


def test_a_run_that_is_not_over_is_in_no_mean() -> None:
    assert mean_curve(setting(trial(1, (1, 0.5), why="unfinished")), SECONDS) is None


def test_the_last_evaluation_counts() -> None:
    [one, two] = TWO.trials
    assert [metric_at(one, SECONDS, at_s) for at_s in (0.5, 1, 2.9, 3)] == [None, 0.0, 0.0, 0.4]
    assert equal_cost([TWO], SECONDS) == 3
    at_end = metric_at_cost(TWO, SECONDS, 3)
    assert at_end is not None
    assert at_end.mean == pytest.approx(0.3)
    assert metric_at_cost(TWO, SECONDS, 1.5) is None  # nobody knows the second one's
    assert metric_at(two, SECONDS, 1.5) is None


def test_a_target_has_a_cost_only_if_every_seed_reached_it() -> None:
    both, count = costs_to_target(TWO, SECONDS, 0.2)
    assert both is not None
    assert (both.mean, count) == (2.5, 2)
    assert costs_to_target(TWO, SECONDS, 0.5) == (None, 1)
    assert costs_to_target(TWO, SECONDS, 0.9) == (None, 0)


@pytest.mark.parametrize(("higher", "target"), [(True, 0.4), (False, 0.2)])
def test_the_common_target_is_what_every_run_has_reached(higher: bool, target: float) -> None:
    runs = [
        trial(1, (1, 0.1), (3, 0.4), higher=higher),
        trial(2, (2, 0.2), (6, 0.6), higher=higher),
    ]
    assert common_target([setting(*runs)]) == target
    of, _ = costs_to_target(setting(*runs), SECONDS, target)
    assert of is not None
