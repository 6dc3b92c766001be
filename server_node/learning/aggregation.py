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

from scenarios.schema.scenario import Aggregation, TrimmedMean

log = logging.getLogger(__name__)

Vector = npt.NDArray[np.float32]

DEFAULT_FRACTION = TrimmedMean().fraction
BLOCK = 65_536
"""Coordinates that are sorted at a time: a block of m vectors is copied, not all of them."""

MEMORY = 0.8
"""What is left of a client's running ratio after a step; see `LossFilter`."""
MOST = 2.0
"""A client whose running ratio is above this is left out."""
CAP = 4.0
"""What one step counts at most: a client whose ratio is 1 again is back after at most 5 steps."""
EASY = 0.25
"""A median below this share of the first step's counts as that share: where losses are small they differ by
how hard each client's data are, and who is a little behind is no attacker."""
FEWEST = 3
"""Of fewer clients nobody can say which loss is the odd one."""


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
        case "clipped_mean" | "filtered_mean":  # of those whom LossFilter has left
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


class LossFilter(msgspec.Struct):
    """Says whom the rule filtered_mean leaves out: clients whose loss stays far above that of the others.

    At a step of the tail client i has the mean loss l_i over its batches, under the tail as it was before the
    step; l is the median of the step's clients, and l_0 that of the first step. The running ratio r_i is 1 at
    first, and then

        r_i <- MEMORY r_i + (1 - MEMORY) min(max(l_i / max(l, EASY l_0), 0), CAP)

    Client i is left out of the step, and of the next average of the heads, while r_i > MOST. What is left is
    averaged as `clipped_mean`. Whoever is left out goes on sending, so its loss goes on being seen, and it is
    back once it fits. While fewer than half of a step's clients are hostile, l lies between two honest
    losses. With fewer than FEWEST clients, or a median that is not above 0, a step says nothing.

    To trust small losses is iterative trimmed loss minimization (Shen, Sanghavi 2019, arXiv 1810.11874), here
    by client instead of by sample. To judge over many steps follows Karimireddy, He, Jaggi 2021 (arXiv
    2012.10333): a client that is odd once may be unlucky, one that stays odd is not.

    Attributes:
        first: l_0; 0 before the first step.
        ratios: r_i of every client that was seen.
    """

    first: float = 0.0
    ratios: dict[str, float] = {}

    def learn(self, losses: Mapping[str, float], where: str) -> set[str]:
        """Take the losses of a step, one of each client, all finite; give those that are left out of it.

        Args:
            losses: l_i of each client of the step.
            where: round and step, for the log, which says who is left out from now on and who no longer is.
        """
        before = {client for client in losses if self.leaves_out(client)}
        median = float(np.median(list(losses.values()))) if len(losses) >= FEWEST else 0.0
        if median > 0:
            self.first = self.first or median
            usual = max(median, EASY * self.first)
            for client, loss in losses.items():
                ratio = min(max(loss / usual, 0.0), CAP)
                self.ratios[client] = MEMORY * self.ratios.get(client, 1.0) + (1 - MEMORY) * ratio
        now = {client for client in losses if self.leaves_out(client)}
        for client in sorted(now - before):
            log.warning("%s: %s is left out, its loss stays far above that of the others", where, client)
        for client in sorted(before - now):
            log.warning("%s: %s is not left out any more", where, client)
        return now

    def leaves_out(self, client: str) -> bool:
        """Say whether a client is left out at present."""
        return self.ratios.get(client, 1.0) > MOST


def _blocks(size: int) -> list[slice]:
    return [slice(first, first + BLOCK) for first in range(0, size, BLOCK)]
