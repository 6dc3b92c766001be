"""Sends batches through the tail so that one which it cannot take harms no other.

Letters as in the paper: z~ activations at the cut after the codec, shape (n, d).
"""

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from broker.codecs import Codewords
from broker.wire.errors import WireError
from broker.wire.messages import Activations
from scenarios.schema.scenario import Aggregation
from scenarios.seeded import seeded
from scenarios.task import Split, Task
from scenarios.training import sgd_step
from server_node.aggregation import aggregate

log = logging.getLogger(__name__)

LARGEST = 2.0**64
"""Numbers of this magnitude are refused: their squares are infinite in float32."""

EVALUATION_BATCH = 250

Loss = Callable[[Tensor, Tensor], Tensor]
SeedOf = Callable[[str], int]


class Batch(NamedTuple):
    """One client's batch, decoded."""

    client: str
    message: Activations
    weight: float
    z: npt.NDArray[np.float32]  # (n, d)
    codewords: Codewords | None
    targets: Tensor  # (n, *target_shape)


class Passed(NamedTuple):
    """What came of batches that went through the tail together.

    Attributes:
        batches: they.
        losses: of their samples, shape (n,).
        downlink: gradient at z~ of the sum of the losses, each times its batch's weight, shape (n, d).
        gradients: of that sum at the tail's parameters that learn, in their order; None where it has none.
    """

    batches: Sequence[Batch]
    losses: Tensor
    downlink: npt.NDArray[np.float32]
    gradients: tuple[Tensor | None, ...]

    @property
    def weight(self) -> float:
        """Weight of the samples together."""
        return sum(len(batch.z) * batch.weight for batch in self.batches)


def learning(tail: nn.Module) -> list[nn.Parameter]:
    """Give the parameters of the tail that learn."""
    return [parameter for parameter in tail.parameters() if parameter.requires_grad]


class TailGradients:
    """The gradients at the tail's parameters that a step of SGD is made of.

    With the rule mean they are added up where torch adds them up, at the parameters. Every other rule needs
    one vector of each client: m times the tail's size in memory.

    Attributes:
        greatest_loss: of each client whose batches are in it.
    """

    def __init__(self, tail: nn.Module, rule: Aggregation) -> None:
        self.greatest_loss: dict[str, float] = {}
        self._tail = tail
        self._rule = rule
        self._weight = 0.0
        self._of: dict[str, tuple[Tensor, float]] = {}  # the sum over a client's samples, and their weight

    def add(self, group: Passed) -> None:
        """Add batches that went through the tail together; a single one unless the rule is mean."""
        ends = np.cumsum([len(batch.z) for batch in group.batches])[:-1]
        for batch, losses in zip(group.batches, np.split(group.losses.numpy(), ends), strict=True):
            before = self.greatest_loss.get(batch.client, 0.0)
            self.greatest_loss[batch.client] = max(before, float(np.abs(losses).max()))
        pairs = list(zip(learning(self._tail), group.gradients, strict=True))
        if self._rule == "mean":
            self._weight += group.weight
            for parameter, gradient in pairs:
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
            return
        (batch,) = group.batches
        whole = torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1) for p, g in pairs])
        earlier, weight = self._of.get(batch.client, (torch.zeros_like(whole), 0.0))
        self._of[batch.client] = earlier + whole, weight + group.weight

    def step(self, lr: float) -> bool:
        """Move the tail against what the rule makes of the gradients; says whether its parameters are finite.

        Args:
            lr: the rate for the gradient of a mean loss. The gradients of clients are such ones, too.
        """
        if self._weight:
            sgd_step(self._tail, lr / self._weight)
        elif self._of:
            vectors = [(whole / weight).numpy() for _, (whole, weight) in sorted(self._of.items())]
            weights = [weight for _, (_, weight) in sorted(self._of.items())]
            gradient = torch.from_numpy(aggregate(self._rule, vectors, weights))
            parameters = learning(self._tail)
            parts = torch.split(gradient, [parameter.numel() for parameter in parameters])
            for parameter, part in zip(parameters, parts, strict=True):
                parameter.grad = part.view_as(parameter).clone()
            sgd_step(self._tail, lr)
        else:
            return True
        return all(bool(torch.isfinite(parameter).all()) for parameter in self._tail.parameters())


def gradient_to_activations(gradient: npt.NDArray[np.float32], z: npt.NDArray[np.float32]) -> float:
    """Give ||g|| / ||z~||, see `Training.lambda_in`; 0 where z~ is 0 throughout."""
    lengths = [float(np.linalg.norm(each.astype(np.float64))) for each in (gradient, z)]
    return lengths[0] / lengths[1] if lengths[1] else 0.0


def is_sound(values: Tensor) -> bool:
    """Say whether every value is finite and below LARGEST."""
    return bool((values.abs() < LARGEST).all())  # NaN is not below


