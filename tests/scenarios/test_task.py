"""What users import to write a task of their own, and the types that they then work with."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

import scenarios.task
from scenarios.task import Dataset, Numbers, Split, Task
from tests.small_task import points, task

GUIDE = Path(__file__).parents[2] / "docs/extending.md"


def test_users_are_told_to_import_exactly_what_is_public() -> None:
    told = re.findall(r"^from scenarios\.task import (.+)$", GUIDE.read_text(), re.MULTILINE)
    assert {name for names in told for name in names.split(", ")} == set(scenarios.task.__all__)


def test_everything_defined_there_is_public() -> None:
    defined = {
        name
        for name, value in vars(scenarios.task).items()
        if getattr(value, "__module__", None) == "scenarios.task" and not name.startswith("_")
    }
    kinds = {"Labels", "Numbers", "Probabilities", "Tags"}
    assert sorted(defined | kinds) == scenarios.task.__all__


def test_a_task_has_the_types_that_a_type_checker_promises() -> None:
    made = task()
    assert_type(made, Task)
    assert_type(made.head, Callable[[], nn.Module])
    assert_type(made.loss, Callable[[Any, Any], Tensor])
    assert_type(made.cut_size, int)
    data = made.load()
    assert_type(data, Dataset)
    assert_type(data.owners, npt.NDArray[np.int64] | None)
    inputs, targets = assert_type(data.train.batch(slice(0, 5)), tuple[Tensor, Any])
    assert (inputs.dtype, targets.dtype) == (torch.float32, torch.int64)
    z = made.head()(inputs)
    assert z.shape == (5, made.cut_size)
    outputs = made.tail()(z)
    assert made.score is not None
    assert made.loss(outputs, targets).shape == made.score(outputs, targets).shape == (5,)


def test_samples_that_are_taken_are_copies() -> None:
    whole = points(10, 1)
    some = assert_type(whole.take(np.array([3, 7])), Split)
    assert torch.equal(some.targets, whole.targets[[3, 7]])
    some.inputs.zero_()
    assert whole.inputs[3].any()


def test_targets_are_computed_with_as_int64_or_float32_whatever_they_are_stored_as() -> None:
    stored = {"kind": torch.ones(3, dtype=torch.uint8), "size": torch.ones(3, 2).double()}
    whole = Split(torch.zeros(3, 1), stored)
    _, targets = whole.take(np.array([0, 2])).batch(slice(0, 2))
    assert {name: (each.dtype, tuple(each.shape)) for name, each in targets.items()} == {
        "kind": (torch.int64, (2,)),
        "size": (torch.float32, (2, 2)),
    }
    with pytest.raises(ValueError, match="3 inputs but 2 targets"):
        Split(torch.zeros(3, 1), {"kind": torch.ones(3), "size": torch.ones(2)})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"classes": 0}, r"a task must say what its targets are: classes=10, or targets=Numbers\(\)"),
        ({"targets": Numbers()}, "targets says what classes and target_shape say: give one or the other"),
        ({"classes": -1}, "classes must be 1 to 16777216, not -1"),
        ({"classes": 0, "targets": {}}, "targets must name the kind of each output"),
    ],
)
def test_a_task_says_once_what_its_targets_are(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        replace(task(), **changes)


def test_pixels_become_numbers_from_0_to_1() -> None:
    pixels = Split(torch.tensor([[0, 51, 255]], dtype=torch.uint8), torch.tensor([1], dtype=torch.uint8))
    inputs, targets = pixels.batch(slice(None))
    torch.testing.assert_close(inputs, torch.tensor([[0.0, 0.2, 1.0]]))
    assert targets.dtype == torch.int64


def test_each_input_has_a_target() -> None:
    with pytest.raises(ValueError, match="2 inputs but 1 targets"):
        Split(torch.zeros(2, 3), torch.zeros(1))
