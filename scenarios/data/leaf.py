"""Reads data sets of LEAF (Caldas et al. 2018, arXiv 1812.01097) from files of yours, in one of two forms.

LEAF            all_data_*_train_*.json and all_data_*_test_*.json, in the folder or its train/ and test/
Hugging Face    *.parquet, as Flower publishes them. Files with "test" in their names are for testing. If
                there are none, a part of each user's rows is.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from scenarios.data.tables import parquet_files, read_parquet
from scenarios.errors import ScenarioError
from scenarios.task import Dataset, Split

Mask = npt.NDArray[np.bool_]


Convert = Callable[[Sequence[Any], Sequence[Any]], tuple[npt.NDArray[Any], npt.NDArray[np.int64]]]


@dataclass(frozen=True, slots=True)
class LeafSchema:
    """How one data set is stored.

    Attributes:
        name: what LEAF calls the data set.
        published: where its parquet files are.
        columns: names of the parquet columns with inputs, users and targets.
        of_json: makes inputs, shape (n, ...), and targets, shape (n,), from a user's x and y.
        of_parquet: makes the same from the values of the columns.
        hold_out: is given the user of each row, and says which rows are for training and which for testing,
            shapes (N,); for parquet files without a test part.

    `of_json` and `of_parquet` raise ValueError or TypeError for values that are not of this data set.
    """

    name: str
    published: str
    columns: tuple[str, str, str]
    of_json: Convert
    of_parquet: Convert
    hold_out: Callable[[npt.NDArray[np.int64]], tuple[Mask, Mask]]

    @property
    def files(self) -> str:
        """Which files a folder must hold."""
        return (
            "the LEAF JSON files (all_data_*_train_*.json, ..._test_*.json) or the parquet files of "
            f"{self.published}"
        )


def load_leaf(folder: Path, form: LeafSchema) -> Dataset:
    """Read the rows; the users are the owners, numbered in the order of their names.

    Raises:
        ScenarioError: no such files, or they hold something else.
    """
    train_json, test_json = (
        sorted({*folder.glob(f"*_{part}_*.json"), *folder.glob(f"{part}/*_{part}_*.json")})
        for part in ("train", "test")
    )
    train_files, test_files = parquet_files(folder)
    if train_json and test_json:
        train, owners = _join(train_json, form, _json_parts)
        return Dataset(train=train, test=_join(test_json, form, _json_parts)[0], owners=owners)
    if not train_files:
        raise ScenarioError(f"{folder} must hold {form.files}", key="task.path")
    train, owners = _join(train_files, form, _parquet_parts)
    if test_files:
        return Dataset(train=train, test=_join(test_files, form, _parquet_parts)[0], owners=owners)
    kept, tested = (np.flatnonzero(mask) for mask in form.hold_out(owners))
    return Dataset(train=train.take(kept), test=train.take(tested), owners=owners[kept])


class _Part(NamedTuple):
    inputs: npt.NDArray[Any]
    targets: npt.NDArray[np.int64]
    users: Sequence[Any]


def _join(
    files: list[Path], form: LeafSchema, read: Callable[[Path, LeafSchema], Iterator[_Part]]
) -> tuple[Split, npt.NDArray[np.int64]]:
    """Read some files' rows, and the number of each row's user."""
    inputs, targets, users = [], [], []
    number: dict[str, int] = {}
    for file in files:
        for part in read(file, form):
            inputs.append(part.inputs)
            targets.append(part.targets)
            users += [number.setdefault(str(user), len(number)) for user in part.users]
    if not inputs:
        raise ScenarioError(f"{', '.join(map(str, files))}: no rows of {form.name}")
    rank = np.empty(len(number), np.int64)
    rank[np.argsort(np.array(list(number)))] = np.arange(len(number))
    rows = Split(torch.from_numpy(np.concatenate(inputs)), torch.from_numpy(np.concatenate(targets)))
    return rows, rank[np.array(users)]


def _json_parts(file: Path, form: LeafSchema) -> Iterator[_Part]:
    """Read {"users": [name], "user_data": {name: {"x": [input], "y": [target]}}}."""
    try:
        content = json.loads(file.read_bytes())
        for user in content["users"]:
            rows = content["user_data"][user]
            yield _Part(*form.of_json(rows["x"], rows["y"]), [user] * len(rows["y"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ScenarioError(f"{file}: not LEAF's {form.name}: {type(error).__name__}: {error}") from error


def _parquet_parts(file: Path, form: LeafSchema) -> Iterator[_Part]:
    for inputs, users, targets in read_parquet(file, form.columns):
        try:
            yield _Part(*form.of_parquet(inputs, targets), users)
        except (ValueError, TypeError) as error:
            raise ScenarioError(f"{file}: {error}") from error
