"""Reads the CSV files that a scenario may name: slowdown factors, and when clients are there."""

import csv
import functools
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from scenarios.errors import ScenarioError

Interval = tuple[float, float]
"""From and to, in seconds since the run began."""


@functools.lru_cache(maxsize=16)
def read_factors(file: Path) -> tuple[float, ...]:
    """Read slowdown factors: the column factor, each above 0.

    Raises:
        ScenarioError: the file cannot be read or says something else.
    """
    factors = []
    for where, row in _rows(file, ("factor",)):
        factors.append(_number(where, row["factor"]))
        if not 0 < factors[-1] < math.inf:
            raise ScenarioError(f"{where}: a factor must be above 0")
    if not factors:
        raise ScenarioError(f"{file}: no factors")
    return tuple(factors)


@functools.lru_cache(maxsize=16)
def read_presence(file: Path) -> dict[str, list[Interval]]:
    """Read when each client is there: columns client, from_s, to_s; an empty to_s is the end of time.

    Raises:
        ScenarioError: the file cannot be read, says something else, or a client's times overlap.
    """
    presence: dict[str, list[Interval]] = defaultdict(list)
    for where, row in _rows(file, ("client", "from_s", "to_s")):
        from_s = _number(where, row["from_s"])
        to_s = _number(where, row["to_s"]) if row["to_s"] else math.inf
        before = presence[row["client"]]
        if not (before[-1][1] if before else 0.0) <= from_s < to_s:
            raise ScenarioError(
                f"{where}: times must be 0 or later and in order, each from_s before its to_s"
            )
        before.append((from_s, to_s))
    return dict(presence)


def _rows(file: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{file}: {error}") from error
    reader = csv.DictReader(lines, restval="")
    if not set(columns) <= set(reader.fieldnames or ()):
        raise ScenarioError(f"{file}: the first line must name the columns {', '.join(columns)}")
    for row in reader:
        yield f"{file}:{reader.line_num}", row


def _number(where: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ScenarioError(f"{where}: '{text}' is no number") from None
