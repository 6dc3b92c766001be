"""How a task's training rows are divided among the clients."""

import numpy as np
import numpy.typing as npt

from scenarios.errors import MissingDataError, ScenarioError
from scenarios.outputs import arrays, outputs_of
from scenarios.schema.scenario import Scenario
from scenarios.schema.task_spec import Dirichlet, Partition
from scenarios.seeds import generator
from scenarios.task import Dataset

Rows = npt.NDArray[np.int64]
KEY = "task.partition"


def client_rows(scenario: Scenario, data: Dataset) -> list[Rows]:
    """Give the training rows of each client of the fleet, in its order; see `split_clients`."""
    targets = next(iter(arrays(outputs_of(data.train.targets)).values()))  # of one output, if they matter
    return split_clients(scenario.task.partition, targets, data.owners, scenario.fleet_size, scenario.seed)


def split_clients(
    partition: Partition,
    targets: npt.NDArray[np.int64],
    owners: npt.NDArray[np.int64] | None,
    clients: int,
    seed: int,
) -> list[Rows]:
    """Divide training rows among clients: disjoint, sorted, none empty, the same for the same seed.

    Args:
        partition: iid, shuffled shares whose sizes differ by one at most; natural, an owner per client,
            chosen at random when there are more owners; or a Dirichlet class mixture per client. With
            local, nothing is divided.
        targets: shape (N, *target_shape).
        owners: the owner of each row, shape (N,), or None.
        clients: how many.
        seed: the scenario's.

    Raises:
        ScenarioError: the data do not suffice, or have no owners or no classes where they are needed.
    """
    if partition == "local":
        raise ScenarioError("local: each device has its own data, there is nothing to divide", key=KEY)
    if len(targets) < clients:
        raise MissingDataError(
            f"{len(targets)} training samples are not enough for {clients} clients", key=KEY
        )
    rng = generator(seed, "partition")
    if isinstance(partition, Dirichlet):
        return _by_mixture(targets, clients, partition.dirichlet_alpha, rng)
    if partition == "natural":
        return _by_owner(owners, clients, rng)
    shares = np.array_split(rng.permutation(len(targets)), clients)
    return [np.sort(share) for share in shares]


def _by_owner(owners: npt.NDArray[np.int64] | None, clients: int, rng: np.random.Generator) -> list[Rows]:
    if owners is None:
        raise ScenarioError("natural: these data have no owners; use iid or {dirichlet_alpha: 0.5}", key=KEY)
    known = np.unique(owners)
    if len(known) < clients:
        raise MissingDataError(f"natural: {clients} clients, but the data have {len(known)} owners", key=KEY)
    chosen = np.sort(rng.choice(known, clients, replace=False))
    by_owner = np.argsort(owners, kind="stable")
    starts = np.searchsorted(owners[by_owner], chosen, side="left")
    ends = np.searchsorted(owners[by_owner], chosen, side="right")
    return [by_owner[start:end] for start, end in zip(starts, ends, strict=True)]


def _by_mixture(
    targets: npt.NDArray[np.int64], clients: int, alpha: float, rng: np.random.Generator
) -> list[Rows]:
    """Divide as Hsu et al. 2019 (arXiv 1909.06335), with the symmetric Dir(alpha, ..., alpha).

    Every client draws a class mixture and then as many samples as the others, without replacement; the
    mixture is renormalised over the classes that are left.
    """
    if targets.ndim != 1:
        raise ScenarioError(
            f"dirichlet_alpha needs one class per sample; these targets have shape {targets.shape[1:]}",
            key=KEY,
        )
    classes = np.unique(targets)
    stock = [rng.permutation(np.flatnonzero(targets == label)) for label in classes]
    taken = np.zeros(len(classes), np.int64)
    remaining = np.array([len(rows) for rows in stock])
    shares = []
    for _ in range(clients):
        mixture = rng.dirichlet(np.full(len(classes), alpha))
        counts = _draw_counts(mixture, remaining - taken, len(targets) // clients, rng)
        parts = [rows[first : first + n] for rows, first, n in zip(stock, taken, counts, strict=True)]
        shares.append(np.sort(np.concatenate(parts)))
        taken += counts
    return shares


def _draw_counts(
    mixture: npt.NDArray[np.float64], left: npt.NDArray[np.int64], size: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Draw how many samples to take of each class, never more than are left; sums to `size`."""
    counts = np.zeros_like(left)
    while (missing := size - counts.sum()) > 0:
        weights = np.where(counts < left, mixture, 0.0)
        if weights.sum() == 0.0:  # the mixture has nothing but exhausted classes: take what there is
            weights = (left - counts).astype(np.float64)
        counts += np.minimum(rng.multinomial(missing, weights / weights.sum()), left - counts)
    return counts
