from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenarios.errors import MissingDataError, ScenarioError
from scenarios.partition import split_clients
from scenarios.schema.task_spec import Partition, Skew

Rows = npt.NDArray[np.int64]

LABELS = np.repeat(np.arange(10), 100)
OWNERS = np.arange(1000) % 7 * 11  # seven owners, interleaved, with gaps in their numbers
PARTITIONS: dict[str, Partition] = {
    "iid": "iid",
    "natural": "natural",
    "dirichlet": Skew(dirichlet_alpha=0.5),
    "shards": Skew(shards=3),
    "classes": Skew(classes_per_client=2),
    "quantity": Skew(quantity_skew=0.5),
    "both": Skew(dirichlet_alpha=0.5, quantity_skew=0.5),
}
each_partition = pytest.mark.parametrize("partition", PARTITIONS.values(), ids=PARTITIONS)


def class_shares(rows: Rows) -> npt.NDArray[np.float64]:
    return np.bincount(LABELS[rows], minlength=10) / len(rows)


def mean_largest_share(alpha: float) -> float:
    shares = split_clients(Skew(dirichlet_alpha=alpha), LABELS, None, 20, 0)
    return float(np.mean([class_shares(rows).max() for rows in shares]))


@each_partition
@given(clients=st.integers(1, 7), seed=st.integers(0, 2**63 - 1))
def test_clients_are_disjoint_sorted_filled_and_reproducible(
    partition: Partition, clients: int, seed: int
) -> None:
    shares = split_clients(partition, LABELS, OWNERS, clients, seed)
    assert len(shares) == clients
    assert all(len(rows) > 0 and np.all(np.diff(rows) > 0) for rows in shares)
    together = np.concatenate(shares)
    assert len(np.unique(together)) == len(together)
    assert together.dtype == np.int64
    again = split_clients(partition, LABELS, OWNERS, clients, seed)
    assert all(np.array_equal(rows, same) for rows, same in zip(shares, again, strict=True))


