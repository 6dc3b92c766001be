"""Reads the CSV files that a scenario may name: slowdown factors, and when clients are there.

Files of spreadsheets are read as they are: with a byte order mark, with spaces round the values, with
semicolons between them.
"""

import csv
import functools
import logging
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from scenarios.errors import ScenarioError
from scenarios.schema.devices import TraceSlowdown
from scenarios.schema.network import PresenceTrace
from scenarios.schema.scenario import Scenario, client_names

log = logging.getLogger(__name__)

Interval = tuple[float, float]
"""From and to, in seconds since the run began."""


def check_csv_inputs(scenario: Scenario) -> None:
    """Read all the files that a scenario's fleet names, before a run.

    A warning is logged when a file leaves out clients of its group, or when all of them leave for good: a
    run that lasts longer then stands still.

    Raises:
        ScenarioError: a file cannot be read, or none of its clients are of the group that it is for.
    """
    names = client_names(scenario)
    first = 0
    for number, group in enumerate(scenario.fleet):
        members = names[first : first + group.size]
        first += group.size
        if isinstance(group.availability, PresenceTrace):
            key = f"fleet.{number}.availability.file"
            _check_clients(group.availability.file, members, key)
        if isinstance(group.slowdown, TraceSlowdown):
            read_factors(group.slowdown.file)


def _check_clients(file: Path, members: list[str], key: str) -> None:
    presence = read_presence(file)
    there = [presence[client] for client in members if client in presence]
    ours = f"{members[0]} to {members[-1]}" if len(members) > 1 else members[0]
    if not there:
        theirs = ", ".join(list(presence)[:3]) + (", ..." if len(presence) > 3 else "")  # noqa: PLR2004
        raise ScenarioError(f"{file} names the clients {theirs}, but those here are {ours}", key=key)
    if len(there) < len(members):
        absent = next(client for client in members if client not in presence)
        count = len(members) - len(there)
        log.warning("%s: %s: %d of %s are never there, such as %s", key, file, count, ours, absent)
    last_s = max(intervals[-1][1] for intervals in there)
    if math.isfinite(last_s):
        text = "%s: %s: after %g s none of %s is there any more; an empty to_s means the end"
        log.warning(text, key, file, last_s, ours)


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
        ScenarioError: the file cannot be read, says something else, names no client, or a client's times
            overlap.
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
    if not presence:
        raise ScenarioError(f"{file}: no rows below the names of the columns")
    return dict(presence)


def _rows(file: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Give each row's place, for messages, and its values by column, without spaces round them."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{file}: cannot be read: {error}") from error
    separator = max(",;\t", key=lines[0].count) if lines else ","
    try:
        table = list(enumerate(csv.reader(lines, delimiter=separator, strict=True), 1))
    except csv.Error as error:
        raise ScenarioError(f"{file}: not CSV: {error}") from error
    names = [name.strip() for name in table[0][1]] if table else []
    if not set(columns) <= set(names):
        found = f", not {', '.join(names)}" if any(names) else ""
        raise ScenarioError(f"{file}:1: the first line must name the columns {', '.join(columns)}{found}")
    for line, values in table[1:]:
        row = [value.strip() for value in values]
        if not any(row):
            continue
        if len(row) > len(names):
            raise ScenarioError(
                f"{file}:{line}: {len(row)} values for {len(names)} columns{_commas(separator)}"
            )
        yield f"{file}:{line}", dict.fromkeys(names, "") | dict(zip(names, row, strict=False))


def _commas(separator: str) -> str:
    return "; write 0.5, not 0,5" if separator == "," else ""


def _number(where: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        comma = f"; write {text.replace(',', '.')}" if "," in text else ""
        raise ScenarioError(f"{where}: '{text}' is no number{comma}") from None
