"""How the server makes one vector of its clients' vectors: of heads' changes, and of the tail's gradients.

Letters: u_i the vector of client i, shape (P,), of m clients; w_i > 0 its weight, which is its samples times
1/sqrt(1 + s) for an answer that is s rounds late. For every rule the order of the clients changes the last
bits at most, and equal vectors give themselves.

In split learning the server has seen the samples itself. In FedAvg a client says how many they are, up to
`local_steps` times `batch_size`; each rule says what it does with weights.
"""

import logging
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from scenarios.schema.training import Aggregation, TrimmedMean

log = logging.getLogger(__name__)

Vector = npt.NDArray[np.float32]

DEFAULT_FRACTION = TrimmedMean().fraction
BLOCK = 65_536
"""Coordinates that are sorted at a time: a block of m vectors is copied, not all of them."""

MEMORY = 0.8
"""What is left of a client's running agreement after a step; see `LabelFilter`."""
LEAST = 1 / 3
"""A client whose running agreement is below this share of the median is left out."""
TINY = 1e-30
"""In the place of a length of 0."""
FEWEST = 3
"""Of fewer clients nobody can say whose labels are the odd ones."""


def aggregate(rule: Aggregation, updates: Sequence[Vector], weights: Sequence[float]) -> Vector:
    """Make one vector of several by the scenario's rule.

    Args:
        rule: `training.aggregation`.
        updates: u_1 to u_m, float32, shape (P,) each; m is at least 1, and every value finite.
        weights: w_1 to w_m, each above 0.

    Returns:
        A new array, float32, shape (P,).
    """
    match rule:
        case "mean":
            return mean(updates, weights)
        case "clipped_mean" | "filtered_mean":  # of those whom LabelFilter has left
            return clipped_mean(updates, weights)
        case "coordinate_median":
            return coordinate_median(updates)
        case "trimmed_mean":
            return trimmed_mean(updates, weights, DEFAULT_FRACTION)
        case TrimmedMean(fraction=fraction):
            return trimmed_mean(updates, weights, fraction)


def mean(updates: Sequence[Vector], weights: Sequence[float]) -> Vector:
    """Give sum_i w_i u_i / sum_i w_i, as in FedAvg (McMahan et al. 2017, arXiv 1602.05629).

    One client can move it anywhere.
    """
    total = np.zeros_like(updates[0])
    for update, weight in zip(updates, weights, strict=True):
        total += np.float32(weight) * update
    return total / np.float32(sum(weights))


def clipped_mean(updates: Sequence[Vector], weights: Sequence[float]) -> Vector:
    """Give sum_i w_i c_i u_i / sum_i w_i with c_i = min(1, t / ||u_i||), t = median_i ||u_i||.

    It is one step of centered clipping (Karimireddy, He, Jaggi 2021, arXiv 2012.10333) around 0, that is
    around the head that was sent out, with the median of the norms as the radius. The median takes no account
    of weights. While fewer than half of the clients are hostile, t is at most the greatest honest norm; so a
    hostile one moves the result by at most its share of the weight times that.

    It bounds how far a client pulls, not in which direction.
    """
    norms = np.array([np.linalg.norm(update.astype(np.float64)) for update in updates])
    radius = np.median(norms)
    factors = radius / np.maximum(norms, radius) if radius > 0 else np.zeros(len(norms))
    total = np.zeros(updates[0].shape, np.float64)
    for update, weight, factor in zip(updates, weights, factors, strict=True):
        total += weight * factor * update
    return (total / sum(weights)).astype(np.float32)


