"""The server's computation: the tail, the average of the heads, and evaluation.

Letters as in the paper: z~ activations at the cut after the codec, shape (n, d).
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from broker.codecs import Codewords, decode_activations, encode_gradient
from broker.wire import bits
from broker.wire.errors import WireError
from broker.wire.messages import Activations
from scenarios.schema.scenario import Training
from scenarios.seeded import seeded
from scenarios.seeds import derive_seed, generator
from scenarios.task import Split, Task
from scenarios.training import head_origin, head_vector, initial_head, load_head_vector, sgd_step
from server_node.protocol.jobs import (
    CloseRound,
    EncodeHead,
    RoundClosed,
    TailJob,
    TailResult,
    TailStep,
    TailStepped,
    TailUpdate,
)
from server_node.protocol.plan import Plan

EVALUATION_BATCH = 250


class _Batch(NamedTuple):
    client: str
    message: Activations
    weight: float
    z: npt.NDArray[np.float32]  # (n, d)
    codewords: Codewords | None
    targets: Tensor  # (n, *target_shape)


class Tail:
    """The tail and the server's copy of the head.

    Args:
        task: the learning task.
        test: what to evaluate on.
        head: initial head.
        tail: initial tail.
        plan: gives the seed and everybody's codecs.
        training: the scenario's; has the learning rate of the tail's SGD.
        map_batches: `map`, or `executor.map` to decode and encode the batches of a step in parallel.
    """

    def __init__(
        self,
        task: Task,
        test: Split,
        *,
        head: nn.Module,
        tail: nn.Module,
        plan: Plan,
        training: Training,
        map_batches: Callable[..., Iterable[Any]] = map,
    ) -> None:
        self.head = head
        self.tail = tail
        self._task = task
        self._test = test
        self._plan = plan
        self._seed = plan.seed
        self._training = training
        self._map_batches = map_batches
        self._weight = 0.0
        self._head_origin = head_origin(plan.codecs.head_state_down, initial_head(task, plan.seed))

    def run(self, job: TailJob) -> TailResult:
        """Do a job of the state machine."""
        match job:
            case EncodeHead():
                return self._encode_head(0)
            case TailStep():
                return self._step(job)
            case TailUpdate():
                self._update(job)
                return None
            case CloseRound():
                return self._close(job)
            case _:
                raise TypeError(f"{type(job).__name__} is no job of the tail")

    def _step(self, job: TailStep) -> TailStepped:
        gradients: dict[str, tuple[bytes, float] | WireError] = {}
        arrived: list[_Batch] = []
        for (client, _, _), batch in zip(
            job.batches, self._map_batches(self._read, job.batches), strict=True
        ):
            if isinstance(batch, WireError):
                gradients[client] = batch
            else:
                arrived.append(batch)
        if not arrived:
            return TailStepped(gradients, 0.0, 0)
        z = torch.from_numpy(np.concatenate([batch.z for batch in arrived])).requires_grad_()
        self.tail.train()
        with seeded(derive_seed(self._seed, "dropout", "server", arrived[0].client, job.round, job.step)):
            outputs = self.tail(z)
        losses = self._task.loss(outputs, torch.cat([batch.targets for batch in arrived]))
        weights = torch.cat([torch.full((len(batch.z),), batch.weight) for batch in arrived])
        (losses * weights).sum().backward()  # type: ignore[no-untyped-call]  # adds to the gradients of the step so far
        self._weight += float(weights.sum())
        assert z.grad is not None
        downlink = np.split(z.grad.numpy(), np.cumsum([len(batch.z) for batch in arrived])[:-1])
        encoded = self._map_batches(self._encode, arrived, downlink)
        gradients |= dict(zip((batch.client for batch in arrived), encoded, strict=True))
        return TailStepped(gradients, losses.sum().item(), len(z))

    def _read(self, sent: tuple[str, Activations, float]) -> _Batch | WireError:
        """Decode one batch, and check every number in it before torch sees any."""
        client, message, weight = sent
        task, n = self._task, message.count
        try:
            codec = self._plan.codecs_of(client).activations_up
            z, codewords = decode_activations(codec, message.payload, n, task.cut_size)
            shape = (n, *task.target_shape)
            targets = bits.unpack(message.targets, bits.bits_for(task.classes), int(np.prod(shape)))
        except WireError as error:
            return error
        if targets.size and int(targets.max()) >= task.classes:
            return WireError("range", f"target {targets.max()} of {task.classes} classes")
        labels = torch.from_numpy(targets.astype(np.int64).reshape(shape))
        return _Batch(client, message, weight, z, codewords, labels)

    def _encode(self, batch: _Batch, downlink: npt.NDArray[np.float32]) -> tuple[bytes, float]:
        """Encode the gradient of the mean loss of one batch, and give its correction's lambda.

        Args:
            batch: one client's.
            downlink: gradient of the sum of the step's losses, each times its batch's weight, at z~; (n, d).
                Dividing by n and by the weight gives the gradient of this client's mean loss.
        """
        mean_loss_gradient = downlink * np.float32(1 / (len(batch.z) * batch.weight))
        rng = generator(self._seed, "gradient", batch.client, batch.message.round, batch.message.step)
        codec = self._plan.codecs_of(batch.client).gradient_down
        payload = encode_gradient(codec, mean_loss_gradient, batch.codewords, rng)
        relative = self._training.correction.relative  # 0 saves two passes over the batch
        ratio = gradient_to_activations(mean_loss_gradient, batch.z) if relative else 0.0
        return payload, self._training.lambda_in(batch.message.round, ratio)

    def _update(self, job: TailUpdate) -> None:
        if self._weight:
            lr = self._training.tail_lr * self._training.lr_factor(job.round)
            sgd_step(self.tail, lr / self._weight)
        self._weight = 0.0

    def _close(self, job: CloseRound) -> RoundClosed:
        refused: dict[str, WireError] = {}
        parameters = head_vector(self.head)
        change = np.zeros_like(parameters)
        total = 0.0
        for client, update, weight in job.updates:
            try:
                codec = self._plan.codecs_of(client).head_update_up
                delta = codec.decode(update.payload, 1, parameters.size)[0]
            except WireError as error:
                refused[client] = error
                continue
            change += np.float32(weight * update.samples) * delta
            total += weight * update.samples
        if total:
            load_head_vector(self.head, parameters + change / np.float32(total))
        metric = evaluate(self._task, self._test, self.head, self.tail) if job.evaluate else None
        return RoundClosed(self._encode_head(job.round), metric, refused)

    def _encode_head(self, number: int) -> bytes:
        rng = generator(self._seed, "head", number)
        codec = self._plan.codecs.head_state_down
        return codec.encode((head_vector(self.head) - self._head_origin)[None, :], rng)


def gradient_to_activations(gradient: npt.NDArray[np.float32], z: npt.NDArray[np.float32]) -> float:
    """Give ||g|| / ||z~||, see `Training.lambda_in`; 0 where z~ is 0 throughout."""
    lengths = [float(np.linalg.norm(each.astype(np.float64))) for each in (gradient, z)]
    return lengths[0] / lengths[1] if lengths[1] else 0.0


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
