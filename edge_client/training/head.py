"""The head of a device while it trains: a batch forward, its gradient back, a step of SGD.

Letters as in the paper: z activations at the cut, shape (n, d).
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from broker.codecs import Codec, decode_update
from scenarios.seeded import seeded
from scenarios.seeds import derive_seed
from scenarios.task import Task
from scenarios.training import head_origin, head_vector, load_head_vector, sgd_step


class DeviceHead:
    """A head in training.

    Attributes:
        module: the head itself.
        received: its parameters as the round began, shape (P,).
        z: of the batch that went through last.

    Args:
        task: gives the head.
        initial: the head that the run starts from, shape (P,), for all devices the same array.
        client: the device's name, part of every seed.
        seed: the scenario's.
    """

    received: npt.NDArray[np.float32]
    z: Tensor

    def __init__(self, task: Task, initial: npt.NDArray[np.float32], *, client: str, seed: int) -> None:
        self.module = task.head()
        self._initial = initial
        self._client = client
        self._seed = seed

    def receive(self, codec: Codec, payload: bytes) -> None:
        """Begin a round with the head that the server sent; WireError if it cannot be used."""
        change = decode_update(codec, payload, self._initial.size)
        self.received = change + head_origin(codec, self._initial)
        self.load(self.received)

    def load(self, vector: npt.NDArray[np.float32]) -> None:
        """Set the parameters, shape (P,)."""
        load_head_vector(self.module, vector)

    def vector(self) -> npt.NDArray[np.float32]:
        """Copy the parameters, shape (P,)."""
        return head_vector(self.module)

    def forward(self, inputs: Tensor, number: int, step: int) -> Tensor:
        """Send the batch of a step of a round through the head, to train on it; gives z."""
        self.module.train()
        with seeded(derive_seed(self._seed, "dropout", self._client, number, step)):
            self.z = self.module(inputs)
        return self.z

    @torch.no_grad()
    def evaluate(self, inputs: Tensor) -> Tensor:
        """Send a batch through the head, to evaluate it; gives z."""
        self.module.eval()
        z: Tensor = self.module(inputs)
        return z

    def backward(self, dz: npt.NDArray[np.float32]) -> None:
        """Add to the parameters' gradients what the gradient at z, shape (n, d), makes of them."""
        # The gradient of <z, dz> at z is dz. z.backward(dz) would say the same, but loads torch's
        # symbolic shapes for it: 45 MB and half a second on a desktop.
        torch.dot(self.z.flatten(), torch.from_numpy(dz).flatten()).backward()  # type: ignore[no-untyped-call]

    def descend(self, lr: float) -> None:
        """Take a step of SGD."""
        sgd_step(self.module, lr)

    def finish(self) -> npt.NDArray[np.float32]:
        """End the round; gives the change of the parameters in it, shape (P,)."""
        change = self.vector() - self.received
        del self.received
        self.module.zero_grad()  # frees the gradients: an idle device of FedAvg keeps one model, not three
        return change
