"""The auxiliary tail of a device: its loss, and back to the gradient at the cut.

Letters: z the activations at the cut as the head gives them, shape (n, d); z~ what the codec leaves of them,
which the server's tail gets.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from broker.wire.errors import WireError
from edge_client.training.cut import DeviceCut
from scenarios.computing.placing import on_cpu, place_of, placed
from scenarios.heads.auxiliary import WithAuxiliary
from scenarios.heads.in_training import HeadInTraining
from scenarios.heads.parts import trained
from scenarios.schema.training import Training
from scenarios.seeded import seeded
from scenarios.seeds import derive_seed
from scenarios.task import Task
from scenarios.training import gradient_to_activations


class BatchOut(NamedTuple):
    """A batch that has gone through the head and was encoded, the last one.

    Attributes:
        head: it went through.
        cut: it was encoded by.
        targets: of its samples.
        round: of which it is.
        step: of that.
    """

    head: HeadInTraining
    cut: DeviceCut
    targets: Any
    round: int
    step: int


def auxiliary_of(head: nn.Module, task: Task, *, client: str, seed: int) -> "DeviceAuxiliary | None":
    """Give what a device does with the auxiliary tail behind its head, if there is one."""
    if not isinstance(head, WithAuxiliary):
        return None
    return DeviceAuxiliary(head.auxiliary, task, client=client, seed=seed)


class DeviceAuxiliary:
    """What a device does with its auxiliary tail.

    In both kinds of rounds the gradient of the auxiliary's own loss is added up at its parameters (CSE-FSL,
    Mu and Shen 2023, arXiv 2302.05599). When the server has sent its gradient, that of how far the
    auxiliary's is from it comes on top (FSL-SAGE, Nair et al. 2025, arXiv 2505.23182).

    Args:
        module: z or z~ -> outputs.
        task: has the loss.
        client: the device's name, part of every seed.
        seed: the scenario's.
    """

    def __init__(self, module: nn.Module, task: Task, *, client: str, seed: int) -> None:
        self._module = module
        self._task = task
        self._client = client
        self._seed = seed

    def lead(self, batch: BatchOut, training: Training) -> None:
        """Learn a batch, and give the head its corrected gradient in the server's place.

        The gradient is that at z: nothing has to be sent for it, so no codec needs to stand in its way.

        Raises:
            WireError: the loss is not finite.
        """
        z = _values(batch)
        read, loss = self._loss(batch, z)
        loss.backward()  # type: ignore[no-untyped-call]
        found = torch.zeros_like(read) if read.grad is None else read.grad
        gradient = on_cpu(found).numpy()
        ratio = gradient_to_activations(gradient, batch.cut.arrives(z))
        strength = training.lambda_in(batch.round, ratio)
        batch.head.backward(batch.cut.correct(gradient, strength))

    def follow(self, batch: BatchOut, gradient: npt.NDArray[np.float32]) -> None:
        """Learn a batch, and the server's gradient at it: the loss is the batch's plus ||a - g||^2 / ||g||^2.

        All of it at z~, as the server's gradient is.

        Args:
            batch: the one that the server has answered.
            gradient: g, the server's at z~, shape (n, d); a is the auxiliary's own.

        Raises:
            WireError: the loss is not finite.
        """
        read, loss = self._loss(batch, batch.cut.arrives(_values(batch)))
        (own,) = torch.autograd.grad(loss, read, create_graph=True)
        wanted = torch.from_numpy(gradient).to(own.device)
        length = wanted.square().sum()
        apart = (own - wanted).square().sum() / length if length > 0 else 0.0
        torch.autograd.backward(loss + apart, inputs=trained(self._module))

    def _loss(self, batch: BatchOut, activations: npt.NDArray[np.float32]) -> tuple[Tensor, Tensor]:
        """Give the activations as a tensor that learns of its gradient, and the batch's mean loss."""
        place = place_of(self._module)
        read = torch.from_numpy(activations).to(place).requires_grad_()
        what = "dropout of the auxiliary"
        with seeded(derive_seed(self._seed, what, self._client, batch.round, batch.step)):
            outputs = self._module(read)
        loss = self._task.loss(outputs, placed(batch.targets, place)).mean()
        if not math.isfinite(told := float(loss.detach())):
            raise WireError("not-finite", f"the loss of this device's auxiliary tail is {told}")
        return read, loss


def _values(batch: BatchOut) -> npt.NDArray[np.float32]:
    """Give z of a batch."""
    values: npt.NDArray[np.float32] = on_cpu(batch.head.z.detach()).numpy()
    return values
