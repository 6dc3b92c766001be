"""What a task is: data, a model cut in two, a loss and a metric.

Letters: n samples, z the activations at the cut with shape (n, d), where d is `Task.cut_size`.
"""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from broker.codecs import Codec, Float32
from scenarios.seeds import derive_seed, generator


@dataclass(frozen=True, slots=True)
class Split:
    """Samples and what is to be learned of them.

    uint8 inputs are pixels and stay bytes in memory, a quarter of the size (an edge process holds a whole
    data set for a moment); `batch` gives them as float32 in [0, 1].

    Attributes:
        inputs: shape (N, ...); uint8 pixels, or any dtype the head takes.
        targets: shape (N, *target_shape), integers; `batch` gives them as int64.
    """

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.targets):
            raise ValueError(f"{len(self.inputs)} inputs but {len(self.targets)} targets")

    def take(self, rows: npt.NDArray[np.int64]) -> "Split":
        """Copy some samples, so that the others can be freed."""
        picked = torch.from_numpy(rows)
        return Split(self.inputs[picked], self.targets[picked])

    def batch(self, rows: npt.NDArray[np.int64] | slice) -> tuple[Tensor, Tensor]:
        """Give the head's inputs, shape (n, ...), and the targets, shape (n, *target_shape), of some rows."""
        picked = rows if isinstance(rows, slice) else torch.from_numpy(rows)
        inputs = self.inputs[picked]
        if inputs.dtype == torch.uint8:
            inputs = inputs.float().div_(255)
        return inputs, self.targets[picked].long()


@dataclass(frozen=True, slots=True)
class Dataset:
    """A task's data.

    Attributes:
        train: what the clients share.
        test: what the server evaluates on.
        owners: the natural client (writer, speaker, ...) of each training row, shape (N,), int64; None
            when the data have no owners.
    """

    train: Split
    test: Split
    owners: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Task:
    """A learning task with its model cut in two.

    The order of z is part of the contract: codecs cut it into sub-vectors of neighbouring values, and
    neighbouring channels of one pixel compress far better than neighbouring pixels of one channel. So the
    layout of one sample's activation, `cut_shape`, has its channels last.

    Attributes:
        name: as in the scenario.
        metric: what the mean of `score` is called, such as accuracy.
        classes: targets are integers in [0, classes).
        target_shape: of one sample's target; () for one label.
        cut_shape: of one sample's activation, channels last.
        head: makes the clients' part, inputs (n, ...) -> z (n, d), float32, flattened channels-last. It may
            have no buffers (running statistics), since devices share parameters only.
        tail: makes the server's part, z (n, d) -> outputs.
        loss: outputs, targets -> loss of each sample, shape (n,).
        score: outputs, targets -> score of each sample, shape (n,), float32.
        load: reads the data.
    """

    name: str
    metric: str
    classes: int
    target_shape: tuple[int, ...]
    cut_shape: tuple[int, ...]
    head: Callable[[], nn.Module]
    tail: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    score: Callable[[Tensor, Tensor], Tensor]
    load: Callable[[], Dataset]

    @property
    def cut_size(self) -> int:
        """Values of one sample's activation, d."""
        return math.prod(self.cut_shape)


def uncut(task: Task) -> Task:
    """Make the whole model the head: FedAvg is split learning whose cut comes after the last layer.

    A device then needs the loss only, and nothing but parameters is exchanged. `cut_shape` says nothing.
    """
    return replace(task, cut_shape=(), head=lambda: nn.Sequential(task.head(), task.tail()), tail=nn.Identity)


@dataclass(frozen=True, slots=True)
class BatchSampler:
    """Chooses a client's batches.

    Every batch is a draw without replacement of its own, from (seed, client, round, step) alone: a device
    that was restarted redoes the same step.

    Attributes:
        samples: how many the client has.
        batch_size: samples in a batch; all of them when the client has fewer.
        seed: the scenario's seed.
        client: its name.
    """

    samples: int
    batch_size: int
    seed: int
    client: str

    def rows(self, round_number: int, step: int) -> npt.NDArray[np.int64]:
        """Give the rows of a batch, shape (min(batch_size, samples),)."""
        size = min(self.batch_size, self.samples)
        rng = generator(self.seed, "batch", self.client, round_number, step)
        return rng.choice(self.samples, size, replace=False)


_GENERATOR = threading.Lock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's generator, which is one for all threads, and keep it from the others for a while."""
    with _GENERATOR:
        torch.manual_seed(seed)
        yield


def initial_model(task: Task, seed: int) -> tuple[nn.Module, nn.Module]:
    """Make the head and tail that a run starts from; leaves torch's global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "model"))
        return task.head(), task.tail()


def initial_head(task: Task, seed: int) -> npt.NDArray[np.float32]:
    """Give the head that a run starts from as a vector, see `head_vector`, without making the tail."""
    return head_vector(initial_model(replace(task, tail=nn.Identity), seed)[0])


def head_origin(codec: Codec, initial: npt.NDArray[np.float32]) -> npt.NDArray[np.float32] | np.float32:
    """Give what a codec of head_state_down is spared: heads travel as the difference to it.

    It is the initial head, which every device can make from the seed. Training moves a head by a fraction of
    its length, so the difference has less to lose. float32 loses nothing, and its origin is 0.
    """
    return np.float32(0) if isinstance(codec, Float32) else initial


def head_vector(head: nn.Module) -> npt.NDArray[np.float32]:
    """Copy a module's parameters into one vector, shape (P,), in `parameters()` order, each in C order."""
    with torch.no_grad():
        return torch.cat([parameter.reshape(-1) for parameter in head.parameters()]).numpy()


def load_head_vector(head: nn.Module, vector: npt.NDArray[np.float32]) -> None:
    """Set a module's parameters from `head_vector`'s form; each keeps its place and layout in memory.

    Raises:
        ValueError: the vector is of another length.
    """
    parameters = list(head.parameters())
    size = sum(parameter.numel() for parameter in parameters)
    if vector.shape != (size,):
        raise ValueError(f"a vector of shape {vector.shape} for {size} parameters")
    with torch.no_grad():
        parts = torch.split(torch.tensor(vector), [parameter.numel() for parameter in parameters])
        for parameter, values in zip(parameters, parts, strict=True):
            parameter.copy_(values.view(parameter.shape))


def sgd_step(module: nn.Module, lr: float) -> None:
    """Move a module's parameters against their gradients, and clear these for the next step.

    Plain SGD is written out because torch.optim loads torch's compiler with it: 80 MB and more than a
    second in every process, too much for a small device.
    """
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter.add_(parameter.grad, alpha=-lr)
                parameter.grad.zero_()