def send_all(
    tail: nn.Module, loss: Loss, batches: Sequence[Batch], seed_of: SeedOf, *, apart: bool
) -> tuple[list[Passed], dict[str, WireError]]:
    """Send batches through the tail; those that it cannot take are refused, the others go on.

    When something goes wrong with all together, each is tried alone: whoever fails alone is refused, and the
    others go together again. If they fail together although each can go alone, each goes alone.

    Args:
        tail: in train mode. Its parameters and their gradients stay; its buffers are as if nothing that is
            refused had been there.
        loss: of the task.
        batches: at least one.
        seed_of: of dropout, by the first client of those that go together.
        apart: send each alone, for rules that need the gradient of each.

    Returns:
        What went together, and whose batch was refused: "tail" when the tail or the loss raised an error,
        "range" when a loss, a gradient or a buffer is not finite or of magnitude LARGEST and more.
    """
    if not apart:
        together = _send(tail, loss, batches, seed_of)
        if isinstance(together, Passed):
            return [together], {}
        if len(batches) == 1:
            return [], {batches[0].client: together}
    before = [buffer.clone() for buffer in tail.buffers()]  # as they came: what failed together is undone
    alone = [(batch.client, _send(tail, loss, [batch], seed_of)) for batch in batches]
    passed = [result for _, result in alone if isinstance(result, Passed)]
    refused = {client: result for client, result in alone if isinstance(result, WireError)}
    if not apart and passed and refused:
        after = [buffer.clone() for buffer in tail.buffers()]
        _restore(tail, before)
        together = _send(tail, loss, [batch for each in passed for batch in each.batches], seed_of)
        if isinstance(together, Passed):
            return [together], refused
        _restore(tail, after)
    return passed, refused


@torch.no_grad()
def evaluate(task: Task, test: Split, head: nn.Module, tail: nn.Module) -> float:
    """Give the task's metric on a test split, through the cut without a codec."""
    head.eval()
    tail.eval()
    total = 0.0
    for first in range(0, len(test.targets), EVALUATION_BATCH):
        inputs, targets = test.batch(slice(first, first + EVALUATION_BATCH))
        total += float(task.score(tail(head(inputs)), targets).sum())
    return total / len(test.targets)


@torch.no_grad()
def score_one(tail: nn.Module, score: Loss, batch: Batch) -> tuple[float, int] | WireError:
    """Score a batch that a device keeps for evaluation; nothing is learned of it.

    Args:
        tail: its mode is set here.
        score: of the task.
        batch: one client's.

    Returns:
        The sum of the scores and their number; or why not, as in `send_all`.
    """
    tail.eval()
    try:
        scores = score(tail(torch.from_numpy(batch.z)), batch.targets)
    except Exception as error:  # noqa: BLE001 - whatever the user's tail and score raise
        return WireError("tail", f"{type(error).__name__}: {str(error)[:200]}")
    if not is_sound(scores):
        return WireError("range", "a score is not finite, or of magnitude 2**64 or more")
    return float(scores.sum()), len(batch.z)


def _send(tail: nn.Module, loss: Loss, batches: Sequence[Batch], seed_of: SeedOf) -> Passed | WireError:
    before = [buffer.clone() for buffer in tail.buffers()]
    try:
        passed = _through(tail, loss, batches, seed_of(batches[0].client))
    except Exception as error:  # whatever the user's tail and loss raise
        log.info("the tail cannot take a batch of %s", batches[0].client, exc_info=True)
        why = WireError("tail", f"{type(error).__name__}: {str(error)[:200]}")
    else:
        wrong = _what_is_unsound(passed, tail)
        if wrong is None:
            return passed
        why = WireError("range", f"{wrong} not finite, or of magnitude 2**64 or more")
    _restore(tail, before)
    return why


def _through(tail: nn.Module, loss: Loss, batches: Sequence[Batch], seed: int) -> Passed:
    z = torch.from_numpy(np.concatenate([batch.z for batch in batches])).requires_grad_()
    with seeded(seed):
        outputs = tail(z)
    losses = loss(outputs, torch.cat([batch.targets for batch in batches]))
    weights = torch.cat([torch.full((len(batch.z),), batch.weight) for batch in batches])
    total = (losses * weights).sum()
    found: tuple[Tensor | None, ...] = torch.autograd.grad(total, [z, *learning(tail)], allow_unused=True)
    downlink = torch.zeros_like(z) if found[0] is None else found[0]
    return Passed(batches, losses.detach(), downlink.numpy(), found[1:])


def _what_is_unsound(passed: Passed, tail: nn.Module) -> str | None:
    if not is_sound(passed.losses):
        return "the loss is"
    if not is_sound(torch.from_numpy(passed.downlink)):
        return "the gradient at the cut is"
    if not all(is_sound(gradient) for gradient in passed.gradients if gradient is not None):
        return "the gradient at the tail is"
    if not all(is_sound(buffer) for buffer in tail.buffers()):
        return "the tail's running statistics are"
    return None


def _restore(tail: nn.Module, before: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for buffer, value in zip(tail.buffers(), before, strict=True):
            buffer.copy_(value)
