"""Access points: the two bottlenecks of each, whose rates may change as time goes."""

from collections.abc import Callable
from typing import Literal

from scenarios.schema.network import AccessPoint
from sim.network.clock import Clock
from sim.network.links.bottleneck import Bottleneck
from sim.network.links.course import course_of
from sim.network.links.path import path_of


def bottlenecks_of(
    clock: Clock, point: AccessPoint, *, seed: int, owner: str
) -> tuple[Bottleneck, Bottleneck]:
    """Give both directions of an access point, up and down.

    Args:
        clock: virtual time.
        point: its rates.
        seed: the scenario's.
        owner: its name, part of the seed of its chain of states.

    Raises:
        ScenarioError: its trace cannot be used.
    """
    changes = course_of(point.link, seed=seed, owner=owner)

    def rate(way: Literal["up", "down"]) -> float | Callable[[float], tuple[float, float]]:
        if changes is None:
            return path_of(point.link, way).bytes_per_s
        course, states = changes
        rates = [path_of(point.link, way, state).bytes_per_s for state in states]

        def look(now_s: float) -> tuple[float, float]:
            until_s, state = next(course.pieces(now_s, now_s))
            return rates[state], until_s

        return look

    return Bottleneck(clock, rate("up")), Bottleneck(clock, rate("down"))
