"""Metrics that are functions of all outputs together, not means over samples.

A metric is made anew for each evaluation, on the server alone. It takes outputs and targets batch by batch,
and gives one number in the end, as the metrics of torchmetrics do. These are imported when one is made: never
on a device.
"""

import importlib
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor

from scenarios.errors import ScenarioError, nearest
from scenarios.task import Metric, Task

log = logging.getLogger(__name__)

KEY = "task.metric"
EXTRA = "pip install 'fedlite-mqtt[torchmetrics]'"
PLACES = ("torchmetrics", "torchmetrics.classification")
LARGEST_EXPONENT = 700.0
Parameter = str | float | None


class MeanLoss:
    """The mean loss of all samples, or e to the power of it (perplexity).

    Args:
        loss: outputs, targets -> loss of each sample, shape (n,).
        exponential: give the perplexity.
    """

    higher_is_better = False

    def __init__(self, loss: Callable[[Any, Any], Tensor], *, exponential: bool) -> None:
        self._loss, self._exponential = loss, exponential
        self._sum, self._samples = 0.0, 0

    def update(self, outputs: Any, targets: Any, /) -> None:
        """See Metric."""
        losses = self._loss(outputs, targets)
        self._sum += float(losses.sum(dtype=torch.float64))
        self._samples += len(losses)

    def compute(self) -> float:
        """See Metric."""
        mean = self._sum / max(1, self._samples)
        if not self._exponential:
            return mean
        return math.exp(mean) if mean < LARGEST_EXPONENT else math.inf


def with_metric(task: Task, wanted: str | Mapping[str, Parameter] | None) -> Task:
    """Give the task with another metric, as `task.metric` of a scenario says; None: its own."""
    match wanted:
        case None:
            return task
        case str():
            made: Callable[[], Metric] = partial(MeanLoss, task.loss, exponential=wanted == "perplexity")
            name = wanted
        case _:
            name = str(wanted["torchmetrics"])
            rest = {key: value for key, value in wanted.items() if key != "torchmetrics"}
            made = partial(torchmetric, name, rest)
    return replace(task, metric=name, score=None, metric_of=made, better=None)


def torchmetric(name: str, parameters: Mapping[str, Parameter]) -> Metric:
    """Make a metric of torchmetrics.

    Args:
        name: of its class, such as MulticlassF1Score or R2Score.
        parameters: what it is made with, such as num_classes.

    Raises:
        ScenarioError: torchmetrics is not installed, or has no such metric, or it cannot be made.
    """
    try:
        modules = [importlib.import_module(place) for place in PLACES]
    except ImportError as error:
        why = f"{name} is of torchmetrics, which is not installed: {EXTRA} brings it"
        raise ScenarioError(why, key=KEY) from error
    base = modules[0].Metric
    kinds: dict[str, Callable[..., Metric]] = {
        each: kind
        for module in modules
        for each, kind in vars(module).items()
        if isinstance(kind, type) and issubclass(kind, base)
    }
    if name not in kinds:
        near = nearest(name, kinds)
        hint = f"; did you mean '{near}'?" if near else ""
        raise ScenarioError(f"torchmetrics has no metric '{name}'{hint}", key=KEY)
    try:
        return kinds[name](**parameters)
    except Exception as error:  # whatever it thinks of its parameters
        why = " ".join(str(error).split())
        raise ScenarioError(f"{name} cannot be made: {type(error).__name__}: {why}", key=KEY) from error


def better_of(task: Task) -> Literal["higher", "lower"]:
    """Say which values of a task's metric are better; of one of torchmetrics it is asked itself."""
    if task.better is not None:
        return task.better
    made = task.metric_of() if task.metric_of else None
    return "lower" if getattr(made, "higher_is_better", None) is False else "higher"


def number_so_far(metric: Metric) -> float:
    """Give what a metric comes to, NaN while it cannot be told, as of too few samples."""
    try:
        return number_of(metric)
    except Exception as error:  # noqa: BLE001 - whatever the user's metric raises; it was tried before the run
        log.info("the metric is not known: %s: %s", type(error).__name__, error)
        return math.nan


def number_of(metric: Metric) -> float:
    """Give what a metric comes to.

    Raises:
        TypeError: it is not one number.
    """
    value = metric.compute()
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"it gives {what}, it must give one number")
    return float(value)
