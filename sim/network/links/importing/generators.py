"""Makes traces of links by rules that are stated here; every number is assumed, none is measured.

`fedlite links make NAME --seed N` writes one. Those of seed 0 are shipped.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from scenarios.schema.links import LinkState
from scenarios.seeds import generator

ROWS = 600
"""Ten minutes in steps of a second."""


class Row(NamedTuple):
    """A state of a link, and when it begins, in seconds."""

    time_s: float
    state: LinkState


class Generator(NamedTuple):
    """How a trace is made.

    Attributes:
        rows: makes it from a seed.
        question: what it is like, in a sentence.
    """

    rows: Callable[[int], Iterator[Row]]
    question: str


def _train_lte(seed: int) -> Iterator[Row]:
    """Let the rates' logarithm wander (AR(1), 0.9 a second); handovers cut 0.5 s, tunnels 30 s."""
    rng = generator(seed, "trace", "train-lte")
    level, handover_s, tunnel_s, tunnel_ends_s = 0.0, 0.0, rng.exponential(150), 0.0
    for second in range(ROWS):
        level = 0.9 * level + math.sqrt(1 - 0.9**2) * rng.standard_normal()
        if second >= tunnel_s:
            tunnel_ends_s = tunnel_s + rng.uniform(20, 40)
            tunnel_s = tunnel_ends_s + rng.exponential(150)
        inside = second < tunnel_ends_s
        down, up = (0.0, 0.0) if inside else (8000 * math.exp(0.8 * level), 3000 * math.exp(0.8 * level))
        latency_ms = 35 + 25 * math.exp(-level) / 2
        if not inside and second >= handover_s:
            handover_s = second + 5 + rng.exponential(25)
            yield _row(second, 0, 0, latency_ms)
            yield _row(second + 0.5, up, down, latency_ms)
        else:
            yield _row(second, up, down, latency_ms)


def _walk_5g(seed: int) -> Iterator[Row]:
    """Be in line of sight for 8 s on average, then something between for 3 s: a twentieth of the rate."""
    return _two_states("walk-5g", seed, (3, 3000, 20_000, 25), (8, 60_000, 400_000, 12))


def _leo_satellite(seed: int) -> Iterator[Row]:
    """Take a new path every 15 s, with its own rate and time one way; every third one begins with a cut."""
    rng = generator(seed, "trace", "leo-satellite")
    for slot in range(ROWS // 15):
        up, down = (
            10_000 * math.exp(0.4 * rng.standard_normal()),
            90_000 * math.exp(0.4 * rng.standard_normal()),
        )
        latency_ms, cut = rng.uniform(15, 35), rng.random() < 1 / 3
        if cut:
            yield _row(15 * slot, 0, 0, latency_ms)
        for second in range(15):
            begin_s = 15 * slot + second + (0.3 if cut and second == 0 else 0.0)
            factor = math.exp(0.1 * rng.standard_normal())
            yield _row(begin_s, up * factor, down * factor, latency_ms)


def _rural_lte(seed: int) -> Iterator[Row]:
    """Have LTE for 150 s on average, then EDGE for 75 s: on a country road, with cells far apart."""
    return _two_states("rural-lte", seed, (150, 3000, 9000, 40), (75, 180, 220, 300))


def _yard_wifi(seed: int) -> Iterator[Row]:
    """Have Wi-Fi for 150 s on average, then LTE-M for 75 s: a forklift between halls."""
    return _two_states("yard-wifi", seed, (150, 15_000, 30_000, 3), (75, 250, 220, 80))


def _two_states(name: str, seed: int, *states: tuple[float, float, float, float]) -> Iterator[Row]:
    """Give rates that vary by a third around those of a state.

    Args:
        name: of the trace, part of its seed.
        seed: of the random numbers.
        states: of the two the mean seconds that it lasts, kbit/s up and down, and ms one way; the first one
            is there first.
    """
    rng = generator(seed, "trace", name)
    state, other = states
    until_s = rng.exponential(state[0])
    for second in range(ROWS):
        if second >= until_s:
            state, other = other, state
            until_s = second + rng.exponential(state[0])
        _, up, down, latency_ms = state
        factor = math.exp(0.3 * rng.standard_normal())
        yield _row(second, up * factor, down * factor, latency_ms)


def _row(time_s: float, up: float, down: float, latency_ms: float) -> Row:
    state = LinkState(uplink_kbps=round(up), downlink_kbps=round(down), latency_ms=round(latency_ms, 1))
    return Row(time_s, state)


GENERATORS = {
    "train-lte": Generator(_train_lte, "LTE in a train: rates that wander, handovers, tunnels"),
    "walk-5g": Generator(_walk_5g, "5G millimetre waves on foot: very fast, a twentieth behind obstacles"),
    "rural-lte": Generator(_rural_lte, "a country road: LTE, and EDGE where cells are far apart"),
    "yard-wifi": Generator(_yard_wifi, "a forklift: Wi-Fi in halls, LTE-M between them"),
    "leo-satellite": Generator(_leo_satellite, "a low orbit: another satellite every 15 seconds, short cuts"),
}
