"""Checks targets against what a task says of them: their kind, shape and range."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from broker.codecs.targets import Labels, Numbers, Output, Probabilities, Several, Tags, not_probabilities
from scenarios.outputs import outputs_of
from scenarios.task import Task


def unfit_targets(name: str, targets: Any, task: Task) -> str | None:
    """Say why a split's targets are not of the task's kind or shape; values are not looked at.

    Args:
        name: which split it is, for the message.
        targets: tensors of shape (N, ...), N at least 1: one, or a dict of them.
        task: says what targets are like.
    """
    kinds, given = _outputs(task), outputs_of(targets)
    if kinds.keys() != given.keys():
        told = [
            f"a dict of {', '.join(each)}" if list(each) != [""] else "one tensor" for each in (kinds, given)
        ]
        return f"the task says that targets are {told[0]}, those of the {name} split are {told[1]}"
    for output, kind in kinds.items():
        what = f"targets{output and f' {output}'} of the {name} split"
        wrong = _unfit_dtype(kind, given[output])
        if wrong:
            return f"the {what} must be {wrong}"
        shape = tuple(given[output].shape[1:])
        if shape != kind.shape:
            says = "the task says" if task.targets is not None else "target_shape says"
            return f"{says} {kind.shape}, a target{what.removeprefix('targets')} has shape {shape}"
    return None


def _outputs(task: Task) -> dict[str, Output]:
    kind = task.kind
    if isinstance(kind, Several):
        return dict(kind.outputs)
    return outputs_of(kind)


def _unfit_dtype(kind: Output, targets: Tensor) -> str | None:
    dtype = str(targets.dtype).removeprefix("torch.")
    match kind:
        case Numbers() | Probabilities() if not targets.is_floating_point():
            return f"in floating point, not {dtype}; targets.float() makes them so"
        case Labels() if targets.is_floating_point() or targets.is_complex():
            return f"integers, not {dtype}; numbers to be predicted need targets=Numbers() in the task"
        case Tags() if targets.is_floating_point() or targets.is_complex():
            return f"integers, 0 or 1, not {dtype}; targets.to(torch.uint8) makes them so"
        case _:
            return None


class UnfitTarget(NamedTuple):
    """A target that is out of range.

    Attributes:
        at: its place among the targets that were looked at.
        what: what it is, such as "is 7".
        rule: what it must be, and what helps.
    """

    at: int
    what: str
    rule: str


def unfit_target(targets: Any, task: Task) -> UnfitTarget | None:
    """Find the first target that is out of range."""
    given = outputs_of(targets)
    for output, kind in _outputs(task).items():
        found = _unfit(kind, given[output])
        if found:
            return found._replace(what=f"of {output} {found.what}" if output else found.what)
    return None


def _unfit(kind: Output, targets: Tensor) -> UnfitTarget | None:
    match kind:
        case Labels(classes=classes, ignore=ignore):
            bad = (targets < 0) | (targets >= classes)
            bad = bad if ignore is None else bad & (targets != ignore)
            or_ignored = "" if ignore is None else f", or {ignore} for one that is left out"
            rule = f"with classes {classes}, targets must be 0 to {classes - 1}{or_ignored}"
        case Tags(count=count):
            bad = (targets != 0) & (targets != 1)
            rule = f"with {count} tags, targets must be 1 for each tag that a sample has, else 0"
        case Probabilities():
            if wrong := not_probabilities(targets.float().numpy()):
                return UnfitTarget(wrong[0], wrong[1], "they are how likely each class is")
            return None
        case _:
            bad = ~torch.isfinite(targets.float())
            rule = "targets must be finite (float32)"
    if not bad.any():
        return None
    at = int(bad.reshape(len(bad), -1).any(1).nonzero()[0])
    value = targets[at][bad[at]].reshape(-1)[0].item()
    return UnfitTarget(at, f"is {value}", rule + (_advice(value, kind) if isinstance(kind, Labels) else ""))


def _advice(value: float, kind: Labels) -> str:
    if value == kind.classes:
        return "; labels that begin with 1 need 1 subtracted"
    if value >= 0 or kind.ignore is not None:
        return ""
    return f"; a label that the loss leaves out needs targets=Labels({kind.classes}, ignore={value:g})"
