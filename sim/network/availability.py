"""When a device is connected."""

import itertools
import math
from collections.abc import Iterator, Sequence

from scenarios.schema.network import Always, Availability, OnOff, PresenceTrace
from scenarios.seeds import generator
from sim.network.csv_inputs import Interval, read_presence


def presence(availability: Availability, *, seed: int, client: str) -> Iterator[Interval]:
    """Give the intervals in which a client is there, in order of time; without end for on_off.

    Args:
        availability: how it comes and goes.
        seed: the scenario's.
        client: its name, part of its own seed.

    Raises:
        ScenarioError: the trace file cannot be used.
    """
    match availability:
        case Always():
            yield 0.0, math.inf
        case PresenceTrace(file=file, repeat=repeat):
            intervals = read_presence(file)
            own = intervals.get(client, [])
            yield from _again(own, max(each[-1][1] for each in intervals.values())) if repeat else own
        case OnOff():
            yield from _renewal(availability, seed, client)


def _again(intervals: Sequence[Interval], period_s: float) -> Iterator[Interval]:
    """Repeat intervals for ever; one that goes on where the file begins again is one interval."""
    if not intervals:
        return
    if intervals == [(0.0, period_s)]:
        yield 0.0, math.inf
        return
    begun_s: float | None = None
    for turn in itertools.count():
        for from_s, to_s in intervals:
            start_s = turn * period_s + from_s if begun_s is None else begun_s
            begun_s = start_s if to_s == period_s and intervals[0][0] == 0 else None
            if begun_s is None:
                yield start_s, turn * period_s + to_s


def _renewal(availability: OnOff, seed: int, client: str) -> Iterator[Interval]:
    """Alternate exponential times on and off.

    The process is in equilibrium from the start: what is left of an exponential time is exponential, too.
    """
    on_s, off_s = availability.mean_on_s, availability.mean_off_s
    rng = generator(seed, "presence", client)
    away = rng.random() >= on_s / (on_s + off_s)
    now_s = rng.exponential(off_s) if away else 0.0
    while True:
        to_s = now_s + rng.exponential(on_s)
        yield now_s, to_s
        now_s = to_s + rng.exponential(off_s)
