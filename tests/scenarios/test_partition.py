import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenarios.errors import ScenarioError
from scenarios.partition import split_clients
from scenarios.schema.task_spec import Dirichlet, Partition

Rows = npt.NDArray[np.int64]

LABELS = np.repeat(np.arange(10), 100)
OWNERS = np.arange(1000) % 7 * 11  # seven owners, interleaved, with gaps in their numbers
PARTITIONS: list[Partition] = ["iid", "natural", Dirichlet(dirichlet_alpha=0.5)]


def class_shares(rows: Rows) -> npt.NDArray[np.float64]:
    return np.bincount(LABELS[rows], minlength=10) / len(rows)


def mean_largest_share(alpha: float) -> float:
    shares = split_clients(Dirichlet(dirichlet_alpha=alpha), LABELS, None, 20, 0)
    return float(np.mean([class_shares(rows).max() for rows in shares]))


@pytest.mark.parametrize("partition", PARTITIONS, ids=["iid", "natural", "dirichlet"])
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


@pytest.mark.parametrize("partition", PARTITIONS, ids=["iid", "natural", "dirichlet"])
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
    shares = split_clients(Dirichlet(dirichlet_alpha=0.1), LABELS, None, 30, 0)
    assert {len(rows) for rows in shares} == {33}


def test_dirichlet_has_few_classes_per_client_when_small_and_all_when_large() -> None:
    assert mean_largest_share(0.05) > 0.7
    assert mean_largest_share(0.5) == pytest.approx(0.4, abs=0.1)
    assert mean_largest_share(1000.0) < 0.25


@given(alpha=st.floats(1e-300, 1e6), seed=st.integers(0, 1000))
def test_dirichlet_takes_what_is_left_when_classes_run_out(alpha: float, seed: int) -> None:
    labels = np.repeat([3, 5], [38, 2])
    shares = split_clients(Dirichlet(dirichlet_alpha=alpha), labels, None, 10, seed)
    assert np.array_equal(np.sort(np.concatenate(shares)), np.arange(40))


def test_a_single_class_can_be_divided() -> None:
    shares = split_clients(Dirichlet(dirichlet_alpha=0.5), np.zeros(9, np.int64), None, 3, 0)
    assert [len(rows) for rows in shares] == [3, 3, 3]


@pytest.mark.parametrize("partition", PARTITIONS, ids=["iid", "natural", "dirichlet"])
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


def test_dirichlet_needs_one_class_per_sample() -> None:
    with pytest.raises(ScenarioError) as caught:
        split_clients(Dirichlet(dirichlet_alpha=0.5), np.zeros((10, 4), np.int64), None, 2, 0)
    assert str(caught.value) == (
        "task.partition: dirichlet_alpha needs one class per sample; these targets have shape (4,)"
    )
