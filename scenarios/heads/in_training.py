"""A head, or a part of one, while it trains: a batch forward, its gradient back, a step of its optimizer.

Devices train heads. Where a device has only the first part of one, the server trains the rest on its behalf.

Letters as in the paper: z activations at the cut, shape (n, d).
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from broker.codecs import Codec
from scenarios.computing.optimizers import Moments, step
from scenarios.computing.placing import CPU, on_cpu
from scenarios.heads.masters import exact, mastered, set_exact
from scenarios.heads.parts import (
    buffers_kept,
    form_of,
    kept_at_home,
    sent_parameters,
    take_one,
    to_train,
    trained,
)
from scenarios.heads.payload import HeadCodec
from scenarios.heads.resting import Resting
from scenarios.schema.training import Training
from scenarios.seeded import seeded
from scenarios.seeds import derive_seed
from scenarios.training import head_origin, head_vector, load_head_vector, parts_of


class HeadInTraining:
    """A head in training.

    Attributes:
        module: the head itself.
        received: what is sent of it as the round began, parameters and statistics, shape (P + S,).
        parameters: how many are sent, P.
        statistics: how many are sent, S.
        learns: whether the gradient at the cut is of any use; not if all before it is frozen.
        z: of the batch that went through last.
        moments: what the optimizer remembers of each parameter.

    Args:
        module: the head; it is this object's from now on.
        initial: what is sent of the head as the run starts, shape (P + S,); all devices have the same array.
        client: the device's name, part of every seed.
        seed: the scenario's.
        training: the scenario's; says by which rule the parameters are moved.
        place: where it computes.
        draws: names the random numbers of its layers, such as dropout's; other names give other numbers.
    """

    received: npt.NDArray[np.float32]
    z: Tensor

    def __init__(
        self,
        module: nn.Module,
        initial: npt.NDArray[np.float32],
        *,
        client: str,
        seed: int,
        training: Training,
        place: torch.device = CPU,
        draws: str = "dropout",
    ) -> None:
        self.module = take_one(module).to(place)
        self.parameters, self.statistics, self.learns, self._shapes = form_of(self.module)
        self._place = place
        self._resting: Resting | None = None
        self.moments: Moments = []
        self._training = training
        self._initial = initial
        self._client = client
        self._seed = seed
        self._draws = draws

    def rest_between_rounds(self) -> None:
        """Have no memory for what is sent from the end of a round to the next head; see `Resting`."""
        self._resting = Resting(sent_parameters(self.module), self._initial)
        self._resting.rest()

    def forget(self) -> None:
        """Forget what the optimizer remembers, unless the scenario wants that kept from round to round."""
        if self._training.head_moments == "reset":
            self.moments = []

    def codec(self, codec: Codec) -> HeadCodec:
        """Give what encodes the head, or a change of it, in a codec."""
        return HeadCodec(codec, self.statistics, self._shapes)

    def receive(self, codec: Codec, payload: bytes) -> None:
        """Take the head that the server sent for a round; WireError if it cannot be used."""
        self.begin_with(self.decode(codec, payload) + head_origin(codec, self._initial))

    def decode(self, codec: Codec, payload: bytes) -> npt.NDArray[np.float32]:
        """Give what the server sent of the head, shape (P + S,); WireError if it cannot be used."""
        return self.codec(codec).decode(payload, self.parameters)

    def begin_with(self, vector: npt.NDArray[np.float32]) -> None:
        """Begin a round with a head, shape (P + S,)."""
        self.received = vector
        self.load(vector)

    def load(self, vector: npt.NDArray[np.float32]) -> None:
        """Set what is sent, shape (P + S,)."""
        if self._resting is not None:
            self._resting.wake()
        load_head_vector(self.module, vector)

    def vector(self) -> npt.NDArray[np.float32]:
        """Copy what is sent, shape (P + S,)."""
        return head_vector(self.module)

    @property
    def at_home(self) -> list[Tensor]:
        """What the device has for itself; see kept_at_home."""
        return [on_cpu(exact(tensor).detach()) for tensor in kept_at_home(self.module)]

    @at_home.setter
    def at_home(self, tensors: Sequence[Tensor]) -> None:
        for own, tensor in zip(kept_at_home(self.module), tensors, strict=bool(tensors)):
            set_exact(own, tensor)

    def again(self) -> AbstractContextManager[None]:
        """Let a batch go through a second time: no statistics change by it."""
        return buffers_kept(self.module)

    def forward(self, inputs: Tensor, number: int, step: int) -> Tensor:
        """Send the batch of a step of a round through the head, to train on it; gives z."""
        if not self.module.training:  # train() goes through all modules
            to_train(self.module)
        with seeded(derive_seed(self._seed, self._draws, self._client, number, step)):
            self.z = self.module(inputs.to(self._place))
        return self.z

    @torch.no_grad()
    def evaluate(self, inputs: Tensor) -> Tensor:
        """Send a batch through the head, to evaluate it; gives z."""
        self.module.eval()
        z: Tensor = self.module(inputs.to(self._place))
        return z

    def backward(self, dz: npt.NDArray[np.float32]) -> None:
        """Add to the parameters' gradients what the gradient at z, shape (n, d), makes of them."""
        # The gradient of <z, dz> at z is dz. z.backward(dz) would say the same, but loads torch's
        # symbolic shapes for it: 45 MB and half a second on a desktop.
        torch.dot(self.z.flatten(), torch.from_numpy(dz).to(self._place).flatten()).backward()  # type: ignore[no-untyped-call]

    def descend(self, lr: float) -> None:
        """Take a step of the optimizer."""
        with mastered(trained(self.module)) as parameters:
            if self._training.proximal_mu:
                self._pull_back(list(map(exact, sent_parameters(self.module))), self._training.proximal_mu)
            step(parameters, self._training.head_optimizer, self.moments, lr)

    @torch.no_grad()
    def _pull_back(self, parameters: Sequence[Tensor], mu: float) -> None:
        """Add the gradient of mu/2 ||w - w_round||^2, FedProx's term (Li et al. 2020, arXiv 1812.06127)."""
        received = parts_of(torch.from_numpy(self.received[: self.parameters]).to(self._place), parameters)
        for parameter, origin in zip(parameters, received, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter - origin, alpha=mu)

    def finish(self) -> npt.NDArray[np.float32]:
        """End the round; gives the change in it of what is sent, shape (P + S,)."""
        change = self.vector() - self.received
        del self.received
        self.forget()
        self.module.zero_grad()  # an idle device of FedAvg keeps one model, not three
        if self._resting is not None:
            self._resting.rest()
        return change
