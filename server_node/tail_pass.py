"""Sends batches through the tail so that one which it cannot take harms no other.

Letters as in the paper: z~ activations at the cut after the codec, shape (n, d).
"""

import logging
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from broker.codecs import Codewords
from broker.wire.errors import WireError
from broker.wire.messages import Activations
from scenarios.schema.scenario import Aggregation
from scenarios.seeded import seeded
from scenarios.training import sgd_step
from server_node.aggregation import LabelFilter, aggregate, agreements

log = logging.getLogger(__name__)

LARGEST = 2.0**64
"""Numbers of this magnitude are refused: their squares are infinite in float32."""

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


class AddedUp(msgspec.Struct, frozen=True):
    """What the step under way has added up.

    Attributes:
        at_parameters: gradients at the tail's parameters, None where there is none; empty between two steps.
        weight: of the samples together; with the rule mean.
        of_clients: of each client the sum over its samples, and their weight; with other rules.
        greatest_loss: of each client.
        sent: client, z~ and labels of each batch; with the rule filtered_mean.
    """

    at_parameters: list[Tensor | None]
    weight: float
    of_clients: dict[str, tuple[Tensor, float]]
    greatest_loss: dict[str, float]
    sent: list[tuple[str, Tensor, Tensor]]


class TailState(msgspec.Struct, frozen=True):
    """What the server has that is not made from the scenario.

    Attributes:
        head: its parameters and buffers.
        tail: the same.
        gradients: of the step under way.
        unsound: clients whose numbers were refused in this step for their size; reason and detail of each.
        filter: what the rule filtered_mean remembers of clients.
    """

    head: list[Tensor]
    tail: list[Tensor]
    gradients: AddedUp
    unsound: dict[str, tuple[str, str]]
    filter: LabelFilter


class TailGradients:
    """The gradients at the tail's parameters that a step of SGD is made of.

    With the rule mean they are added up where torch adds them up, at the parameters. Every other rule needs
    one vector of each client: m times the tail's size in memory.

    Attributes:
        greatest_loss: of each client whose batches are in it.
    """

    def __init__(self, tail: nn.Module, rule: Aggregation) -> None:
        self.greatest_loss: dict[str, float] = {}
        self._sent: list[tuple[str, npt.NDArray[np.float32], npt.NDArray[np.int64]]] = []
        self._tail = tail
        self._rule = rule
        self._weight = 0.0
        self._of: dict[str, tuple[Tensor, float]] = {}  # the sum over a client's samples, and their weight

    def state(self) -> AddedUp:
        """Give what has been added up; tensors are not copies."""
        sent = [(client, torch.tensor(z), torch.tensor(labels)) for client, z, labels in self._sent]
        at_parameters = [parameter.grad for parameter in self._tail.parameters() if self._weight]
        return AddedUp(at_parameters, self._weight, self._of, self.greatest_loss, sent)

    def restore(self, state: AddedUp) -> None:
        """Have added up what a state says."""
        self._weight, self._of = state.weight, state.of_clients
        self.greatest_loss = state.greatest_loss
        self._sent = [(client, z.numpy(), labels.numpy()) for client, z, labels in state.sent]
        for parameter, gradient in zip(
            self._tail.parameters(), state.at_parameters, strict=bool(self._weight)
        ):
            parameter.grad = gradient

    def add(self, group: Passed) -> None:
        """Add batches that went through the tail together; a single one unless the rule is mean."""
        ends = np.cumsum([len(batch.z) for batch in group.batches])[:-1]
        for batch, losses in zip(group.batches, np.split(group.losses.numpy(), ends), strict=True):
            before = self.greatest_loss.get(batch.client, 0.0)
            self.greatest_loss[batch.client] = max(before, float(np.abs(losses).max()))
        pairs = list(zip(learning(self._tail), group.gradients, strict=True))
        if self._rule == "mean":
            first, self._weight = not self._weight, self._weight + group.weight
            for parameter, gradient in pairs:
                if gradient is not None:
                    added = None if first else parameter.grad
                    parameter.grad = gradient if added is None else added + gradient
            return
        (batch,) = group.batches
        if self._rule == "filtered_mean":
            self._sent.append((batch.client, batch.z, batch.targets.numpy()))
        whole = torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1) for p, g in pairs])
        earlier, weight = self._of.get(batch.client, (torch.zeros_like(whole), 0.0))
        self._of[batch.client] = earlier + whole, weight + group.weight

    def agreements(self) -> dict[str, float]:
        """Compare the labels of clients with one another; see `server_node.aggregation.agreements`."""
        if not self._sent:
            return {}
        clients, z, labels = zip(*self._sent, strict=True)
        owners = np.repeat(clients, [len(each) for each in labels])
        return agreements(owners, np.concatenate(z), np.concatenate(labels))

    def leave_out(self, clients: Collection[str]) -> None:
        """Forget the gradients of some clients; the rule is not mean."""
        self._of = {client: each for client, each in self._of.items() if client not in clients}

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
