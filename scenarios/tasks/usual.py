"""The loss and the score that go with a kind of targets, for tasks that say nothing else."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from broker.codecs.targets import Labels, Numbers, Probabilities, Tags
from scenarios.errors import ScenarioError

F = nn.functional


def usual(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Give attributes of Task that follow from what its targets are.

    Classes: cross-entropy and accuracy, both without labels that are ignored. Numbers: the mean squared
    error. Tags: binary cross-entropy and F1, both means over samples. Probabilities: cross-entropy, and how
    often the likeliest class is guessed.

    Args:
        settings: attributes that the task has; they take the place of what is usual.
    """
    found: dict[str, Any]
    match settings.get("targets"):
        case Labels(ignore=int() as ignore):
            losses = partial(class_losses, ignore=ignore)
            found = {"metric": "accuracy", "loss": losses, "metric_of": partial(Accuracy, ignore)}
        case Numbers():
            found = {"metric": "mean squared error", "better": "lower", "loss": squares, "score": squares}
        case Tags():
            found = {"metric": "F1 of samples", "loss": tag_losses, "score": tag_scores}
        case Probabilities():
            found = {"metric": "accuracy", "loss": mixed_losses, "score": likeliest}
        case Mapping() if "loss" not in settings or not settings.keys() & {"score", "metric_of"}:
            raise ScenarioError(
                "targets of several outputs need a loss and a score of yours", key="task.module"
            )
        case _:
            found = {"metric": "accuracy", "loss": class_losses, "score": right_share}
    if settings.keys() & {"score", "metric_of"}:
        return {"metric": found["metric"], "loss": found["loss"]}
    return found


class Accuracy:
    """The share of right guesses among all labels that are not ignored.

    Args:
        ignore: the label of those that are.
    """

    def __init__(self, ignore: int) -> None:
        self._ignore = ignore
        self._right = self._counted = 0

    def update(self, outputs: Tensor, targets: Tensor, /) -> None:
        """See scenarios.task.Metric."""
        guesses = outputs.argmax(class_dimension(outputs.shape, targets.shape))
        self._right += int((guesses == targets).sum())
        self._counted += int((targets != self._ignore).sum())

    def compute(self) -> float:
        """See scenarios.task.Metric."""
        return self._right / self._counted if self._counted else math.nan


def class_losses(outputs: Tensor, targets: Tensor, ignore: int = -100) -> Tensor:
    """Give the cross-entropy of each sample, the mean over its positions if it has several; shape (n,).

    Args:
        outputs: shape (n, classes), (n, ..., classes) or (n, classes, ...).
        targets: shape (n, ...), int64.
        ignore: positions with this target are left out.
    """
    logits = outputs.movedim(class_dimension(outputs.shape, targets.shape), 1)
    losses = F.cross_entropy(logits, targets, reduction="none", ignore_index=ignore)  # 0 where it is left out
    counts = (targets != ignore).reshape(len(targets), -1).sum(1).clamp(min=1)
    return losses.reshape(len(losses), -1).sum(1) / counts


def right_share(outputs: Tensor, targets: Tensor) -> Tensor:
    """Give the share of right guesses among the positions of each sample, shape (n,), float32."""
    return _each((outputs.argmax(class_dimension(outputs.shape, targets.shape)) == targets).float())


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    """Give the mean squared error of each sample, shape (n,); both have as many values, in the same order."""
    return _each((outputs.reshape(targets.shape) - targets) ** 2)


def tag_losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Give the mean binary cross-entropy of each sample's tags, shape (n,); outputs are logits."""
    return _each(F.binary_cross_entropy_with_logits(outputs, targets.float(), reduction="none"))


def tag_scores(outputs: Tensor, targets: Tensor) -> Tensor:
    """Give the F1 of each sample, shape (n,): of tags with a logit above 0; 1 if there are none at all."""
    guessed = outputs > 0
    both = (guessed & (targets > 0)).sum(1)
    total = guessed.sum(1) + targets.sum(1)
    return torch.where(total > 0, 2 * both / total.clamp(min=1), 1.0)


def mixed_losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Give the cross-entropy of each sample with probabilities of its classes, shape (n,)."""
    return F.cross_entropy(outputs, targets, reduction="none")


def likeliest(outputs: Tensor, targets: Tensor) -> Tensor:
    """Say of each sample whether its likeliest class is guessed, shape (n,), float32."""
    return (outputs.argmax(1) == targets.argmax(1)).float()


def class_dimension(outputs: tuple[int, ...], targets: tuple[int, ...]) -> int:
    """Say which dimension of the outputs is that of classes: the last one, or the one after the samples."""
    return len(outputs) - 1 if outputs[:-1] == targets else 1


def _each(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1).mean(1)
