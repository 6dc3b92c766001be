"""Checks what a task's head, tail, loss and score give; each check gives a sentence on it, or None."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from scenarios.task import Task


def shared_parts(head: nn.Module, tail: nn.Module) -> str | None:
    """Say which parameter head and tail have in common, and what a checkpoint cannot hold."""
    names = {value.data_ptr(): name for name, value in head.named_parameters() if value.numel()}
    for name, value in tail.named_parameters():
        if value.numel() and value.data_ptr() in names:
            return (
                f"head and tail share a parameter, {names[value.data_ptr()]} and {name}: devices train the "
                "one, the server the other; give each part its own"
            )
    for part, module in (("head", head), ("tail", tail)):
        for name, entry in module.state_dict().items():
            if not isinstance(entry, Tensor):
                return f"{name} of the {part} is a {type(entry).__name__}, a checkpoint can hold tensors only"
    return None


def unfit_cut(z: Any, n: int, task: Task, *, learns: bool) -> str | None:
    """Say why the head's output cannot be sent as the activations of n samples."""
    if not isinstance(z, Tensor):
        return f"the head gives a {type(z).__name__}, it must give one tensor of shape (n, {task.cut_size})"
    shape = tuple(z.shape)
    if z.ndim != 2 or shape[0] != n:  # noqa: PLR2004 - samples and values
        flat = "; x.permute(0, 2, 3, 1).flatten(1) puts channels last" if z.ndim == 4 else ""  # noqa: PLR2004
        return (
            f"the head gives shape {shape} for {n} samples, it must give a row for each, "
            f"({n}, {task.cut_size}){flat}"
        )
    if shape[1] != task.cut_size:
        return f"cut_shape says {task.cut_size} values a sample, the head gives {shape[1]}"
    if z.dtype != torch.float32 or z.device.type != "cpu":
        return f"the head gives {_what(z)}, it must give float32 on the CPU"
    if learns and not z.requires_grad:
        return "the head has parameters to train, but its output has no gradient (detach, no_grad)"
    return None if torch.isfinite(z).all() else "the head gives values that are not finite"


def unfit_buffers(before: Mapping[str, Tensor], after: Mapping[str, Tensor], part: str) -> str | None:
    """Say which buffer a batch has changed that is no running statistic: it would differ on each device."""
    for name, value in before.items():
        if name not in after or not torch.equal(value, after[name]):
            return f"the buffer {name} of the {part} changes in training; only those of batch norm are shared"
    return None


def unfit_features(y: Any, n: int, task: Task) -> str | None:
    """Say why the tail's output in a U-shape cannot be sent as the features of n samples."""
    expected = f"a row of {task.features_size} float32 values for each sample, as features_shape says"
    if not isinstance(y, Tensor):
        return f"the tail gives a {type(y).__name__}, it must give {expected}"
    if tuple(y.shape) != (n, task.features_size) or y.dtype != torch.float32:
        return f"the tail gives {_what(y)} of shape {tuple(y.shape)} for {n} samples, it must give {expected}"
    return None if torch.isfinite(y).all() else "the tail gives values that are not finite"


def one_for_each(name: str, values: Any, n: int) -> str | None:
    """Say why what loss or score gave is not one finite number for each of n samples."""
    expected = f"it must give one value for each sample, shape ({n},)"
    if not isinstance(values, Tensor):
        return f"{name} gives a {type(values).__name__}, {expected}"
    if tuple(values.shape) != (n,):
        hint = "; torch's losses do with reduction='none'" if name == "loss" and values.ndim == 0 else ""
        return f"{name} gives shape {tuple(values.shape)} for {n} samples, {expected}{hint}"
    if values.device.type != "cpu" or values.is_complex():
        return f"{name} gives {_what(values)}, it must give real numbers on the CPU"
    if name == "loss" and not values.is_floating_point():
        return f"loss gives {_what(values)}, it must give float32"
    return None if torch.isfinite(values).all() else f"{name} gives values that are not finite"


def all_pairs(
    name: str, function: Callable[[Any, Any], Tensor], outputs: Any, targets: Any, values: Tensor
) -> str | None:
    """Say that a loss or score took each output with the targets of all samples.

    A difference of shapes (n, 1) and (n,) is a table of n x n values. Their mean over rows has the right
    shape, and is learned from without an error.
    """
    shapes = [tuple(each.shape) if isinstance(each, Tensor) else () for each in (outputs, targets)]
    n = len(values)
    if n < 2 or sorted(shapes) != [(n,), (n, 1)]:  # noqa: PLR2004 - a single sample has no others
        return None
    with torch.no_grad():
        alone = function(outputs[:1], targets[:1])
    if torch.allclose(alone.float(), values.detach()[:1].float(), rtol=1e-3, atol=1e-5):
        return None
    return (
        f"{name} of a sample changes with the other samples: outputs of shape {shapes[0]} and targets of "
        f"shape {shapes[1]} are taken each with each; bring both to one shape, as outputs[:, 0] - targets"
    )


def unfit_gradients(module: nn.Module, part: str) -> str | None:
    """Say which parameter has a gradient that is not finite, or that none has one."""
    gradients = {name: value.grad for name, value in module.named_parameters() if value.grad is not None}
    if part not in {"tail", "top"} and not gradients:
        return f"no parameter of the {part} gets a gradient, so nothing can be trained"
    for name, gradient in gradients.items():
        if not torch.isfinite(gradient).all():
            return f"the gradient of {name} in the {part} has values that are not finite"
    return None


def _what(values: Tensor) -> str:
    return f"{str(values.dtype).removeprefix('torch.')} on {values.device}"
