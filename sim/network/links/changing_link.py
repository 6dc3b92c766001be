"""One direction of a link that changes as time goes: its trace, or its chain of states."""

import math
from typing import Literal

from broker.wire.link_bytes import framed_bytes
from scenarios.schema.links import Link, Tcp
from sim.network.links.course import Course, course_of
from sim.network.links.link import Carried, TcpLink
from sim.network.links.losses import Losses
from sim.network.links.path import Path, path_of
from sim.network.links.random_stream import RandomStream
from sim.network.links.tcp.line import Line


class ChangingLink(TcpLink):
    """One direction of one device's link that changes.

    A message's bytes leave at the rates that hold while they leave; in an outage they wait. Where nothing is
    lost, TCP's pauses are those of the link when the message begins to leave, and the time one way is that of
    the link when the last byte has left. docs/models.md has the equations.

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
        if any(path.one_way_s for path in paths):
            self.jitter = RandomStream(seed, "jitter", *owner)
        self.look(0.0, first=True)

    def look(self, now_s: float, *, first: bool) -> tuple[float, float]:
        """Do as TcpLink.look; the rate is 0 in an outage."""
        until_s, state = next(self._course.pieces(now_s, now_s))
        path = self._paths[state]
        if first:
            self.path = path
        return path.bytes_per_s, until_s

    def line(self, now_s: float) -> Line:
        """Do as TcpLink.line."""
        return _ChangingLine(self._course, self._paths, self._losses, now_s)

    def carry(self, now_s: float, payload_bytes: int) -> Carried:
        """Do as TcpLink.carry."""
        if self._losses is not None:
            return super().carry(now_s, payload_bytes)
        start_s = max(now_s, self.free_s)
        end_s = self._leave(now_s, start_s, framed_bytes(payload_bytes))
        return self._depart(now_s, start_s, end_s, payload_bytes)

    def depart(self, start_s: float, end_s: float, payload_bytes: int) -> Carried:
        """Do as TcpLink.depart; it is `end_s` now."""
        return self._depart(end_s, start_s, end_s, payload_bytes)

    def _depart(self, now_s: float, start_s: float, end_s: float, payload_bytes: int) -> Carried:
        sent_s = end_s + self.delay_s(start_s, payload_bytes)
        self.path = self._paths[next(self._course.pieces(now_s, end_s))[1]]
        return self._arrive(start_s, sent_s)

    def _leave(self, now_s: float, start_s: float, left_bytes: float) -> float:
        """Give when so many bytes have left; be what the link is when the first of them does."""
        at_s, none_left = start_s, True
        for until_s, state in self._course.pieces(now_s, start_s):
            path = self._paths[state]
            if path.bytes_per_s:
                if none_left:
                    self.path, none_left = path, False
                end_s = at_s + left_bytes / path.bytes_per_s
                if end_s <= until_s:
                    return end_s
                left_bytes -= path.bytes_per_s * (until_s - at_s)
            at_s = until_s
        raise AssertionError("a course has no end")


class _ChangingLine(Line):
    """A line whose rate, loss and latency change; in an outage segments wait before it.

    Args:
        course: which state holds when.
        paths: the link in each of these states.
        losses: what is lost on it; None: nothing.
        now_s: when the message begins to leave.
    """

    __slots__ = ("_back", "_begun_s", "_course", "_last_back_s", "_last_s", "_paths", "_until_s")

    def __init__(self, course: Course, paths: tuple[Path, ...], losses: Losses | None, now_s: float) -> None:
        super().__init__(paths[0], losses)
        self._course, self._paths, self._begun_s = course, paths, now_s
        self._until_s = -math.inf
        self._last_s = self._last_back_s = 0.0
        self._back = paths[0]

    def leave(self, now_s: float, size: float) -> tuple[float, float, Path]:
        """Do as Line.leave."""
        begins_s = at_s = max(now_s, self._free_s)
        while True:
            if at_s >= self._until_s:
                self._until_s, state = next(self._course.pieces(self._begun_s, at_s))
                self._path = self._paths[state]
            path = self._path
            if path.bytes_per_s:
                end_s = at_s + size * path.segment_s
                if end_s <= self._until_s:
                    self._free_s = end_s
                    return begins_s, end_s, path
                size -= (self._until_s - at_s) / path.segment_s
            at_s = self._until_s

    def arrive(self, left_s: float, path: Path) -> float | None:
        """Do as Line.arrive; order is kept."""
        self._back = path
        at_s = super().arrive(left_s, path)
        if at_s is not None:
            self._last_s = at_s = max(at_s, self._last_s)
        return at_s

    def answer(self, now_s: float) -> float | None:
        """Do as Line.answer; order is kept, and the line is as it was when the segment left."""
        if self._losses is not None and self._losses.is_answer_lost(self._back):
            return None
        self._last_back_s = max(now_s + self._back.latency_s, self._last_back_s)
        return self._last_back_s


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
