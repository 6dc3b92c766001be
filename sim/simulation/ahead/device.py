"""A device whose answers may be computed ahead."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from broker.wire.messages import Standing
from edge_client.actions import ClientAction
from edge_client.core import ClientCore
from sim.network.endpoint import Endpoint, InFlight
from sim.network.links.link import TcpLink
from sim.network.links.many_links import Numbers
from sim.network.links.random_stream import RandomStream, uniforms
from sim.simulation.devices import Computer

_ALMOST_0 = 2.0**-53
"""Not above any number that is drawn."""

Act = Callable[[list[ClientAction]], None]


class Ahead(Protocol):
    """Computes answers ahead."""

    def tell(self) -> None:
        """Let what was said at this time be heard and answered."""

    def give_back(self, device: "Device") -> None:
        """Let a device's links be what they are now, and what is to come happen in the general way."""

    def greet(self, device: "Device", state: InFlight) -> bool:
        """Compute how a device connects and greets; false if that must go step by step."""


class Device:
    """A device whose answers may be computed ahead.

    Args:
        ahead: computes them.
        endpoint: its place in the network.
        links: its links, up and down.
        core: its state machine.
        computer: does its jobs.
        act: carries out what its state machine asks for.

    Attributes:
        column: of the tables of links.
        kind: the same for devices that take the same time for the same work; 0: not known yet.
        is_in_table: its links are there.
        is_asked: it was told something a moment ago, and that is not computed yet.
        talk: what it is at (sim.simulation.ahead.talk), and `place` its own one there; None: nothing.
    """

    __slots__ = (
        "act",
        "ahead",
        "column",
        "computer",
        "core",
        "down",
        "endpoint",
        "is_asked",
        "is_in_table",
        "kind",
        "place",
        "talk",
        "up",
    )

    def __init__(
        self,
        ahead: Ahead,
        endpoint: Endpoint,
        links: tuple[TcpLink, TcpLink],
        core: ClientCore,
        computer: Computer,
        act: Act,
    ) -> None:
        self.ahead, self.endpoint, self.core, self.computer, self.act = ahead, endpoint, core, computer, act
        self.up, self.down = links
        self.column, self.kind = -1, 0
        self.is_in_table = self.is_asked = False
        self.talk: object = None
        self.place = 0

    def give_back(self) -> None:
        """Let its links be what they are now, and let happen what is to come."""
        if self.is_asked:
            self.ahead.tell()
        if self.is_in_table:
            self.ahead.give_back(self)

    def greets(self, state: InFlight) -> bool:
        """Compute how it connects and greets, being subscribed now; false if that must go step by step."""
        return self.ahead.greet(self, state)

    def waits(self, now_s: float) -> bool:
        """Say whether it has heard all that was said to it, has said all that it will, and is as ever."""
        endpoint = self.endpoint
        return (
            self.talk is None
            and not self.is_asked
            and endpoint.until_s < now_s
            and endpoint.subscribed
            and endpoint.online
            and self.core.standing is not Standing.WORKING
            and self.computer.slowdown.constant is not None
        )


def links_to_compute(endpoint: Endpoint) -> tuple[TcpLink, TcpLink] | None:
    """Give a device's links, up and down, if its answers may be computed ahead.

    That cannot be done on links that change or are shared, that lose packets or must rest, and for a device
    that may leave. Times one way must vary, and never be 0: no two devices answer at the same moment then, so
    it does not matter in which order events of one moment were planned.
    """
    up, down = endpoint.up, endpoint.down
    if type(up) is not TcpLink or type(down) is not TcpLink:
        return None
    plain = endpoint.unsent is None and _is_plain(up) and _is_plain(down)
    return (up, down) if plain else None


def _is_plain(link: TcpLink) -> bool:
    way_s = link.path.one_way_s
    return not link.by_segments and not link.path.rest and way_s is not None and way_s(_ALMOST_0) > 0


def stream_of(link: TcpLink) -> RandomStream:
    """Give what the times one way of such a link come from."""
    assert link.jitter is not None
    return link.jitter


def ways_s(links: Sequence[TcpLink]) -> Numbers:
    """Draw the time one way of each of these links; all have the same path."""
    way_s = links[0].path.one_way_s
    assert way_s is not None
    return np.array(list(map(way_s, uniforms(map(stream_of, links)))))
