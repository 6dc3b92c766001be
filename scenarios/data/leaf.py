"""Reads data sets of LEAF (Caldas et al. 2018, arXiv 1812.01097) from files of yours, in one of two forms.

LEAF            all_data_*_train_*.json and all_data_*_test_*.json, in the folder, in its train/ and test/, or
                in its data/train/ and data/test/, as LEAF leaves them; .json.gz as well
Hugging Face    *.parquet, as Flower publishes them. Files with "test" in their names are for testing. If
                there are none, a part of each user's rows is.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from scenarios.data.tables import parquet_files, read_parquet
from scenarios.errors import ScenarioError, in_words
from scenarios.task import Dataset, Split

Mask = npt.NDArray[np.bool_]
PARTS = ("train", "test")
MOST_TOLD = 5
"""Files that a message names."""


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
    train_json, test_json = _json_files(folder)
    train_files, test_files = parquet_files(folder)
    if train_json and test_json:
        train, owners = _join(train_json, form, _json_parts)
        return Dataset(train=train, test=_join(test_json, form, _json_parts)[0], owners=owners)
    if not train_files:
        raise ScenarioError(f"{folder} must hold {form.files}{_instead(folder)}", key="task.path")
    train, owners = _join(train_files, form, _parquet_parts)
    if test_files:
        return Dataset(train=train, test=_join(test_files, form, _parquet_parts)[0], owners=owners)
    kept, tested = (np.flatnonzero(mask) for mask in form.hold_out(owners))
    return Dataset(train=train.take(kept), test=train.take(tested), owners=owners[kept])


def _json_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Find LEAF's JSON files for training and testing: in a folder, in its train/ and test/, or in its data/.

    The folder may also be train/ or test/ itself. Files that are compressed (.json.gz) count as well.
    """
    roots = [folder.parent] if folder.name in PARTS else [folder, folder / "data"]
    for root in roots:
        train, test = (
            sorted(
                file
                for file in {*root.glob(f"*_{part}_*.json*"), *(root / part).glob("*.json*")}
                if file.name.endswith((".json", ".json.gz"))
            )
            for part in PARTS
        )
        if train and test:
            return train, test
    return [], []


def _instead(folder: Path) -> str:
    """Give the end of a sentence about a folder that lacks LEAF's files: what it has in their place."""
    if not folder.is_dir():
        return "; there is no such folder" if not folder.exists() else "; it is a file"
    if any(folder.glob("**/all_data/*.json")):
        return "; it has all_data, which LEAF's preprocess.sh divides into train and test (-t sample)"
    here = sorted(each.name for each in folder.iterdir())
    more = ", ..." if len(here) > MOST_TOLD else ""
    return f"; it has {', '.join(here[:MOST_TOLD])}{more}" if here else "; it is empty"


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
        packed = file.read_bytes()
        content = json.loads(gzip.decompress(packed) if file.suffix == ".gz" else packed)
        for user in content["users"]:
            rows = content["user_data"][user]
            yield _Part(*form.of_json(rows["x"], rows["y"]), [user] * len(rows["y"]))
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise ScenarioError(f"{file}: not LEAF's {form.name}: {in_words(error)}") from error


def _parquet_parts(file: Path, form: LeafSchema) -> Iterator[_Part]:
    for inputs, users, targets in read_parquet(file, form.columns):
        try:
            yield _Part(*form.of_parquet(inputs, targets), users)
        except (ValueError, TypeError) as error:
            raise ScenarioError(f"{file}: {error}") from error
