"""Small tasks whose targets are of other kinds than one class."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from broker.codecs.targets import Output
from scenarios.task import Dataset, Labels, Numbers, Probabilities, Split, Tags, Task

F = nn.functional
WAY = torch.linspace(-1, 1, 8)


class Two(nn.Module):
    """Gives two outputs, as a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.kind, self.size = nn.Linear(16, 4), nn.Linear(16, 1)

    def forward(self, z: Tensor) -> dict[str, Tensor]:
        return {"kind": self.kind(z), "size": self.size(z)[:, 0]}


def _inputs(count: int, seed: int) -> Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))


def _size(inputs: Tensor) -> Tensor:
    return inputs @ WAY


def _label(inputs: Tensor) -> Tensor:
    return 2 * (inputs[:, 0] > 0) + (inputs[:, 1] > 0)


def _some_ignored(inputs: Tensor) -> Tensor:
    return _label(inputs).masked_fill(inputs[:, 2] > 1, -100)


def _tags(inputs: Tensor) -> Tensor:
    return F.pad((inputs > 1).to(torch.uint8), (0, 22))


def _mixed(inputs: Tensor) -> Tensor:
    return F.one_hot(_label(inputs), 4) * 0.7 + 0.075


def _made(name: str, targets: Any, of: Callable[[Tensor], Any], tail: Callable[[], nn.Module]) -> Any:
    def task() -> Task:
        def split(count: int, seed: int) -> Split:
            inputs = _inputs(count, seed)
            return Split(inputs, of(inputs))

        return Task(
            name="kind",
            metric="score",
            targets=targets,
            cut_shape=(16,),
            head=lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU()),
            tail=tail,
            loss=LOSSES[name],
            score=lambda outputs, wanted: -LOSSES[name](outputs, wanted),
            load=lambda: Dataset(split(200, 1), split(100, 2)),
        )

    return task


def _each(losses: Tensor) -> Tensor:
    return losses.flatten(1).mean(1)


LOSSES: dict[str, Callable[[Any, Any], Tensor]] = {
    "one number": lambda outputs, targets: (outputs[:, 0] - targets) ** 2,
    "numbers": lambda outputs, targets: _each((outputs - targets) ** 2),
    "tags": lambda outputs, targets: _each(
        F.binary_cross_entropy_with_logits(outputs, targets.float(), reduction="none")
    ),
    "soft labels": lambda outputs, targets: F.cross_entropy(outputs, targets, reduction="none"),
    "some labels are ignored": lambda outputs, targets: F.cross_entropy(outputs, targets, reduction="none"),
    "two outputs": lambda outputs, targets: (
        F.cross_entropy(outputs["kind"], targets["kind"], reduction="none")
        + (outputs["size"] - targets["size"]) ** 2
    ),
}
_TWO: dict[str, Output] = {"kind": Labels(4), "size": Numbers()}


def _kind(name: str, targets: Any, of: Callable[[Tensor], Any], outputs: int) -> Callable[[], Task]:
    tail = Two if outputs == 0 else lambda: nn.Linear(16, outputs)
    made: Callable[[], Task] = _made(name, targets, of, tail)
    return made


GOOD: dict[str, Callable[[], Task]] = {
    "one number": _kind("one number", Numbers(), _size, 1),
    "numbers": _kind("numbers", Numbers((2,)), lambda inputs: (2 * inputs[:, :2]).double(), 2),
    "tags": _kind("tags", Tags(30), _tags, 30),
    "soft labels": _kind("soft labels", Probabilities(4), _mixed, 4),
    "some labels are ignored": _kind("some labels are ignored", Labels(4, ignore=-100), _some_ignored, 4),
    "two outputs": _kind(
        "two outputs", _TWO, lambda inputs: {"kind": _label(inputs), "size": _size(inputs)}, 0
    ),
}

BROKEN: dict[str, tuple[Callable[[], Task], str]] = {
    "whole numbers": (
        _kind("one number", Numbers(), _label, 1),
        "targets of the training split must be in floating point, not int64; targets.float() makes them so",
    ),
    "numbers of another shape": (
        _kind("one number", Numbers(), lambda inputs: inputs[:, :1], 1),
        "the task says (), a target of the training split has shape (1,)",
    ),
    "each output with each target": (
        lambda: replace(
            GOOD["one number"](), loss=lambda outputs, targets: ((outputs - targets) ** 2).mean(1)
        ),
        (
            "the loss of a sample changes with the other samples: outputs of shape (10, 1) and targets of "
            "shape (10,) are taken each with each; bring both to one shape, as outputs[:, 0] - targets"
        ),
    ),
    "a number that is none": (
        _kind("one number", Numbers(), lambda inputs: 1 / (inputs[:, 0].abs() * 0), 1),
        "is inf, in row N: targets must be finite (float32)",
    ),
    "a label that is neither a class nor ignored": (
        _kind("some labels are ignored", Labels(4, ignore=-1), _some_ignored, 4),
        "is -100, in row N: with classes 4, targets must be 0 to 3, or -1 for one that is left out",
    ),
    "counts for tags": (
        _kind("tags", Tags(30), lambda inputs: 2 * _tags(inputs), 30),
        "is 2, in row N: with 30 tags, targets must be 1 for each tag that a sample has, else 0",
    ),
    "tags in floating point": (
        _kind("tags", Tags(30), lambda inputs: _tags(inputs).float(), 30),
        "split must be integers, 0 or 1, not float32; targets.to(torch.uint8) makes them so",
    ),
    "scores for probabilities": (
        _kind("soft labels", Probabilities(4), lambda inputs: _mixed(inputs) * 2, 4),
        "has the probability 1.55, each must be 0 to 1, in row N: they are how likely each class is",
    ),
    "probabilities that are no whole": (
        _kind("soft labels", Probabilities(4), lambda inputs: _mixed(inputs) / 2, 4),
        "that add up to 0.5, they must add up to 1, in row N: they are how likely each class is",
    ),
    "one output of two": (
        _kind("two outputs", _TWO, _size, 0),
        "the task says that targets are a dict of kind, size, those of the training split are one tensor",
    ),
    "one of two is wrong": (
        _kind("two outputs", _TWO, lambda inputs: {"kind": _label(inputs) + 1, "size": _size(inputs)}, 0),
        (
            "of kind is 4, in row N: with classes 4, targets must be 0 to 3; labels that begin with 1 need 1 "
            "subtracted"
        ),
    ),
}
