"""Checks a task's data before a run: their kind, and the inputs row by row; target_checks has the targets.

Each check takes one split, or the rows of one client, and gives a sentence on what is wrong, or None.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scenarios.loading.trial.target_checks import unfit_target, unfit_targets
from scenarios.outputs import of_each, outputs_of
from scenarios.task import Dataset, Split, Task

Rows = npt.NDArray[np.int64]
PICTURE_DIMS = 3
WHITE = 255
MUCH = 20
"""Times that the largest test input may be the largest training input, or the other way round."""


def wrong_kind(data: object, task: Task) -> str | None:
    """Say what keeps the result of `load` from being the data of a task; values are not looked at."""
    if not isinstance(data, Dataset):
        return f"load() must give a scenarios.task.Dataset, not {_kind(data)}"
    for name, split in (("training", data.train), ("test", data.test)):
        wrong = wrong_split(name, split, task)
        if wrong:
            return wrong
    if data.owners is not None and np.shape(data.owners) != (len(data.train),):
        return (
            f"owners must name one owner for each of the {len(data.train)} training samples, "
            f"but their shape is {np.shape(data.owners)}"
        )
    return None


def wrong_split(name: str, split: object, task: Task, *, may_be_empty: bool = False) -> str | None:
    """Say what keeps a split from being one of the task; its values are not looked at.

    Args:
        name: which split it is, for the message.
        split: what a function of the task gave.
        task: says what targets are like.
        may_be_empty: no samples are fine.
    """
    if not isinstance(split, Split):
        return f"the {name} data must be a scenarios.task.Split, not {_kind(split)}"
    parts: dict[str, object] = {"inputs": split.inputs}
    parts |= {f"targets {output}".rstrip(): each for output, each in outputs_of(split.targets).items()}
    for part, values in parts.items():
        if not isinstance(values, Tensor):
            return f"the {part} of the {name} split must be a torch.Tensor, not {_kind(values)}"
        if values.device.type != "cpu":
            return f"the {part} of the {name} split must be on the CPU, not on {values.device}"
    if not len(split):
        return None if may_be_empty else f"the {name} split has no samples"
    return unfit_targets(name, split.targets, task)


def wrong_values(split: Split, task: Task, *, whose: str, rows: Rows | None = None) -> str | None:
    """Say which target is out of range, or which input is not finite.

    Args:
        split: training or test data of the right kind.
        task: says what targets are like.
        whose: who has the rows, for the message, such as "client c3".
        rows: the rows to look at; None: all.
    """
    picked = None if rows is None else torch.from_numpy(rows)
    targets = split.targets if picked is None else of_each(lambda each: each[picked], split.targets)
    found = unfit_target(targets, task)
    if found:
        return f"a target of {whose} {found.what}, in row {_row(rows, found.at)}: {found.rule}"
    if not split.inputs.is_floating_point():
        return None
    inputs = split.inputs if picked is None else split.inputs[picked]
    for at in _not_finite(inputs):
        value = inputs[at][~torch.isfinite(inputs[at])].reshape(-1)[0].item()
        return f"an input of {whose} is {value}, in row {_row(rows, at)}: inputs must be finite"
    return None


def _not_finite(inputs: Tensor) -> Iterator[int]:
    """Give the rows with a value that is not finite; 1,024 rows at a time, a copy of all would be large."""
    if inputs.numel() == 0 or all(torch.isfinite(end) for end in torch.aminmax(inputs)):
        return
    for first, some in enumerate(torch.split(inputs, 1024)):
        finite = torch.isfinite(some).reshape(len(some), -1).all(1)
        yield from (1024 * first + (~finite).nonzero()[:, 0]).tolist()


def _row(rows: Rows | None, at: int) -> int:
    return at if rows is None else int(rows[at])


def _kind(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")


def odd_scale(data: Dataset) -> str | None:
    """Say why inputs that look like pictures may be scaled otherwise than the model expects."""
    train, test = data.train.inputs, data.test.inputs
    if train.ndim < PICTURE_DIMS or not train.is_floating_point() or train.dtype != test.dtype:
        return None
    (low, high), (_, most) = (map(float, torch.aminmax(each)) for each in (train, test))
    if max(high, most) > MUCH * max(min(high, most), 1e-9):
        return f"training inputs go up to {high:g}, test inputs up to {most:g}: are both scaled alike?"
    some = train[:1024]
    if low >= 0 and 1 < high <= WHITE and torch.equal(some, some.round()):
        return f"inputs are whole numbers from {low:g} to {high:g}; as uint8, pixels would come as 0 to 1"
    return None
