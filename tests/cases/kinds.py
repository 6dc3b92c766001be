"""Tasks as people bring them: some work; the others have a mistake each, with the sentence on it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scenarios.task import Dataset, Split, Task
from tests import small_task


def rows(count: int = 60, seed: int = 1) -> Split:
    return small_task.points(count, seed)


def data(change: Callable[[Split], Any]) -> Callable[[], Dataset]:
    return lambda: Dataset(change(rows()), rows(30, 2))


def kind(**changes: Any) -> Callable[[], Task]:
    return lambda: replace(small_task.task(), name="kind", **changes)


def spoilt(split: Split) -> Split:
    split.inputs[7, 3] = float("nan")
    return split


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.b.weight = self.a.weight

    def forward(self, z: Tensor) -> Tensor:
        outputs: Tensor = self.out(torch.relu(self.b(torch.relu(self.a(z)))))
        return outputs


class Words(nn.Module):
    def __init__(self, words: int) -> None:
        super().__init__()
        self.table = nn.Embedding(words, 16)

    def forward(self, words: Tensor) -> Tensor:
        z: Tensor = self.table(words).mean(1)
        return z


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 16)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner(inputs), inputs


class Frozen(nn.Linear):
    def __init__(self) -> None:
        super().__init__(8, 16)
        self.requires_grad_(requires_grad=False)


def words(split: Split) -> Split:
    return Split(torch.arange(2 * len(split.targets)).reshape(-1, 2) % 50, split.targets)


def with_norm(*, track: bool = True) -> nn.Module:
    norm = nn.BatchNorm1d(16, track_running_stats=track)
    return nn.Sequential(nn.Linear(16, 16), norm, nn.Linear(16, 4))


def norm_head() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU())


def few() -> Dataset:
    """Give the last client one sample."""
    return Dataset(rows(), rows(30, 2), owners=np.repeat(np.arange(4), [30, 20, 9, 1]))


class Detached(nn.Linear):
    def __init__(self) -> None:
        super().__init__(8, 16)

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs).detach()


class Coded(nn.Module):
    """A constant buffer, made from torch's random numbers."""

    code: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 16)
        self.register_buffer("code", torch.randn(16), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        z: Tensor = self.inner(inputs) + self.code
        return z


def half_frozen() -> nn.Module:
    return nn.Sequential(Frozen(), nn.ReLU(), nn.Linear(16, 16))


ONE_HEAD = nn.Linear(8, 16)
LOSS = nn.CrossEntropyLoss(reduction="none")

GOOD: dict[str, Callable[[], Task]] = {
    "plain": kind(),
    "two layers of the tail share a weight": kind(tail=Tied),
    "batch norm in the tail": kind(tail=with_norm),
    "words": kind(head=lambda: Words(50), load=lambda: Dataset(train=words(rows()), test=words(rows(30, 2)))),
    "a part of the head is frozen": kind(head=half_frozen),
    "a frozen head": kind(head=Frozen),
    "a head without parameters": kind(head=nn.Identity, tail=lambda: nn.Linear(8, 4), cut_shape=(8,)),
    "a constant buffer in the head": kind(head=Coded),
    "batch norm in the head": kind(head=norm_head),
    "one sample and batch norm in the tail": kind(tail=with_norm, load=few),
    "one sample and batch norm in the head": kind(head=norm_head, load=few),
    "a score of truth values": kind(score=lambda outputs, targets: outputs.argmax(1) == targets),
    "outputs that are a pair": kind(tail=lambda: nn.Sequential(nn.Linear(16, 4), nn.Identity()), loss=LOSS),
}

BROKEN: dict[str, tuple[Callable[[], Task], str]] = {
    "another cut": (kind(cut_shape=(12,)), "cut_shape says 12 values a sample, the head gives 16"),
    "labels from 1": (
        kind(load=data(lambda split: Split(split.inputs, split.targets + 1))),
        "is 4, in row N: with classes 4, targets must be 0 to 3; labels that begin with 1 need 1 subtracted",
    ),
    "a label of -1": (
        kind(load=data(lambda split: Split(split.inputs, split.targets - 1))),
        (
            "is -1, in row N: with classes 4, targets must be 0 to 3; a label that the loss leaves out needs "
            "targets=Labels(4, ignore=-1)"
        ),
    ),
    "inputs of 64 bits": (
        kind(load=data(lambda split: Split(split.inputs.double(), split.targets))),
        (
            "and dtype float64, fails: RuntimeError: mat1 and mat2 must have the same dtype, but got "
            "Double and "
            "Float; inputs.float() makes them float32"
        ),
    ),
    "a map at the cut": (
        kind(head=lambda: nn.Sequential(nn.Linear(8, 16), nn.Unflatten(1, (4, 2, 2)))),
        "it must give a row for each, (10, 16); x.permute(0, 2, 3, 1).flatten(1) puts channels last",
    ),
    "a NaN in one row": (kind(load=data(spoilt)), "is nan, in row 7: inputs must be finite"),
    "targets with a fraction": (
        kind(load=data(lambda split: Split(split.inputs, split.targets.float()))),
        (
            "the targets of the training split must be integers, not float32; numbers to be predicted need "
            "targets=Numbers() in the task"
        ),
    ),
    "targets of another shape": (
        kind(load=data(lambda split: Split(split.inputs, split.targets[:, None]))),
        "target_shape says (), a target of the training split has shape (1,)",
    ),
    "arrays of numpy": (
        kind(load=data(lambda split: Split(split.inputs.numpy(), split.targets))),  # type: ignore[arg-type]
        "the inputs of the training split must be a torch.Tensor, not numpy.ndarray",
    ),
    "no rows for the test": (
        kind(load=lambda: Dataset(rows(), rows(0))),
        "the test split has no samples",
    ),
    "fewer targets than inputs": (
        kind(load=data(lambda split: Split(split.inputs, split.targets[1:]))),
        "load() of the task fails: ValueError: 60 inputs but 59 targets",
    ),
    "a mean for a loss": (
        kind(loss=nn.CrossEntropyLoss()),
        (
            "loss gives shape () for 10 samples, it must give one value for each sample, shape (10,); "
            "torch's "
            "losses do with reduction='none'"
        ),
    ),
    "a mean for a score": (
        kind(score=lambda outputs, targets: (outputs.argmax(1) == targets).float().mean()),
        "score gives shape () for 31 samples, it must give one value for each sample, shape (31,)",
    ),
    "a pair at the cut": (
        kind(head=Pair),
        "the head gives a tuple, it must give one tensor of shape (n, 16)",
    ),
    "a head with a buffer that changes": (
        kind(head=lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(8, 16))),
        (
            "the buffer parametrizations.weight.0._u of the head changes in training; only those of batch "
            "norm are shared"
        ),
    ),
    "a head that is detached": (
        kind(head=Detached),
        "the head has parameters to train, but its output has no gradient (detach, no_grad)",
    ),
    "one head for all": (
        kind(head=lambda: ONE_HEAD),
        "head() gives the same parameters each time: it must make a new module",
    ),
    "a loss without gradient": (
        kind(loss=lambda outputs, targets: (outputs.argmax(1) != targets).float()),
        "the loss has no gradient: it must be computed from the outputs by torch",
    ),
    "a word that the table lacks": (
        kind(head=lambda: Words(49), load=data(words)),
        "and dtype int64, fails: IndexError: index out of range in self",
    ),
    "a tail that does not fit": (
        kind(tail=lambda: nn.Linear(12, 4)),
        (
            "the tail, given activations of shape (10, 16), fails: RuntimeError: mat1 and mat2 shapes "
            "cannot be "
            "multiplied (10x16 and 12x4)"
        ),
    ),
    "one sample and a norm without statistics": (
        kind(tail=lambda: with_norm(track=False), load=few),
        (
            "client c3 has batches of one sample, and with one the tail, given activations of shape (1, 16), "
            "fails: ValueError: Expected more than 1 value per channel when training, got input size "
            "torch.Size([1, 16])"
        ),
    ),
}