def trimmed_mean(updates: Sequence[Vector], weights: Sequence[float], fraction: float) -> Vector:
    """Give, for each coordinate, the mean without its k smallest and its k greatest values.

    k = ceil(fraction m), at most (m - 1) // 2, so that something is left (Yin et al. 2018, arXiv 1803.01498,
    definition 2). Values are cut by their number, whatever their weights; what is left is
    averaged by weight. With at most k hostile clients every value that is left lies between two honest ones.
    """
    k = min(int(np.ceil(fraction * len(updates) - 1e-9)), (len(updates) - 1) // 2)
    if k == 0:
        return mean(updates, weights)
    result = np.empty_like(updates[0])
    column = np.array(weights, np.float64)[:, None]
    for block in _blocks(updates[0].size):
        values = np.stack([update[block] for update in updates])  # (m, at most BLOCK)
        order = np.argsort(values, axis=0, kind="stable")[k : len(updates) - k]
        kept = np.take_along_axis(values, order, axis=0).astype(np.float64)
        by = np.take_along_axis(np.broadcast_to(column, values.shape), order, axis=0)
        result[block] = (kept * by).sum(axis=0) / by.sum(axis=0)
    return result


def coordinate_median(updates: Sequence[Vector]) -> Vector:
    """Give the median of each coordinate (Yin et al. 2018, arXiv 1803.01498, definition 1).

    Between the two middle values when their number is even. Weights are not used: half of the weight would be
    enough to own the result. With fewer than half of the clients hostile it lies between two honest values.
    """
    result = np.empty_like(updates[0])
    for block in _blocks(updates[0].size):
        values = np.sort(np.stack([update[block] for update in updates]), axis=0)  # (m, at most BLOCK)
        middle = values[(len(updates) - 1) // 2 : len(updates) // 2 + 1]
        result[block] = middle.mean(axis=0, dtype=np.float64)
    return result


def agreements(owners: npt.NDArray[np.str_], z: Vector, labels: npt.NDArray[np.int64]) -> dict[str, float]:
    """Say how well each client's labels fit what the others say about like activations.

    Every activation is brought to length 1, so that none counts for more than another. For client i, the
    center of a class is the sum of the *other* clients' activations with that label. A sample of i is judged
    if others have its label, too. It agrees if, of all centers, that of its label makes the smallest angle
    with it.

    Args:
        owners: the client of each sample of a step, shape (N,).
        z: their activations at the cut, finite, float32, shape (N, d).
        labels: theirs, shape (N,).

    Returns:
        For each client with samples that can be judged the share of these that agree.
    """
    lengths = np.sqrt(np.einsum("nd,nd->n", z, z, dtype=np.float64))
    unit = (z / np.maximum(lengths, TINY)[:, None]).astype(np.float32)
    classes, label = np.unique(labels, return_inverse=True)
    chosen = np.eye(len(classes), dtype=np.float32)[label]  # (N, k)
    sums = chosen.T @ unit  # (k, d)
    found: dict[str, float] = {}
    for client in np.unique(owners):
        mine = owners == client
        centers = sums - chosen[mine].T @ unit[mine]
        known = chosen[~mine].any(axis=0)  # (k,)
        centers /= np.maximum(np.linalg.norm(centers, axis=1, keepdims=True), TINY)
        nearest = np.where(known, unit[mine] @ centers.T, -np.inf).argmax(axis=1)
        judged = known[label[mine]]
        if judged.any():
            found[str(client)] = float((nearest == label[mine])[judged].mean())
    return found


class LabelFilter(msgspec.Struct):
    """Says whom the rule filtered_mean leaves out: clients whose labels stay at odds with the others'.

    At a step of the tail a_i is the share of client i's samples that agree with the others, see `agreements`.
    The running agreement s_i begins as the median of the a_i of its first step, and then

        s_i <- MEMORY s_i + (1 - MEMORY) a_i

    Client i is left out of the step, and of the next average of the heads, while s_i < LEAST median_j s_j
    over the clients of the step. What is left is averaged as `clipped_mean`. Whoever is left out goes on
    sending, so it is seen, and it is back after at most two steps in which it agrees as the median does.
    While fewer than half of a step's clients are hostile, the median lies between two honest agreements. A
    step with fewer than FEWEST clients that can be judged says nothing.

    To drop samples whose label is not that of their neighbours is label sanitization (Paudice et al. 2018,
    arXiv 1803.00992), here by client instead of by sample. To judge over many steps follows Karimireddy, He,
    Jaggi 2021 (arXiv 2012.10333): a client that is odd once may be unlucky, one that stays odd is not.

    Attributes:
        agreement: s_i of every client that was judged.
        out: whom the last step that judged them has left out, in order.
    """

    agreement: dict[str, float] = {}
    out: list[str] = []

    def learn(self, found: Mapping[str, float], where: str) -> list[str]:
        """Take the agreements of a step, and give those that are left out from now on, also of other steps.

        Args:
            found: a_i of each client that can be judged.
            where: round and step, for the log, which says who is left out from now on and who no longer is.
        """
        if len(found) < FEWEST:
            return self.out
        usual = float(np.median(list(found.values())))
        for client, share in found.items():
            self.agreement[client] = MEMORY * self.agreement.get(client, usual) + (1 - MEMORY) * share
        least = LEAST * float(np.median([self.agreement[client] for client in found]))
        now = {client for client in found if self.agreement[client] < least}
        before = set(self.out).intersection(found)
        self.out = sorted(now | set(self.out).difference(found))
        for client in sorted(now - before):
            log.warning("%s: %s is left out, its labels contradict those of the others", where, client)
        for client in sorted(before - now):
            log.warning("%s: %s is not left out any more", where, client)
        return self.out


def _blocks(size: int) -> list[slice]:
    return [slice(first, first + BLOCK) for first in range(0, size, BLOCK)]
