"""Reads the traces of links: CSV files with the column time_s and any of a link state's values."""

import functools
import math
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from pydantic import ValidationError

from scenarios.errors import ScenarioError, suggestion
from scenarios.schema.links import Link, LinkState, names_a_file
from sim.network.csv_file import number, rows

COLUMNS = tuple(LinkState.model_fields)
RATES = ("uplink_kbps", "downlink_kbps")


@dataclass(frozen=True, slots=True)
class Trace:
    """What a link is like over time.

    Attributes:
        times_s: when each state begins, ascending; the first one is 0.
        states: as many.
        length_s: all of it; the last state lasts as long as the one before.
    """

    times_s: tuple[float, ...]
    states: tuple[LinkState, ...]
    length_s: float


def shipped_traces() -> dict[str, Path]:
    """Give the file of each shipped trace by its name, sorted."""
    folder = Path(str(files("scenarios.shipped"))) / "links"
    return dict(sorted((file.stem, file) for file in folder.glob("*.csv")))


def trace_file(trace: str) -> Path:
    """Find a trace: a shipped one by its name, any other by its path, with a slash or ending in .csv.

    Raises:
        ScenarioError: there is none of that name.
    """
    if names_a_file(trace):
        return Path(trace)
    known = shipped_traces()
    if trace not in known:
        near = suggestion(trace, known, label="shipped")
        raise ScenarioError(f"unknown trace '{trace}'{near}; or give the path of a .csv file")
    return known[trace]


@functools.lru_cache(maxsize=64)
def read_trace(trace: str) -> Trace:
    """Read a trace. Times count from its first row.

    Raises:
        ScenarioError: there is no such file, it cannot be read, or it says something else.
    """
    file = trace_file(trace)
    times_s: list[float] = []
    states: list[LinkState] = []
    for where, row in rows(file, ("time_s",)):
        if unknown := [name for name in row if name not in ("time_s", *COLUMNS)]:
            near = suggestion(unknown[0], COLUMNS, label="known")
            raise ScenarioError(f"{file}:1: unknown column '{unknown[0]}'{near}")
        times_s.append(number(where, row["time_s"]))
        if not (times_s[-2] if len(times_s) > 1 else -math.inf) < times_s[-1] < math.inf:
            raise ScenarioError(f"{where}: time_s must be a number after that of the row above")
        values = {name: number(where, row[name]) for name in COLUMNS if row.get(name)}
        try:
            states.append(LinkState.model_validate(values))
        except ValidationError as error:
            name = str(error.errors()[0]["loc"][0])
            most = " and at most 0.5, a share" if name == "loss" else ""
            raise ScenarioError(f"{where}: {name} must be 0 or more{most}, not {row[name]}") from None
    if len(times_s) < 2:  # noqa: PLR2004
        raise ScenarioError(f"{file}: a trace needs at least two rows below the names of the columns")
    for rate in RATES:
        if all(getattr(state, rate) == 0 for state in states):
            raise ScenarioError(f"{file}: {rate} is 0 in every row: nothing would ever arrive")
    length_s = times_s[-1] - times_s[0] + times_s[-1] - times_s[-2]
    if length_s == math.inf:
        raise ScenarioError(f"{file}: {times_s[0]:g} s to {times_s[-1]:g} s is longer than can be counted")
    return Trace(tuple(time_s - times_s[0] for time_s in times_s), tuple(states), length_s)


def check_trace(link: Link, key: str) -> None:
    """Read the trace of a link, if it has one, before a run.

    Raises:
        ScenarioError: it cannot be used; with the key at which the scenario names it.
    """
    if link.trace is None:
        return
    try:
        last = read_trace(link.trace).states[-1]
    except ScenarioError as error:
        raise ScenarioError(error.detail, key=key) from error
    for rate in RATES:
        if not link.repeat and getattr(last, rate) == 0:
            what = f"{trace_file(link.trace)} ends with {rate} 0, an outage that without repeat never ends"
            raise ScenarioError(what, key=key)
