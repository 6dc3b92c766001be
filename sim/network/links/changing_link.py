"""One direction of a link that changes as time goes: its trace, or its chain of states."""

import math
from typing import Literal

from scenarios.schema.links import Link, Tcp
from sim.network.links.course import Course, course_of
from sim.network.links.link import TcpLink
from sim.network.links.losses import Losses
from sim.network.links.path import Path, path_of
from sim.network.links.random_stream import RandomStream
from sim.network.links.tcp.delays import Delays
from sim.network.links.tcp.line import Line


class ChangingLink(TcpLink):
    """One direction of one device's link that changes: each segment is sent, docs/models.md says how.

    Args:
        course: which state holds when.
        paths: the link in each of these states.
        seed: the scenario's.
        owner: whose link it is, and in which direction.
        tcp: congestion control.
    """

    __slots__ = ("_course", "_paths")

    def __init__(
        self,
        course: Course,
        paths: tuple[Path, ...],
        *,
        seed: int,
        owner: tuple[str, ...],
        tcp: Tcp = "cubic",
    ) -> None:
        super().__init__(paths[0], seed=seed, owner=owner, tcp=tcp)
        self._course, self._paths = course, paths
        if any(path.loss for path in paths):
            self._losses = Losses(seed, *owner)
        self._delays = Delays(seed, *owner)
        if any(path.one_way_s and not path.jitter_per_packet for path in paths):
            self.jitter = RandomStream(seed, "jitter", *owner)
        self.path = paths[next(course.pieces(0.0, 0.0))[1]]

    @property
    def by_segments(self) -> bool:
        """Do as TcpLink.by_segments."""
        return True

    def line(self, now_s: float) -> Line:
        """Do as TcpLink.line."""
        return _ChangingLine(self._course, self._paths, self._losses, self._delays, now_s)


class _ChangingLine(Line):
    """A line whose rate, loss and latency change; in an outage segments wait before it.

    Args:
        course: which state holds when.
        paths: the link in each of these states.
        losses: what is lost on it; None: nothing.
        delays: how long each packet is under way.
        now_s: nobody asks for the course before; the message may begin to leave later.
    """

    __slots__ = ("_asked_s", "_course", "_paths", "_until_s")

    def __init__(
        self,
        course: Course,
        paths: tuple[Path, ...],
        losses: Losses | None,
        delays: Delays | None,
        now_s: float,
    ) -> None:
        super().__init__(paths[0], losses, delays)
        self._course, self._paths, self._asked_s = course, paths, now_s
        self._until_s = -math.inf

    def leave(self, now_s: float, size: float) -> tuple[float, float, Path]:
        """Do as Line.leave."""
        begins_s = at_s = max(now_s, self._free_s)
        while True:
            if at_s >= self._until_s:
                self._until_s, state = next(self._course.pieces(self._asked_s, at_s))
                self._path = self._paths[state]
            path = self._path
            if path.bytes_per_s:
                end_s = at_s + size * path.segment_s
                if end_s <= self._until_s:
                    self._free_s = end_s
                    return begins_s, end_s, path
                size -= (self._until_s - at_s) / path.segment_s
            at_s = self._until_s


def links_of(link: Link, *, seed: int, owner: str, tcp: Tcp = "cubic") -> tuple[TcpLink, TcpLink]:
    """Give both directions of somebody's link, up and down.

    Args:
        link: what it is like.
        seed: the scenario's.
        owner: whose it is, part of the seeds of its jitter and loss.
        tcp: congestion control.

    Raises:
        ScenarioError: its trace cannot be used.
    """
    changes = course_of(link, seed=seed, owner=owner)

    def direction(way: Literal["up", "down"]) -> TcpLink:
        if changes is None:
            return TcpLink(path_of(link, way), seed=seed, owner=(owner, way), tcp=tcp)
        course, states = changes
        paths = tuple(path_of(link, way, state) for state in states)
        return ChangingLink(course, paths, seed=seed, owner=(owner, way), tcp=tcp)

    return direction("up"), direction("down")
