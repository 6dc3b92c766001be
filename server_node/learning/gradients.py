"""The gradients at the tail's parameters that a step of its optimizer is made of."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from broker.codecs import Codewords
from scenarios.computing.optimizers import Moments, step
from scenarios.computing.placing import on_cpu, place_of
from scenarios.heads.masters import mastered
from scenarios.outputs import outputs_of
from scenarios.schema.training import Training
from scenarios.training import parts_of
from server_node.learning.aggregation import aggregate, agreements
from server_node.learning.tail_state import AddedUp


class Batch(NamedTuple):
    """One client's batch, decoded."""

    client: str
    round: int
    step: int
    weight: float
    z: npt.NDArray[np.float32]  # (n, d)
    codewords: Codewords | None
    targets: Any  # a tensor of shape (n, ...), or of several outputs a dict of them
    rung: int = 0  # of its client's codecs, see server_node.vocabulary.jobs.Rungs


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
    """The gradients at the tail's parameters that a step of its optimizer is made of.

    With the rule mean they are added up where torch adds them up, at the parameters. Every other rule needs
    one vector of each client: m times the tail's size in memory.

    Attributes:
        greatest_loss: of each client whose batches are in it.
        batches: that are in it, if they are needed once more: for the rule filtered_mean, and for further
            steps with them.

    Args:
        tail: that learns.
        training: the scenario's; has the rules by which many gradients become one, and by which that moves
            the tail.
    """

    def __init__(self, tail: nn.Module, training: Training) -> None:
        self.greatest_loss: dict[str, float] = {}
        self.batches: list[Batch] = []
        self._tail = tail
        self._rule, self._optimizer = training.aggregation, training.tail_optimizer
        self._keeps = training.aggregation == "filtered_mean" or training.tail_updates > 1
        self._weight = 0.0
        self._of: dict[str, tuple[Tensor, float]] = {}  # the sum over a client's samples, and their weight

    def state(self) -> AddedUp:
        """Give what has been added up; tensors are not copies."""
        sent = [(*each[:4], torch.tensor(each.z), outputs_of(each.targets)) for each in self.batches]
        at_parameters = [parameter.grad for parameter in self._tail.parameters() if self._weight]
        return AddedUp(at_parameters, self._weight, self._of, self.greatest_loss, sent)

    def restore(self, state: AddedUp) -> None:
        """Have added up what a state says."""
        place = place_of(self._tail)
        self._weight = state.weight
        self._of = {client: (whole.to(place), weight) for client, (whole, weight) in state.of_clients.items()}
        self.greatest_loss = state.greatest_loss
        self.batches = [
            Batch(client, number, step, weight, z.numpy(), None, targets.get("", targets))
            for client, number, step, weight, z, targets in state.sent
        ]
        for parameter, gradient in zip(
            self._tail.parameters(), state.at_parameters, strict=bool(self._weight)
        ):
            parameter.grad = None if gradient is None else gradient.to(place)

    def add(self, group: Passed) -> None:
        """Add batches that went through the tail together; a single one unless the rule is mean."""
        ends = np.cumsum([len(batch.z) for batch in group.batches])[:-1]
        for batch, losses in zip(group.batches, np.split(group.losses.numpy(), ends), strict=True):
            before = self.greatest_loss.get(batch.client, 0.0)
            self.greatest_loss[batch.client] = max(before, float(np.abs(losses).max()))
        if self._keeps:
            self.batches += [batch._replace(codewords=None) for batch in group.batches]
        pairs = list(zip(learning(self._tail), group.gradients, strict=True))
        if self._rule == "mean":
            first, self._weight = not self._weight, self._weight + group.weight
            for parameter, gradient in pairs:
                if gradient is not None:
                    added = None if first else parameter.grad
                    parameter.grad = gradient if added is None else added + gradient
            return
        (batch,) = group.batches
        whole = torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1).float() for p, g in pairs])
        earlier, weight = self._of.get(batch.client, (torch.zeros_like(whole), 0.0))
        self._of[batch.client] = earlier + whole, weight + group.weight

    def agreements(self) -> dict[str, float]:
        """Compare the labels of clients with one another; see aggregation.agreements."""
        if not self.batches:
            return {}
        owners = np.repeat([each.client for each in self.batches], [len(each.z) for each in self.batches])
        labels = [each.targets.numpy() for each in self.batches]
        return agreements(owners, np.concatenate([each.z for each in self.batches]), np.concatenate(labels))

    def leave_out(self, clients: Collection[str]) -> None:
        """Forget the gradients of some clients; the rule is not mean."""
        self._of = {client: each for client, each in self._of.items() if client not in clients}
        self.batches = [batch for batch in self.batches if batch.client not in clients]

    def step(self, lr: float, moments: Moments) -> bool:
        """Move the tail against what the rule makes of the gradients; says whether its parameters are finite.

        Args:
            lr: the rate for the gradient of a mean loss. The gradients of clients are such ones, too.
            moments: what the optimizer remembers of the tail's parameters; it is changed.
        """
        parameters = learning(self._tail)
        if self._weight:
            with mastered(parameters) as moving:
                step(moving, self._optimizer, moments, lr, weight=self._weight)
        elif self._of:
            vectors = [on_cpu(whole / weight).numpy() for _, (whole, weight) in sorted(self._of.items())]
            weights = [weight for _, (_, weight) in sorted(self._of.items())]
            gradient = torch.from_numpy(aggregate(self._rule, vectors, weights))
            for parameter, part in zip(parameters, parts_of(gradient, parameters), strict=True):
                parameter.grad = part.to(parameter.device, parameter.dtype, copy=True)
            with mastered(parameters) as moving:
                step(moving, self._optimizer, moments, lr)
        else:
            return True
        return all(bool(torch.isfinite(parameter).all()) for parameter in self._tail.parameters())
