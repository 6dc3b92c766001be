"""What a task is: data, a model cut in two, a loss and a metric.

Users import from here what a task of their own needs.

Letters: n samples, z the activations at the cut with shape (n, d), where d is `Task.cut_size`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from broker.codecs.targets import Labels, Numbers, Output, Probabilities, Several, Tags, Targets
from scenarios.errors import ScenarioError
from scenarios.outputs import of_each

if TYPE_CHECKING:
    from scenarios.cutting.early import EarlyCut

__all__ = ["Dataset", "Labels", "Metric", "Numbers", "Probabilities", "Split", "Tags", "Task"]


@dataclass(frozen=True, slots=True)
class Split:
    """Samples and their targets.

    uint8 inputs are pixels. They are kept as bytes, a quarter of the memory (an edge process holds a whole
    data set for a moment); `batch` gives them as float32 in [0, 1].

    Raises:
        ValueError: there is not one target for each input.

    Attributes:
        inputs: shape (N, ...); uint8 pixels, or any dtype the head takes.
        targets: a tensor of shape (N, ...) as the kind of the task's targets says; of several outputs a dict
            of such. `batch` gives integers as int64, and others as float32.
    """

    inputs: Tensor
    targets: Any

    def __post_init__(self) -> None:
        of_each(self._check, self.targets)

    def _check(self, targets: Any) -> None:
        if len(self.inputs) != len(targets):
            raise ValueError(f"{len(self.inputs)} inputs but {len(targets)} targets")

    def __len__(self) -> int:
        """Give N."""
        return len(self.inputs)

    def take(self, rows: npt.NDArray[np.int64]) -> "Split":
        """Copy some samples, so that the others can be freed."""
        picked = torch.from_numpy(rows)
        return Split(self.inputs[picked], of_each(lambda each: each[picked], self.targets))

    def batch(self, rows: npt.NDArray[np.int64] | slice) -> tuple[Tensor, Any]:
        """Give the head's inputs, shape (n, ...), and the targets of some rows."""
        picked = rows if isinstance(rows, slice) else torch.from_numpy(rows)
        inputs = self.inputs[picked]
        if inputs.dtype == torch.uint8:
            inputs = inputs.float().div_(255)
        return inputs, of_each(lambda each: _as_computed(each[picked]), self.targets)


def _as_computed(targets: Tensor) -> Tensor:
    return targets.float() if targets.is_floating_point() else targets.long()


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


class Metric(Protocol):
    """A function of all outputs and targets, that takes them batch by batch; torchmetrics has many."""

    def update(self, outputs: Any, targets: Any, /) -> None:
        """Take what the tail gives for n samples, and their targets."""
        ...

    def compute(self) -> Any:
        """Give what the batches so far come to: a number, or a tensor of one."""
        ...


def _nothing_shared() -> Dataset:
    raise ScenarioError("must be local: this task has only what devices have", key="task.partition")


def _cut_nowhere(layer: str) -> "EarlyCut":
    raise ValueError(f"nobody has said how a head is cut behind '{layer}'; see scenarios.tasks.task_of")


