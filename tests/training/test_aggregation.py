"""Every rule of `training.aggregation`: what it gives, and how far a hostile client can move it."""

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scenarios.schema.training import Aggregation, TrimmedMean
from server_node.learning.aggregation import BLOCK, aggregate, trimmed_mean

NAMES: tuple[Aggregation, ...] = (
    "mean",
    "clipped_mean",
    "filtered_mean",
    "trimmed_mean",
    "coordinate_median",
)
each_rule = pytest.mark.parametrize("rule", [*NAMES, TrimmedMean(fraction=0.4)], ids=str)
each_robust_rule = pytest.mark.parametrize("rule", NAMES[1:])
PEAK = 100.0
VALUES = st.floats(-PEAK, PEAK, width=32)
MATRICES = arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 4)), elements=VALUES)
WEIGHTS = st.lists(st.floats(0.1, 50), min_size=9, max_size=9)


def of(rule: Aggregation, updates: npt.ArrayLike, weights: list[float] | None = None) -> list[float]:
    vectors = list(np.atleast_2d(np.array(updates, np.float32)))
    return [float(value) for value in aggregate(rule, vectors, weights or [1.0] * len(vectors))]


def test_values_worked_out_on_paper() -> None:
    """Norms 5, 10 and 20, so the radius is 10 and the third is halved; with 3 updates one is trimmed."""
    updates = [[3, 4], [-6, 8], [12, 16]]
    assert of("mean", updates, [1, 2, 1]) == pytest.approx([3 / 4, 36 / 4])
    assert of("clipped_mean", updates, [1, 2, 1]) == pytest.approx([(3 - 12 + 6) / 4, (4 + 16 + 8) / 4])
    assert of("coordinate_median", updates) == [3, 8]
    assert of("coordinate_median", updates[:2]) == [-1.5, 6]
    assert of("trimmed_mean", updates) == [3, 8]


def test_what_is_left_of_a_trimmed_mean_is_averaged_by_weight() -> None:
    updates = [[1], [2], [4], [1000], [-1000]]
    assert of(TrimmedMean(fraction=0.2), updates, [1, 1, 2, 9, 9]) == pytest.approx([(1 + 2 + 2 * 4) / 4])


@pytest.mark.parametrize(("m", "left"), [(1, 1), (2, 2), (3, 1), (4, 2), (5, 3), (10, 6), (11, 5)])
def test_a_fifth_is_trimmed_at_either_end_rounded_up_and_something_is_left(m: int, left: int) -> None:
    """Of 1, 10, 100, ... those that are left are in the middle."""
    powers = [10.0**power for power in range(m)]
    middle = powers[(m - left) // 2 :][:left]
    assert of("trimmed_mean", np.array(powers)[:, None]) == pytest.approx([sum(middle) / left])


@each_rule
@settings(max_examples=30)
@given(updates=MATRICES, weights=WEIGHTS, seed=st.integers(0, 99))
def test_the_order_of_the_clients_does_not_matter(
    rule: Aggregation, updates: npt.NDArray[np.float32], weights: list[float], seed: int
) -> None:
    own = weights[: len(updates)]
    order = np.random.default_rng(seed).permutation(len(updates))
    if rule == "trimmed_mean" or isinstance(rule, TrimmedMean):
        own = [1.0] * len(updates)  # of equal values with unequal weights any may be the one that is trimmed
    shuffled = of(rule, updates[order], [own[number] for number in order])
    assert shuffled == pytest.approx(of(rule, updates, own), rel=1e-4, abs=1e-3)


@each_rule
@settings(max_examples=30)
@given(update=arrays(np.float32, 3, elements=VALUES), weights=WEIGHTS, m=st.integers(1, 9))
def test_equal_updates_give_themselves(
    rule: Aggregation, update: npt.NDArray[np.float32], weights: list[float], m: int
) -> None:
    assert of(rule, [update] * m, weights[:m]) == pytest.approx(update.tolist(), rel=1e-5, abs=1e-6)


@each_robust_rule
@settings(max_examples=30)
@given(
    honest=arrays(np.float32, (7, 3), elements=VALUES),
    hostile=arrays(np.float32, (1, 3), elements=st.floats(-(2.0**60), 2.0**60, width=32)),
)
def test_one_outlier_of_eight_stays_bounded(
    rule: Aggregation, honest: npt.NDArray[np.float32], hostile: npt.NDArray[np.float32]
) -> None:
    longest = np.linalg.norm(honest.astype(float), axis=1).max()
    result = np.array(of(rule, np.concatenate([honest, hostile])))
    assert np.linalg.norm(result) <= longest * np.sqrt(3) * 1.001 + 1e-6


def test_one_outlier_takes_the_mean_anywhere() -> None:
    assert of("mean", [[0.0], [0.0], [3e9]]) == pytest.approx([1e9])


@pytest.mark.parametrize(
    ("rule", "harmless", "fatal"),
    [("trimmed_mean", 2, 3), ("coordinate_median", 4, 5), ("clipped_mean", 4, 6), ("filtered_mean", 4, 6)],
)
def test_the_breakdown_point_of_ten_clients(rule: Aggregation, harmless: int, fatal: int) -> None:
    """Honest clients say 1, hostile ones 1e9: as many as are allowed for bound the result, more do not."""

    def with_hostile(count: int) -> float:
        return of(rule, [[1.0]] * (10 - count) + [[1e9]] * count)[0]

    assert abs(with_hostile(harmless)) <= 1.001
    assert with_hostile(fatal) > 1e7


@each_robust_rule
def test_a_weight_gives_no_power_to_an_outlier(rule: Aggregation) -> None:
    """A client of ten that says that it has a thousand times the samples."""
    updates = [[1.0, 0.0]] * 9 + [[0.0, 1e9]]
    assert np.linalg.norm(of(rule, updates, [1.0] * 9 + [1000.0])) <= 1.001


def test_vectors_longer_than_a_block_are_aggregated_whole() -> None:
    columns = np.arange(2 * BLOCK + 3, dtype=np.float32)
    updates = [columns + shift for shift in (-7, 0, 1)]
    for rule in ("trimmed_mean", "coordinate_median"):
        np.testing.assert_array_equal(aggregate(rule, updates, [1.0] * 3), columns)


def test_nothing_is_changed_in_place() -> None:
    updates = [np.full(2, value, np.float32) for value in (3, 1, 2)]
    for rule, _ in itertools.product(NAMES, range(2)):
        aggregate(rule, updates, [1.0] * 3)
    assert [update[0] for update in updates] == [3, 1, 2]


def test_clipping_survives_clients_that_learn_nothing() -> None:
    assert of("clipped_mean", [[0, 0], [0, 0], [5, 5]]) == [0, 0]


def test_a_fraction_of_nothing_is_the_mean() -> None:
    updates = [np.array([value], np.float32) for value in (1, 2, 30)]
    assert trimmed_mean(updates, [1.0] * 3, 0.0).tolist() == [11]
