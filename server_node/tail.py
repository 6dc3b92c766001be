"""The server's computation: the tail, the average of the heads, and evaluation.

Letters as in the paper: z~ activations at the cut after the codec, shape (n, d).
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from broker import bits
from broker.codecs import Codec
from broker.errors import WireError
from broker.messages import Activations
from broker.protocol import Job
from scenarios.seeds import derive_seed, generator
from scenarios.task import Split, Task, head_vector, load_head_vector
from server_node.core import CloseRound, Open, RoundClosed, TailStep, TailStepped, TailUpdate

EVALUATION_BATCH = 250


class Tail:
    """The tail and the server's copy of the head.

    Args:
        task: the learning task.
        test: what to evaluate on.
        head: initial head.
        tail: initial tail.
        codecs: of activations up, gradient down, head update up, head state down.
        seed: the scenario's seed.
        tail_lr: learning rate of the tail's SGD.
    """

    def __init__(
        self,
        task: Task,
        test: Split,
        *,
        head: nn.Module,
        tail: nn.Module,
        codecs: tuple[Codec, Codec, Codec, Codec],
        seed: int,
        tail_lr: float,
    ) -> None:
        self.head = head
        self.tail = tail
        self._task = task
        self._test = test
        self._codecs = codecs
        self._seed = seed
        self._optimizer = torch.optim.SGD(tail.parameters(), lr=tail_lr)
        self._optimizer.zero_grad()
        self._samples = 0

    def run(self, job: Job) -> bytes | TailStepped | RoundClosed | None:
        """Do a job of the state machine."""
        match job:
            case Open():
                return self._encode_head(0)
            case TailStep():
                return self._step(job)
            case TailUpdate():
                return self._update()
            case CloseRound():
                return self._close(job)
            case _:
                raise TypeError(f"{type(job).__name__} is no job of the tail")

    def _step(self, job: TailStep) -> TailStepped:
        gradients: dict[str, bytes | WireError] = {}
        arrived: list[tuple[str, npt.NDArray[np.float32], Tensor]] = []
        for client, message in job.batches:
            try:
                arrived.append((client, *self._read(message)))
            except WireError as error:
                gradients[client] = error
        if not arrived:
            return TailStepped(gradients, 0.0, 0)
        z = torch.from_numpy(np.concatenate([z for _, z, _ in arrived])).requires_grad_()
        targets = torch.cat([targets for _, _, targets in arrived])
        torch.manual_seed(derive_seed(self._seed, "dropout", "server", job.round, job.step, arrived[0][0]))
        self.tail.train()
        loss = self._task.loss(self.tail(z), targets).sum()
        loss.backward()  # adds to the tail's gradient: the sum over the step's samples so far
        assert z.grad is not None
        downlink, first = z.grad.numpy(), 0
        for client, batch, _ in arrived:
            n = len(batch)
            rng = generator(self._seed, "gradient", client, job.round, job.step)
            mean_loss_gradient = downlink[first : first + n] / np.float32(n)
            gradients[client] = self._codecs[1].encode(mean_loss_gradient, rng)
            first += n
        self._samples += first
        return TailStepped(gradients, loss.item(), first)

    def _read(self, message: Activations) -> tuple[npt.NDArray[np.float32], Tensor]:
        """Decode one batch; nothing reaches torch before every number in it is checked."""
        task, n = self._task, message.count
        z = self._codecs[0].decode(message.payload, n, task.cut_size)
        shape = (n, *task.target_shape)
        targets = bits.unpack(message.targets, bits.bits_for(task.classes), int(np.prod(shape)))
        if targets.size and int(targets.max()) >= task.classes:
            raise WireError("range", f"target {targets.max()} of {task.classes} classes")
        return z, torch.from_numpy(targets.astype(np.int64).reshape(shape))

    def _update(self) -> None:
        if self._samples:
            for parameter in self.tail.parameters():
                if parameter.grad is not None:
                    parameter.grad /= self._samples
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=False)
        self._samples = 0

    def _close(self, job: CloseRound) -> RoundClosed:
        refused: dict[str, WireError] = {}
        parameters = head_vector(self.head)
        change = np.zeros_like(parameters)
        samples = 0
        for client, update in job.updates:
            try:
                delta = self._codecs[2].decode(update.payload, 1, parameters.size)[0]
            except WireError as error:
                refused[client] = error
                continue
            change += np.float32(update.samples) * delta
            samples += update.samples
        if samples:
            load_head_vector(self.head, parameters + change / np.float32(samples))
        metric = evaluate(self._task, self._test, self.head, self.tail) if job.evaluate else None
        return RoundClosed(self._encode_head(job.round), metric, refused)

    def _encode_head(self, number: int) -> bytes:
        rng = generator(self._seed, "head", number)
        return self._codecs[3].encode(head_vector(self.head)[None, :], rng)


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
