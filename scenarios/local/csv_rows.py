"""Reads CSV files: columns of numbers, and columns with the targets."""

import csv
import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from scenarios.errors import ScenarioError, suggestion
from scenarios.local.places import files_of
from scenarios.task import Split

LARGEST = float(np.finfo(np.float32).max)


def read_csv(
    path: Path,
    *,
    features: Sequence[str],
    label: str = "",
    classes: int | Sequence[str] = 0,
    numbers: str | Sequence[str] = (),
    tags: Sequence[str] = (),
    delimiter: str = ",",
) -> Split:
    """Read a CSV file, or all files *.csv of a folder one after the other.

    The first line names the columns. Columns that are not asked for are left out, and so are empty lines.
    Targets are a label, numbers or tags. If more than one of these is asked for, they are a dict of them.

    Args:
        path: the file or folder. A folder without such files has no rows.
        features: names of the columns of numbers, in the order in which the head takes them.
        label: name of the column with the label.
        classes: how many there are, for labels 0, 1, ...; or their names, for labels that are words.
        numbers: name of the column with the number to be predicted, or names of several such columns.
        tags: names of columns with 1 for a row that has this tag, and 0 for one that has not.
        delimiter: what stands between two cells.

    Returns:
        Inputs of shape (N, len(features)), float32. Targets: labels of shape (N,), int64; numbers of shape
        (N,), or of several columns (N, columns), float32; tags of shape (N, len(tags)), uint8.

    Raises:
        ScenarioError: a file cannot be read, a column is missing, a cell is no finite number, label or tag;
            the sentence names file and line.
        ValueError: nothing is asked for as the target.
    """
    kinds = {
        "label": _Columns((label,) if label else (), np.int64, (), partial(_label, classes)),
        "numbers": _Columns(
            (numbers,) if isinstance(numbers, str) else tuple(numbers),
            np.float32,
            () if isinstance(numbers, str) else (len(numbers),),
            _number,
        ),
        "tags": _Columns(tuple(tags), np.uint8, (len(tags),), partial(_label, 2)),
    }
    asked = {kind: columns for kind, columns in kinds.items() if columns.names}
    if not asked:
        raise ValueError("read_csv needs columns of targets: label, numbers or tags")
    wanted = {"": _Columns(tuple(features), np.float32, (len(features),), _number), **asked}
    values = {kind: array("d") for kind in wanted}
    for file in files_of(path, [".csv"]):
        for where, cells in _cells(
            file, [name for columns in wanted.values() for name in columns.names], delimiter
        ):
            left = iter(cells)
            for kind, columns in wanted.items():
                values[kind].extend(columns.read(next(left), where, name) for name in columns.names)
    kind, columns = next(iter(asked.items()))
    rows = len(values[kind]) // len(columns.names)
    found = {
        kind: torch.from_numpy(np.array(values[kind]).astype(columns.dtype).reshape(rows, *columns.shape))
        for kind, columns in wanted.items()
    }
    inputs = found.pop("")
    return Split(inputs, found if len(found) > 1 else next(iter(found.values())))


class _Columns(NamedTuple):
    """Columns that are read in the same way, and what becomes of those of a row."""

    names: tuple[str, ...]
    dtype: type[np.generic]
    shape: tuple[int, ...]
    read: Callable[[str, str, str], float]


def _cells(file: Path, names: list[str], delimiter: str) -> Iterator[tuple[str, list[str]]]:
    """Give of each row where it is, for messages, and the cells of some columns."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.reader(opened, delimiter=delimiter, strict=True)
            header = [cell.strip() for cell in next(reader, [])]
            places = _places(file, header, names, delimiter)
            for row in reader:
                where = f"{file}, line {reader.line_num}"
                if not row:
                    continue
                if len(row) != len(header):
                    raise ScenarioError(f"{where}: {len(row)} cells, but the first line names {len(header)}")
                yield where, [row[place].strip() for place in places]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ScenarioError(f"{file}: cannot be read as CSV in UTF-8: {error}") from error


def _places(file: Path, header: list[str], names: list[str], delimiter: str) -> list[int]:
    if not header:
        raise ScenarioError(f"{file}: is empty; its first line must name the columns {', '.join(names)}")
    for name in names:
        if header.count(name) > 1:
            raise ScenarioError(f"{file}: the first line names {name} twice")
        if name in header:
            continue
        other = next((mark for mark in ";\t," if len(header) == 1 and mark in header[0]), None)
        if other is not None and other != delimiter:
            raise ScenarioError(
                f"{file}: the columns seem to be divided by {other!r}: read_csv(..., delimiter={other!r})"
            )
        hint = suggestion(name, header, label="it names")
        raise ScenarioError(f"{file}: the first line names no column {name}{hint}")
    return [header.index(name) for name in names]


def _number(cell: str, where: str, name: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        wrong = f"is no number: {cell!r}" if cell else "is empty"
        raise ScenarioError(f"{where}: {name} {wrong}; every row needs all numbers") from None
    if not math.isfinite(value) or abs(value) > LARGEST:
        raise ScenarioError(f"{where}: {name} is {cell}, it must be a finite number (float32)")
    return value


def _label(classes: int | Sequence[str], cell: str, where: str, name: str) -> int:
    if not isinstance(classes, int):
        if cell not in classes:
            hint = suggestion(cell, classes, label="the classes are")
            raise ScenarioError(f"{where}: {name} is {cell!r}, which is no class{hint}")
        return classes.index(cell)
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if value not in range(classes):
        first = "; labels that begin with 1 need 1 subtracted" if value == classes else ""
        raise ScenarioError(
            f"{where}: {name} is {cell!r}, it must be a whole number from 0 to {classes - 1}{first}"
        )
    return int(value)
