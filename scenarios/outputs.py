"""Targets of one output or of several: what is done with a tensor is done with each of a dict."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from broker.codecs.targets import Values


def of_each(act: Callable[..., Any], *targets: Any) -> Any:
    """Do something with targets; gives what came of it, in a dict if the targets are in one.

    Args:
        act: gets one tensor or array of each of `targets`.
        targets: one or more, each a tensor or array, or each a dict of them with the same names.
    """
    if isinstance(targets[0], dict):
        return {name: act(*(each[name] for each in targets)) for name in targets[0]}
    return act(*targets)


def outputs_of(targets: Any) -> dict[str, Any]:
    """Give the targets of each output by its name; the name of a single one is empty."""
    return targets if isinstance(targets, dict) else {"": targets}


def joined(targets: Sequence[Any]) -> Any:
    """Give the targets of several batches as those of one."""
    return of_each(lambda *each: torch.cat(each), *targets)


def tensors(values: Values) -> Any:
    """Give decoded targets as tensors, which share their memory."""
    return of_each(torch.from_numpy, values)


def arrays(targets: Any) -> Any:
    """Give tensors as arrays, which share their memory."""
    return of_each(lambda each: each.numpy(), targets)
