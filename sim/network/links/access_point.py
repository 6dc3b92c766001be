"""Access points: both directions of each, whose rates may change as time goes."""

from collections.abc import Callable
from typing import Literal

from scenarios.schema.links import Link
from scenarios.schema.network import AccessPoint
from sim.network.clock import Clock
from sim.network.links.bottleneck import Bottleneck
from sim.network.links.course import course_of
from sim.network.links.packet_queue import PacketQueue
from sim.network.links.path import path_of

Direction = Bottleneck | PacketQueue


def sends_segments(link: Link) -> bool:
    """Say whether each segment is sent on a device's link, see sim.network.links.link.TcpLink.by_segments."""
    path = path_of(link, "up")
    return link.changes or path.loss > 0 or path.jitter_per_packet


def bottlenecks_of(
    clock: Clock, point: AccessPoint, *, seed: int, owner: str, by_segments: bool = False
) -> tuple[Direction, Direction]:
    """Give both directions of an access point, up and down.

    Args:
        clock: virtual time.
        point: its rates.
        seed: the scenario's.
        owner: its name, part of the seed of its chain of states.
        by_segments: whether one of the links behind it sends each segment; it is a queue of packets then.

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
            until_s, state = next(course.pieces(min(now_s, clock.now), now_s))
            return rates[state], until_s

        return look

    kind = PacketQueue if by_segments else Bottleneck
    return kind(clock, rate("up")), kind(clock, rate("down"))
