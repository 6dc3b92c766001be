"""One direction of a link that changes as time goes: its trace, or its chain of states."""

from typing import Literal

from broker.wire.link_bytes import framed_bytes
from scenarios.schema.links import Link, Tcp
from sim.network.links.course import Course, course_of
from sim.network.links.link import Carried, TcpLink
from sim.network.links.losses import Losses
from sim.network.links.path import Path, path_of
from sim.network.links.random_stream import RandomStream


class ChangingLink(TcpLink):
    """One direction of one device's link that changes.

    A message's bytes leave at the rates that hold while they leave; in an outage they wait. TCP's pauses and
    losses are those of the link when the message begins to leave, and the time one way is that of the link
    when the last byte has left. docs/models.md has the equations.

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
            self._losses = Losses(RandomStream(seed, "loss", *owner))
        if any(path.one_way_s for path in paths):
            self._jitter = RandomStream(seed, "jitter", *owner)
        self.look(0.0, first=True)

    def look(self, now_s: float, *, first: bool) -> tuple[float, float]:
        """Do as TcpLink.look; the rate is 0 in an outage."""
        until_s, state = next(self._course.pieces(now_s, now_s))
        path = self._paths[state]
        if first:
            self.path = path
        return path.bytes_per_s, until_s

    def carry(self, now_s: float, payload_bytes: int) -> Carried:
        """Do as TcpLink.carry."""
        start_s = max(now_s, self.free_s)
        left_bytes = float(framed_bytes(payload_bytes))
        if self._losses is not None:
            pieces = self._course.pieces(now_s, start_s)
            self.path = next(path for _, state in pieces if (path := self._paths[state]).bytes_per_s)
            left_bytes *= self.stretch(start_s, payload_bytes)
        end_s = self._leave(now_s, start_s, left_bytes)
        return self._depart(now_s, start_s, end_s, payload_bytes)

    def depart(self, start_s: float, end_s: float, payload_bytes: int) -> Carried:
        """Do as TcpLink.depart; it is `end_s` now."""
        return self._depart(end_s, start_s, end_s, payload_bytes)

    def _depart(self, now_s: float, start_s: float, end_s: float, payload_bytes: int) -> Carried:
        sent_s = end_s + self._waits_s(start_s, payload_bytes)
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
