"""Which arm of a study reaches the target first."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.experiments.study.points import load_runs
from sim.experiments.study.results import Group, Result
from sim.experiments.study.times import rows_of_times

RUNS = load_runs("adaptive-codecs")[1]
LINKS = ["rural-lte", "yard-wifi"]


def arm(name: str, times: Mapping[int, float | None], whole_s: float = 300.0) -> Group:
    """Make results of an arm over both links: its seconds to the target by seed; None: never."""
    [run] = [each for each in RUNS if (each.arm.name, each.seed, each.first) == (name, 0, True)]
    rows = {
        seed: {f"target_s.{link}": s for link in LINKS}
        | {f"end_s.{link}": whole_s for link in LINKS}
        | {"final.yard-wifi": 0.9}
        for seed, s in times.items()
    }
    return [Result(replace(run, seed=seed), row, []) for seed, row in rows.items()]


FIVE = {0: 100.0, 1: 110.0, 2: 105.0, 3: 95.0, 4: 100.0}


def test_an_arm_that_is_slower_with_each_seed_is_called_so() -> None:
    slow = arm("int8", {seed: 1.5 * s for seed, s in FIVE.items()})
    rows = rows_of_times([slow, arm("adaptive", FIVE)], LINKS)
    assert [row[:3] for row in rows[:2]] == [
        ["adaptive", "rural-lte", "5 of 5"],
        ["int8", "rural-lte", "5 of 5"],
    ]
    assert [row[4:] for row in rows[:2]] == [["", "first"], ["1.50x", "slower"]]
    assert rows[2][1] == "yard-wifi"


def test_arms_whose_order_changes_from_seed_to_seed_are_not_told_apart() -> None:
    other = arm("int8", {0: 120.0, 1: 100.0, 2: 118.0, 3: 90.0, 4: 115.0})
    assert rows_of_times([arm("adaptive", FIVE), other], LINKS)[1][5] == "not told apart"


def test_an_arm_that_takes_twice_as_long_is_slower_however_long_a_seed_takes() -> None:
    first = {0: 20.0, 1: 30.0, 2: 200.0, 3: 40.0, 4: 25.0}
    other = {seed: s * (1.9 + 0.05 * seed) for seed, s in first.items()}
    assert rows_of_times([arm("adaptive", first), arm("int8", other)], LINKS)[1][4:] == ["2.00x", "slower"]


def test_two_seeds_conclude_nothing() -> None:
    rows = rows_of_times([arm("adaptive", {0: 100.0, 1: 101.0}), arm("int8", {0: 900.0, 1: 901.0})], LINKS)
    assert rows[1][5] == "not told apart, 2 seeds"


def test_a_run_that_never_reaches_the_target_counts_with_its_whole_time() -> None:
    rows = rows_of_times([arm("adaptive", FIVE), arm("topk", dict.fromkeys(FIVE), 250.0)], LINKS)
    assert rows[1][2:] == ["0 of 5", "≥ 250", "≥ 2.45x", "slower"]


def test_times_with_sizes_at_their_largest_are_marked() -> None:
    other = arm("int8", {seed: 2 * s for seed, s in FIVE.items()})
    other[0].row["bound.yard-wifi"] = True
    rows = rows_of_times([arm("adaptive", FIVE), other], LINKS)
    assert [row[4] for row in rows] == ["", "2.00x", "", "≤ 2.00x"]


def test_a_run_that_ends_early_without_the_target_is_not_first() -> None:
    rows = rows_of_times([arm("topk", dict.fromkeys(FIVE), 50.0), arm("adaptive", FIVE)], LINKS)
    assert rows[0][0] == "adaptive"
    assert rows[1][2:] == ["0 of 5", "≥ 50", "≥ 0.49x", "not reached"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.none() | st.floats(1, 299), min_size=5, max_size=5), min_size=1, max_size=3))
def test_the_first_one_reaches_the_target_most_often_and_then_soonest(
    times: list[list[float | None]],
) -> None:
    names = ["adaptive", "int8", "topk"][: len(times)]
    groups = [arm(name, dict(enumerate(each))) for name, each in zip(names, times, strict=True)]
    rows = [row for row in rows_of_times(groups, LINKS) if row[1] == "yard-wifi"]
    reached = {name: sum(s is not None for s in each) for name, each in zip(names, times, strict=True)}
    totals = [sum(300 if s is None else s for s in each) for each in times]
    best = max(reached.values())
    least = min(total for name, total in zip(names, totals, strict=True) if reached[name] == best)
    assert totals[names.index(rows[0][0])] == pytest.approx(least)
    assert reached[rows[0][0]] == best
    assert [row[5] == "first" for row in rows] == [number == 0 < best for number in range(len(rows))]


def test_without_arms_that_are_trained_over_each_link_there_is_no_such_table() -> None:
    group = arm("adaptive", FIVE)
    for each in group:
        del each.row["final.yard-wifi"]
    assert rows_of_times([group], LINKS) == []


def test_the_study_of_adaptive_codecs_compares_the_ladder_that_the_scenario_has() -> None:
    by_arm = {run.arm.name: run.grid_run.point.scenario.flows for run in RUNS if run.first and not run.seed}
    fine, coarse = by_arm["adaptive"].rungs
    for name, rung in (("int8", fine), ("topk", coarse)):
        assert {flow: getattr(by_arm[name], flow) for flow in rung} == rung
    by_link = by_arm["by-link"]
    assert {flow: getattr(by_link, flow) for flow in fine} == fine
    assert by_link.by_link[0].codecs() == coarse
