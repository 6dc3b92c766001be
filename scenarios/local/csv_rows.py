"""Reads CSV files: columns of numbers, and a column with the label."""

import csv
import math
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from scenarios.errors import ScenarioError, suggestion
from scenarios.local.places import files_of
from scenarios.task import Split

LARGEST = float(np.finfo(np.float32).max)


def read_csv(
    path: Path, *, features: Sequence[str], label: str, classes: int | Sequence[str], delimiter: str = ","
) -> Split:
    """Read a CSV file, or all files *.csv of a folder one after the other.

    The first line names the columns. Columns that are not asked for are left out, and so are empty lines.

    Args:
        path: the file or folder. A folder without such files has no rows.
        features: names of the columns of numbers, in the order in which the head takes them.
        label: name of the column with the label.
        classes: how many there are, for labels 0, 1, ...; or their names, for labels that are words.
        delimiter: what stands between two cells.

    Returns:
        Inputs of shape (N, len(features)), float32, and targets of shape (N,), int64.

    Raises:
        ScenarioError: a file cannot be read, a column is missing, a cell is no finite number or no label; the
            sentence names file and line.
    """
    values, targets = array("f"), array("q")
    for file in files_of(path, [".csv"]):
        for where, cells in _cells(file, [*features, label], delimiter):
            values.extend(_number(cell, where, name) for cell, name in zip(cells, features, strict=False))
            targets.append(_label(cells[-1], classes, where, label))
    inputs = np.array(values, np.float32).reshape(-1, len(features))
    return Split(torch.from_numpy(inputs), torch.from_numpy(np.array(targets, np.int64)))


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


def _label(cell: str, classes: int | Sequence[str], where: str, name: str) -> int:
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
