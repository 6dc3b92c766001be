"""Reads the CSV files that a scenario may name: slowdown factors, when clients are there, traces of links."""

import functools
import itertools
import logging
import math
from collections import defaultdict
from pathlib import Path

from scenarios.errors import ScenarioError, nearest, one_line
from scenarios.schema.devices import TraceSlowdown
from scenarios.schema.links import link_of
from scenarios.schema.network import PresenceTrace
from scenarios.schema.scenario import Scenario, client_names
from sim.network.csv_file import number, rows
from sim.network.links.traces import check_trace

log = logging.getLogger(__name__)

Interval = tuple[float, float]
"""From and to, in seconds since the run began."""


def check_csv_inputs(scenario: Scenario) -> None:
    """Read all the files that a scenario's fleet and network name, before a run.

    A warning is logged when a file leaves out clients of its group, or when all of them leave for good: a
    run that lasts longer then stands still.

    Raises:
        ScenarioError: a file cannot be read, or none of its clients are of the group that it is for.
    """
    names = client_names(scenario)
    first = 0
    for place, group in enumerate(scenario.fleet):
        members = names[first : first + group.size]
        first += group.size
        if isinstance(group.availability, PresenceTrace):
            key = f"fleet.{place}.availability.file"
            _check_clients(group.availability, members, names, key)
        if isinstance(group.slowdown, TraceSlowdown):
            read_factors(group.slowdown.file)
        check_trace(link_of(group.link), f"fleet.{place}.link.trace")
    check_trace(link_of(scenario.network.server.link), "network.server.link.trace")
    for name, point in scenario.network.access_points.items():
        check_trace(point.link, f"network.access_points.{name}.trace")


def _check_clients(trace: PresenceTrace, members: list[str], fleet: list[str], key: str) -> None:
    presence, file = read_presence(trace.file), trace.file
    there = [presence[client] for client in members if client in presence]
    ours = f"{members[0]} to {members[-1]}" if len(members) > 1 else members[0]
    if not there:
        theirs = ", ".join(list(presence)[:3]) + (", ..." if len(presence) > 3 else "")  # noqa: PLR2004
        near = next(filter(None, (_meant(name, members) for name in presence)), "")
        raise ScenarioError(f"{file} names the clients {theirs}, but those here are {ours}{near}", key=key)
    if len(there) < len(members):
        absent = next(client for client in members if client not in presence)
        count = len(members) - len(there)
        log.warning("%s: %s: %d of %s are never there, such as %s", key, file, count, ours, absent)
    strange = [name for name in presence if name not in fleet]
    if strange:
        text = "%s: %s: it names %s, which no client is called%s"
        log.warning(text, key, file, one_line(strange[0], 40), _meant(strange[0], members))
    last_s = max(intervals[-1][1] for intervals in there)
    if math.isinf(last_s) and trace.repeat:
        told = f"{file}: a file with an empty to_s never ends, so it cannot begin again"
        raise ScenarioError(told, key=key.replace(".file", ".repeat"))
    if math.isfinite(last_s) and not trace.repeat:
        text = "%s: %s: after %g s none of %s is there any more; an empty to_s means the end"
        text += ", `repeat: true` begins the file again"
        log.warning(text, key, file, last_s, ours)


def _meant(name: str, members: list[str]) -> str:
    """Give the end of a sentence about a name that nobody has: whom it may mean; empty for nobody."""
    numbered = {member.lstrip("c0") or "0": member for member in members}
    meant = numbered.get(name.lstrip("0") or "0") or nearest(name, members)
    return f"; write {meant} for {one_line(name, 40)}" if meant else ""


@functools.lru_cache(maxsize=16)
def read_factors(file: Path) -> tuple[float, ...]:
    """Read slowdown factors: the column factor, each above 0.

    Raises:
        ScenarioError: the file cannot be read or says something else.
    """
    factors = []
    for where, row in rows(file, ("factor",)):
        factors.append(number(where, row["factor"]))
        if not 0 < factors[-1] < math.inf:
            raise ScenarioError(f"{where}: a factor must be above 0")
    if not factors:
        raise ScenarioError(f"{file}: no factors")
    return tuple(factors)


@functools.lru_cache(maxsize=16)
def read_presence(file: Path) -> dict[str, list[Interval]]:
    """Read when each client is there: columns client, from_s, to_s; an empty to_s is the end of time.

    The rows may be in any order; each client's intervals come in that of time.

    Raises:
        ScenarioError: the file cannot be read, says something else, names no client, or a client's times
            overlap.
    """
    placed: dict[str, list[tuple[Interval, str]]] = defaultdict(list)
    for where, row in rows(file, ("client", "from_s", "to_s")):
        from_s = number(where, row["from_s"])
        to_s = number(where, row["to_s"]) if row["to_s"] else math.inf
        if not 0 <= from_s < to_s:
            raise ScenarioError(f"{where}: times must be 0 or later, each from_s before its to_s")
        placed[row["client"]].append(((from_s, to_s), where))
    if not placed:
        raise ScenarioError(f"{file}: no rows below the names of the columns")
    for client, intervals in placed.items():
        intervals.sort()
        for ((_, end_s), _), ((from_s, _), where) in itertools.pairwise(intervals):
            if from_s < end_s:
                raise ScenarioError(
                    f"{where}: times must be apart, but {client} is there already, until {end_s:g} s"
                )
    return {client: [interval for interval, _ in intervals] for client, intervals in placed.items()}
