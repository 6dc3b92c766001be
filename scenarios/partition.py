"""How a task's training rows are divided among the clients."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from scenarios.errors import MissingDataError, ScenarioError
from scenarios.outputs import arrays, outputs_of
from scenarios.schema.scenario import Scenario
from scenarios.schema.task_spec import Partition, Skew
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
            chosen at random when there are more owners; or see Skew. With local, nothing is divided.
            dirichlet_alpha leaves out the rest of the division of rows by clients, natural the other owners'
            rows, and classes_per_client classes that nobody has; all others divide every row.
        targets: shape (N, *target_shape).
        owners: the owner of each row, shape (N,), or None.
        clients: how many.
        seed: the scenario's.

    Raises:
        ScenarioError: the data do not suffice, or have no owners or no classes where they are needed.
    """
    if partition == "local":
        raise ScenarioError("local: each device has its own data, there is nothing to divide", key=KEY)
    least = (partition.min_samples if isinstance(partition, Skew) else None) or 1
    if len(targets) < clients * least:
        each = f" of at least {least} samples" if least > 1 else ""
        raise MissingDataError(
            f"{len(targets)} training samples are not enough for {clients} clients{each}", key=KEY
        )
    rng = generator(seed, "partition")
    if partition == "natural":
        return _by_owner(owners, clients, rng)
    if partition == "iid":
        return _cut(rng.permutation(len(targets)), clients)
    sizes = None
    if partition.quantity_skew is not None:
        random_sizes = generator(seed, "partition", "sizes")
        sizes = _sizes(len(targets), clients, partition.quantity_skew, least, random_sizes)
    if partition.by_label is None:
        assert sizes is not None, "a skew is of labels, of sizes, or of both"
        shares = np.split(rng.permutation(len(targets)), np.cumsum(sizes)[:-1])
        return [np.sort(share) for share in shares]
    _check_classes(targets, partition.by_label)
    if partition.shards is not None:
        shares = _by_shards(targets, clients, partition.shards, rng)
    elif partition.classes_per_client is not None:
        shares = _by_few_classes(targets, clients, partition.classes_per_client, rng)
    else:
        assert partition.dirichlet_alpha is not None
        equal = np.full(clients, len(targets) // clients)
        shares = _by_mixture(targets, equal if sizes is None else sizes, partition.dirichlet_alpha, rng)
    smallest = min(map(len, shares))
    if smallest < least:
        raise MissingDataError(
            f"{partition.by_label} would leave a client {smallest} samples, min_samples asks for {least}; "
            "take fewer clients",
            key=KEY,
        )
    return shares


def _cut(rows: Rows, parts: int) -> list[Rows]:
    """Cut rows into parts whose sizes differ by one at most, each sorted."""
    return [np.sort(part) for part in np.array_split(rows, parts)]


def _sizes(rows: int, clients: int, alpha: float, least: int, rng: np.random.Generator) -> Rows:
    """Draw sizes that sum to `rows`, each at least `least`; what is above that is Dirichlet distributed."""
    shares = np.nan_to_num(rng.dirichlet(np.full(clients, alpha)))
    if shares.sum() == 0.0:  # so small an alpha that nothing is left of any share: one has all
        shares[rng.integers(clients)] = 1.0
    drawn: Rows = least + rng.multinomial(rows - clients * least, shares / shares.sum())
    return drawn


def _check_classes(targets: npt.NDArray[np.int64], what: str) -> None:
    if targets.ndim != 1:
        raise ScenarioError(
            f"{what} needs one class per sample; these targets have shape {targets.shape[1:]}", key=KEY
        )
    if not np.issubdtype(targets.dtype, np.integer):
        raise ScenarioError(f"{what} needs one class per sample; these targets are {targets.dtype}", key=KEY)


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


def _by_shards(
    targets: npt.NDArray[np.int64], clients: int, shards: int, rng: np.random.Generator
) -> list[Rows]:
    """Divide as McMahan et al. 2017 (arXiv 1602.05629): sort by class, cut into shards, deal them out."""
    if len(targets) < clients * shards:
        raise MissingDataError(
            f"shards: {len(targets)} training samples cannot be cut into {clients} x {shards} shards", key=KEY
        )
    shuffled = rng.permutation(len(targets))
    by_class = shuffled[np.argsort(targets[shuffled], kind="stable")]
    pieces = np.array_split(by_class, clients * shards)
    dealt = rng.permutation(clients * shards).reshape(clients, shards)
    return [np.sort(np.concatenate([pieces[number] for number in mine])) for mine in dealt]


def _by_few_classes(
    targets: npt.NDArray[np.int64], clients: int, count: int, rng: np.random.Generator
) -> list[Rows]:
    """Give each client `count` classes, those that the fewest have so far, and of each an equal share."""
    classes, sizes = np.unique(targets, return_counts=True)
    if count > len(classes):
        raise ScenarioError(f"classes_per_client: {count}, but the data have {len(classes)} classes", key=KEY)
    owners: list[list[int]] = [[] for _ in classes]
    for client in range(clients):
        shuffled = rng.permutation(len(classes))
        fewest = shuffled[np.argsort([len(owners[number]) for number in shuffled], kind="stable")][:count]
        for number in fewest:
            owners[number].append(client)
    parts: list[list[Rows]] = [[] for _ in range(clients)]
    for label, size, mine in zip(classes, sizes, owners, strict=True):
        if size < len(mine):
            raise MissingDataError(
                f"classes_per_client: class {label} has {size} training samples for {len(mine)} clients; "
                "take fewer clients or fewer classes each",
                key=KEY,
            )
        if mine:
            rows = rng.permutation(np.flatnonzero(targets == label))
            for client, part in zip(mine, np.array_split(rows, len(mine)), strict=True):
                parts[client].append(part)
    return [np.sort(np.concatenate(mine)) for mine in parts]


def _by_mixture(
    targets: npt.NDArray[np.int64], sizes: Sequence[int] | Rows, alpha: float, rng: np.random.Generator
) -> list[Rows]:
    """Divide as Hsu et al. 2019 (arXiv 1909.06335), with the symmetric Dir(alpha, ..., alpha).

    Every client draws a class mixture and then as many samples as `sizes` says, without replacement; the
    mixture is renormalised over the classes that are left.
    """
    classes = np.unique(targets)
    stock = [rng.permutation(np.flatnonzero(targets == label)) for label in classes]
    taken = np.zeros(len(classes), np.int64)
    remaining = np.array([len(rows) for rows in stock])
    shares = []
    for size in sizes:
        mixture = rng.dirichlet(np.full(len(classes), alpha))
        counts = _draw_counts(mixture, remaining - taken, size, rng)
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