@each_partition
def test_another_seed_divides_otherwise(partition: Partition) -> None:
    first, other = (split_clients(partition, LABELS, OWNERS, 3, seed) for seed in (0, 1))
    assert any(not np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_iid_shares_differ_by_one_sample_at_most() -> None:
    sizes = {len(rows) for rows in split_clients("iid", LABELS, None, 30, 0)}
    assert sizes == {33, 34}


def test_natural_gives_each_client_all_rows_of_one_owner() -> None:
    shares = split_clients("natural", LABELS, OWNERS, 7, 0)
    for rows, owner in zip(shares, np.unique(OWNERS), strict=True):
        assert np.array_equal(rows, np.flatnonzero(owner == OWNERS))


def test_natural_chooses_owners_when_there_are_more_of_them() -> None:
    shares = split_clients("natural", LABELS, OWNERS, 2, 0)
    owners = [set(OWNERS[rows].tolist()) for rows in shares]
    assert all(len(one) == 1 for one in owners)
    assert owners[0] != owners[1]


def test_dirichlet_gives_every_client_as_many_samples() -> None:
    shares = split_clients(Skew(dirichlet_alpha=0.1), LABELS, None, 30, 0)
    assert {len(rows) for rows in shares} == {33}


def test_dirichlet_has_few_classes_per_client_when_small_and_all_when_large() -> None:
    assert mean_largest_share(0.05) > 0.7
    assert mean_largest_share(0.5) == pytest.approx(0.4, abs=0.1)
    assert mean_largest_share(1000.0) < 0.25


@given(alpha=st.floats(1e-300, 1e6), seed=st.integers(0, 1000))
def test_dirichlet_takes_what_is_left_when_classes_run_out(alpha: float, seed: int) -> None:
    labels = np.repeat([3, 5], [38, 2])
    shares = split_clients(Skew(dirichlet_alpha=alpha), labels, None, 10, seed)
    assert np.array_equal(np.sort(np.concatenate(shares)), np.arange(40))


def test_a_single_class_can_be_divided() -> None:
    shares = split_clients(Skew(dirichlet_alpha=0.5), np.zeros(9, np.int64), None, 3, 0)
    assert [len(rows) for rows in shares] == [3, 3, 3]


@each_partition
def test_fewer_samples_than_clients_is_an_error(partition: Partition) -> None:
    labels, owners = np.arange(3), np.arange(3)
    with pytest.raises(ScenarioError) as caught:
        split_clients(partition, labels, owners, 4, 0)
    assert str(caught.value) == "task.partition: 3 training samples are not enough for 4 clients"


def test_fewer_owners_than_clients_is_an_error() -> None:
    with pytest.raises(ScenarioError) as caught:
        split_clients("natural", LABELS, OWNERS, 8, 0)
    assert str(caught.value) == "task.partition: natural: 8 clients, but the data have 7 owners"


def test_natural_needs_owners() -> None:
    with pytest.raises(ScenarioError) as caught:
        split_clients("natural", LABELS, None, 2, 0)
    assert str(caught.value) == (
        "task.partition: natural: these data have no owners; use iid or {dirichlet_alpha: 0.5}"
    )


def test_a_small_alpha_of_sizes_gives_most_rows_to_a_few_and_a_large_one_as_many_to_all() -> None:
    def largest(alpha: float) -> int:
        return max(map(len, split_clients(Skew(quantity_skew=alpha), LABELS, None, 10, 0)))

    assert largest(0.1) > 400
    assert largest(1000.0) < 120


@given(
    rows=st.integers(1, 300), clients=st.integers(1, 20), least=st.integers(1, 20), seed=st.integers(0, 99),
    alpha=st.floats(1e-300, 1e6), mixture=st.none() | st.floats(1e-3, 1e3),
)  # fmt: skip
def test_random_sizes_use_every_row_once_and_keep_the_least(
    rows: int, clients: int, least: int, seed: int, alpha: float, mixture: float | None
) -> None:
    partition = Skew(quantity_skew=alpha, min_samples=least, dirichlet_alpha=mixture)
    labels = np.arange(rows) % 3
    if rows < clients * least:
        with pytest.raises(MissingDataError, match=f"{rows} training samples are not enough"):
            split_clients(partition, labels, None, clients, seed)
        return
    shares = split_clients(partition, labels, None, clients, seed)
    assert np.array_equal(np.sort(np.concatenate(shares)), np.arange(rows))
    assert min(map(len, shares)) >= least


def test_sizes_do_not_change_with_the_mixture() -> None:
    one, other = (
        split_clients(Skew(quantity_skew=0.5, dirichlet_alpha=alpha), LABELS, None, 9, 4)
        for alpha in (None, 0.1)
    )
    assert [len(rows) for rows in one] == [len(rows) for rows in other]


@given(
    labels=st.lists(st.integers(0, 5), min_size=12, max_size=80),
    shards=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_shards_are_runs_of_rows_sorted_by_class_that_use_every_row_once(
    labels: list[int], shards: int, seed: int
) -> None:
    clients, targets = 4, np.array(labels)
    shares = split_clients(Skew(shards=shards), targets, None, clients, seed)
    assert np.array_equal(np.sort(np.concatenate(shares)), np.arange(len(labels)))
    size = len(labels) // (clients * shards)
    assert all(size * shards <= len(rows) <= (size + 1) * shards for rows in shares)
    counts = np.bincount(targets, minlength=6)
    most = sum(counts > 0) - 1 + clients * shards  # each border between classes cuts one shard
    assert sum(len(np.unique(targets[rows])) for rows in shares) <= most


@given(
    counts=st.lists(st.integers(8, 30), min_size=1, max_size=6),
    clients=st.integers(1, 8), seed=st.integers(0, 99), data=st.data(),
)  # fmt: skip
def test_each_client_has_so_many_classes_and_those_of_a_class_share_it_equally(
    counts: list[int], clients: int, seed: int, data: st.DataObject
) -> None:
    few = data.draw(st.integers(1, len(counts)))
    targets = np.repeat(np.arange(len(counts)) * 3, counts)
    shares = split_clients(Skew(classes_per_client=few), targets, None, clients, seed)
    assert [len(np.unique(targets[rows])) for rows in shares] == [few] * clients
    together = np.concatenate(shares)
    assert len(np.unique(together)) == len(together)
    takers = []
    for number, size in enumerate(counts):
        mine = [count for rows in shares if (count := int((targets[rows] == 3 * number).sum()))]
        takers.append(len(mine))
        assert sum(mine) == (size if mine else 0)
        assert not mine or max(mine) - min(mine) <= 1
    assert max(takers) - min(takers) <= 1


@pytest.mark.parametrize(
    ("partition", "message"),
    [
        (Skew(shards=300), "shards: 1000 training samples cannot be cut into 4 x 300 shards"),
        (Skew(classes_per_client=11), "classes_per_client: 11, but the data have 10 classes"),
        (
            Skew(quantity_skew=1.0, min_samples=251),
            "1000 training samples are not enough for 4 clients of at least 251 samples",
        ),
        (
            Skew(classes_per_client=1, min_samples=200),
            (
                "classes_per_client would leave a client 100 samples, min_samples asks for 200; "
                "take fewer clients"
            ),
        ),
    ],
)
def test_what_the_data_cannot_give_is_told(partition: Partition, message: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        split_clients(partition, LABELS, None, 4, 0)
    assert str(caught.value) == f"task.partition: {message}"


def test_a_class_with_too_few_rows_for_its_clients_is_named() -> None:
    with pytest.raises(MissingDataError, match="class 1 has 2 training samples for 4 clients"):
        split_clients(Skew(classes_per_client=2), np.repeat([0, 1], [50, 2]), None, 4, 0)


@pytest.mark.parametrize("partition", [Skew(dirichlet_alpha=1.0), Skew(shards=2), Skew(classes_per_client=1)])
def test_what_divides_by_class_needs_classes(partition: Skew) -> None:
    kinds: list[tuple[npt.NDArray[Any], str]] = [
        (np.zeros((10, 4), np.int64), "have shape (4,)"),
        (np.zeros(10, np.float32), "are float32"),
    ]
    for targets, have in kinds:
        with pytest.raises(ScenarioError) as caught:
            split_clients(partition, targets, None, 2, 0)
        said = f"{partition.by_label} needs one class per sample; these targets {have}"
        assert str(caught.value) == f"task.partition: {said}"
