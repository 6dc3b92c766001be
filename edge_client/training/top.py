"""The last layers of a device in a U-shape: features to the loss, and the gradient back to the features.

Letters: y~ the features that the server sent, shape (n, f).
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from broker.codecs import codec_from_wire, decode_activations
from broker.wire.errors import WireError
from broker.wire.fields import SomeCodecSpecs
from broker.wire.messages import FeatureGradient, Features
from edge_client.training.cut import own_values
from scenarios.computing.placing import on_cpu, place_of, placed
from scenarios.seeded import seeded
from scenarios.seeds import derive_seed, generator
from scenarios.task import Task

Timed = Callable[[str], AbstractContextManager[object]]


class DeviceTop:
    """What a device does between the two halves of a step.

    Args:
        module: the last layers; their gradients stay there until the head's are known, too.
        task: has loss and shapes.
        codecs: of features down and of their gradient up, in a round.
        client: the device's name, part of every seed.
        seed: the scenario's.
        timed: see Device.

    Raises:
        WireError: there is no such codec.
    """

    def __init__(
        self, module: nn.Module, task: Task, codecs: SomeCodecSpecs, *, client: str, seed: int, timed: Timed
    ) -> None:
        down, up = codecs
        self._down, self._up = codec_from_wire(down), codec_from_wire(up)
        self._module = module
        self._task = task
        self._client = client
        self._seed = seed
        self._timed = timed

    def answer(self, features: Features, n: int, targets: Tensor) -> FeatureGradient:
        """Send the features of n samples to the loss, and back; WireError if something cannot be used."""
        with self._timed("decode"):
            y = self._decode(features, n)
        with self._timed("top"):
            gradient, loss = self._back(y, targets, features)
        with self._timed("encode"):
            return self._encode(features, gradient, loss)

    def _decode(self, features: Features, n: int) -> Tensor:
        """Give y~ of n samples; WireError if it cannot be used."""
        y, _ = decode_activations(self._down, features.payload, n, self._task.features_size)
        return torch.from_numpy(y)

    def _back(self, y: Tensor, targets: Tensor, features: Features) -> tuple[Tensor, float]:
        """Give the gradient of the batch's mean loss at y~, and that loss; the top keeps its own gradient.

        Raises:
            WireError: the loss is not finite.
        """
        place = place_of(self._module)
        y = y.to(place).requires_grad_()
        self._module.zero_grad()  # of a step that the server gave up
        with seeded(self._seed_of("dropout of the top", features)):
            outputs = self._module(y)
        loss = self._task.loss(outputs, placed(targets, place)).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        told = float(loss.detach())
        if not math.isfinite(told):
            raise WireError("not-finite", f"the loss of this device is {told}")
        return on_cpu(torch.zeros_like(y) if y.grad is None else y.grad), told

    def score(self, features: Features, n: int, targets: Any) -> float:
        """Give the sum of the scores of n samples that are kept for evaluation; WireError as in `answer`."""
        with self._timed("decode"):
            y = self._decode(features, n)
        with self._timed("top"):
            return self._score(y, targets)

    @torch.no_grad()
    def _score(self, y: Tensor, targets: Any) -> float:
        place = place_of(self._module)
        self._module.eval()
        total = float(scores_of(self._task, self._module(y.to(place)), targets).sum())
        if not math.isfinite(total):
            raise WireError("not-finite", f"the scores of this device are {total} together")
        return total

    def _encode(self, features: Features, gradient: Tensor, loss: float) -> FeatureGradient:
        """Give the answer to features, with the gradient at them; WireError if it is not finite."""
        rng = generator(self._seed, "feature gradient", self._client, features.round, features.step)
        with own_values("gradient at the features"):
            payload = self._up.encode(gradient.numpy(), rng)
        place = features.server, features.round, features.step + 1
        return FeatureGradient(*place, 1, len(gradient), payload, loss)

    def _seed_of(self, what: str, features: Features) -> int:
        return derive_seed(self._seed, what, self._client, features.round, features.step)


def scores_of(task: Task, outputs: Tensor, targets: Any) -> Tensor:
    """Give the score of each sample, shape (n, 1), on the CPU.

    In a U-shape only their sum may leave the device: that of a single sample would tell the server its label.
    """
    assert task.score is not None  # scenarios.loading.checks sees to it
    return task.score(on_cpu(outputs), targets).float()[:, None]
