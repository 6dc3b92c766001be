"""Checks targets against what a task says of them: their kind, shape and range."""

from typing import NamedTuple

from torch import Tensor

from scenarios.task import Task

MAX_CLASSES = 2**16
"""Targets travel as unsigned integers of at most 16 bits."""


def unfit_task(task: Task) -> str | None:
    """Say why no targets can be as a task says, or None."""
    if not 1 <= task.classes <= MAX_CLASSES:
        return f"classes must be 1 to {MAX_CLASSES}, not {task.classes}"
    return None


def unfit_targets(name: str, targets: Tensor, task: Task) -> str | None:
    """Say why a split's targets are not of the task's kind or shape; values are not looked at.

    Args:
        name: which split it is, for the message.
        targets: shape (N, ...), at least one.
        task: says what targets are like.
    """
    if targets.is_floating_point() or targets.is_complex():
        dtype = str(targets.dtype).removeprefix("torch.")
        return f"the targets of the {name} split must be integers, not {dtype}"
    shape = tuple(targets.shape[1:])
    if shape != task.target_shape:
        return f"target_shape says {task.target_shape}, a target of the {name} split has shape {shape}"
    return None


class UnfitTarget(NamedTuple):
    """A target that is out of range.

    Attributes:
        at: its place among the targets that were looked at.
        value: what it has.
        rule: what it must be, and what helps.
    """

    at: int
    value: float
    rule: str


def unfit_target(targets: Tensor, task: Task) -> UnfitTarget | None:
    """Find the first target that is out of range."""
    bad = (targets < 0) | (targets >= task.classes)
    if not bad.any():
        return None
    at = int(bad.reshape(len(bad), -1).any(1).nonzero()[0])
    value = targets[at][bad[at]].reshape(-1)[0].item()
    rule = f"with classes {task.classes}, targets must be 0 to {task.classes - 1}"
    return UnfitTarget(at, value, rule + _advice(value, task.classes))


def _advice(value: float, classes: int) -> str:
    if value == classes:
        return "; labels that begin with 1 need 1 subtracted"
    return "; there is no label to be ignored, leave such samples out" if value < 0 else ""