@dataclass(frozen=True, kw_only=True)
class Task:
    """A learning task with its model cut in two.

    The order of z is part of the contract: codecs cut it into sub-vectors of neighbouring values, and
    neighbouring channels of one pixel compress far better than neighbouring pixels of one channel. So the
    layout of one sample's activation, `cut_shape`, has its channels last.

    Attributes:
        name: as in the scenario.
        metric: what the metric is called, such as accuracy.
        classes: for targets that are integers in [0, classes): the same as targets=Labels(classes).
        target_shape: with classes: of one sample's target; () for one label.
        targets: every other kind: Labels, Numbers, Tags or Probabilities; of several outputs a dict of them.
        cut_shape: of one sample's activation, channels last.
        head: makes the clients' part, inputs (n, ...) -> z (n, d), float32, flattened channels-last.
            What is sent of it: see scenarios.heads.parts.
        tail: makes the server's part, z (n, d) -> outputs, or features if there is a `top`.
        loss: outputs, targets -> loss of each sample, shape (n,).
        score: outputs, targets -> score of each sample, shape (n,), float32; the metric is their mean.
        metric_of: in the place of `score`, for a metric that is no mean over samples: makes one, for each
            evaluation a new one. It is called on the server alone, so import what it needs in it.
        better: which metrics are better. None: those of `score` and of most others are if they are higher; of
            `metric_of`, what it makes may say `higher_is_better = False`.
        load: reads the data; a task whose devices all have their own needs none.
        load_local: reads a client's own data, for `partition: local`, from the place that the device's owner
            names, a file or a folder; it gets that and the client's name. None: reads what `fedlite data
            export` writes, see scenarios.local.read_share. There may be no samples.
        load_test: reads what the server evaluates on with `partition: local`. None: `load` gives it.
        top: makes the last layers, features (n, f) -> outputs, if the task names them. Then `tail` gives the
            features, flattened channels-last. In a U-shape devices have the top, otherwise the server.
        features_shape: of one sample's features, channels last; with `top` only.
        auxiliary: makes a small tail, z (n, d) -> outputs as those of the whole model, that gives a device
            its gradients in rounds in which the server sends none. None: see scenarios.heads.auxiliary.
        example: gives a few rows of inputs, to find out how the head can be cut once more for slow devices.
            None: they are the first rows of `load`.
        early: cuts the head once more, behind a layer that is named; scenarios.tasks.task_of sets it. Raises
            CutError if that cannot be.
    """

    name: str
    metric: str
    classes: int = 0
    target_shape: tuple[int, ...] = ()
    targets: Output | Mapping[str, Output] | None = None
    cut_shape: tuple[int, ...]
    head: Callable[[], nn.Module]
    tail: Callable[[], nn.Module]
    loss: Callable[[Any, Any], Tensor]
    score: Callable[[Any, Any], Tensor] | None = None
    metric_of: Callable[[], Metric] | None = None
    better: Literal["higher", "lower"] | None = None
    load: Callable[[], Dataset] = _nothing_shared
    load_local: Callable[[Path, str], Split] | None = None
    load_test: Callable[[], Split] | None = None
    top: Callable[[], nn.Module] | None = None
    features_shape: tuple[int, ...] = ()
    auxiliary: Callable[[], nn.Module] | None = None
    example: Callable[[], Tensor] | None = None
    early: Callable[[str], "EarlyCut"] = _cut_nowhere

    def __post_init__(self) -> None:
        if self.targets is None and not self.classes:
            raise ValueError(
                "a task must say what its targets are: classes=10, or targets=Numbers() or another kind"
            )
        if self.targets is not None and (self.classes or self.target_shape):
            raise ValueError("targets says what classes and target_shape say: give one or the other")
        if (self.score is None) == (self.metric_of is None):
            raise ValueError("a task has either score or metric_of")
        _ = self.kind  # raises ValueError if it cannot be

    @property
    def kind(self) -> Targets:
        """What the targets are."""
        if self.targets is None:
            return Labels(self.classes, self.target_shape)
        return Several(self.targets) if isinstance(self.targets, Mapping) else self.targets

    @property
    def has_test(self) -> bool:
        """Whether the server has something to evaluate on."""
        return self.load_test is not None or self.is_shared

    @property
    def is_shared(self) -> bool:
        """Whether there are data to share among clients; else all of them have their own."""
        return self.load is not _nothing_shared

    def test(self) -> Split:
        """Read what the server evaluates on."""
        return self.load().test if self.load_test is None else self.load_test()

    @property
    def cut_size(self) -> int:
        """Values of one sample's activation, d."""
        return math.prod(self.cut_shape)

    @property
    def features_size(self) -> int:
        """Values of one sample's features, f; 0 if the task names no top."""
        return math.prod(self.features_shape) if self.features_shape else 0
