"""A device whose answers may be computed ahead, and the links of many such devices as tables."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
import numpy as np

from broker.wire.messages import BatchUp, HeadUpdate, Standing
from edge_client.actions import ClientAction
from edge_client.core import ClientCore
from edge_client.jobs import ClientJob
from sim.network.endpoint import Endpoint, InFlight
from sim.network.links.link import TcpLink
from sim.network.links.many_links import Columns, ManyLinks, Numbers
from sim.network.links.random_stream import RandomStream
from sim.simulation.devices import Computer

NO_PUBACK = (0.0, 0.0, 0)

_ALMOST_0 = 2.0**-53
"""Not above any number that is drawn."""

Act = Callable[[list[ClientAction]], None]


class Talk(msgspec.Struct, eq=False):
    """What the server says to k devices at one time, and what they answer.

    Attributes:
        devices: they.
        told: to the first of them; to all others the same, on their own topics.
        jobs: that follow.
        result: of each job, and what each device says.
        answer: that on its way; its topic is that of the first device.
        began_s: when each message began to leave for its device, k of them as in all that follows.
        heard_s: when it arrived.
        done_s: when the job is done.
        left_s: when the answer began to leave.
        sent_s: when it had left.
        arrival_s: when it arrives at the broker.
        before: uplinks before, see ManyLinks.copy.
        jitter: states of their streams before.
        order: places in the order of arrival; `next` is the first one there that has not arrived.
    """

    devices: Sequence["Device"]
    told: InFlight
    jobs: Sequence[ClientJob]
    result: BatchUp | HeadUpdate
    answer: InFlight
    began_s: Sequence[float]
    heard_s: Sequence[float]
    done_s: Sequence[float]
    left_s: Sequence[float]
    sent_s: Sequence[float]
    arrival_s: Sequence[float]
    before: Numbers
    jitter: Sequence[int]
    order: Sequence[int]
    next: int = 0


class Ahead(Protocol):
    """Computes answers ahead."""

    def tell(self) -> None:
        """Let what was said at this time be heard and answered."""

    def give_back(self, device: "Device") -> None:
        """Let a device's links be what they are now, and what is to come happen in the general way."""


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
        is_in_table: its links are there.
        is_asked: it was told something a moment ago, and that is not computed yet.
        talk: what it is at, and `place` its own one there; None: nothing.
        heard: its message has arrived, as far as bytes are counted.
        sent: its answer has begun to leave.
        puback: when its last answer began to leave and arrived, and its packets that are acknowledged.
    """

    __slots__ = (
        "act",
        "ahead",
        "column",
        "computer",
        "core",
        "down",
        "endpoint",
        "heard",
        "is_asked",
        "is_in_table",
        "place",
        "puback",
        "sent",
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
        self.column = -1
        self.is_in_table = self.is_asked = self.heard = self.sent = False
        self.talk: Talk | None = None
        self.place = 0
        self.puback = NO_PUBACK

    def give_back(self) -> None:
        """Let its links be what they are now, and let happen what is to come."""
        if self.is_asked:
            self.ahead.tell()
        if self.is_in_table:
            self.ahead.give_back(self)

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

    def likeness(self) -> tuple[object, ...]:
        """Give what devices have in common that take the same time for the same work."""
        paths, computer = (id(self.up.path), id(self.down.path)), self.computer
        return *paths, id(computer.work), computer.slowdown.constant, computer.run


class Tables:
    """The links of many devices; a column for each of them that was ever at work here."""

    def __init__(self) -> None:
        self.up, self.down = ManyLinks(), ManyLinks()
        self._columns = 0

    def columns_of(self, devices: Sequence[Device]) -> Columns:
        """Give the columns of devices; their links are there from now on."""
        new = [device for device in devices if not device.is_in_table]
        for device in new:
            device.is_in_table = True
            if device.column < 0:
                device.column = self._columns
                self._columns += 1
        if new:
            columns = np.array([device.column for device in new])
            for table, links in ((self.up, [d.up for d in new]), (self.down, [d.down for d in new])):
                table.grow(self._columns)
                table.take(columns, links)
        return np.array([device.column for device in devices])

    def pass_pubacks(self, devices: Sequence[Device]) -> None:
        """Let the PUBACKs for what devices said last pass down, before anything else does."""
        due: dict[int, list[Device]] = defaultdict(list)
        for device in devices:
            if device.puback[2]:
                due[device.puback[2]].append(device)
        for packets, some in due.items():
            from_s, to_s = (np.array([device.puback[end] for device in some]) for end in (0, 1))
            columns = np.array([device.column for device in some])
            self.down.acknowledge(columns, some[0].down.path, from_s, to_s, packets)
            for device in some:
                device.puback = NO_PUBACK

    def give_back(self, device: Device) -> None:
        """Let a device have its links again."""
        device.is_in_table = False
        self.up.give(device.column, device.up)
        self.down.give(device.column, device.down)
        device.down.acknowledge(*device.puback)
        device.puback = NO_PUBACK


def links_to_compute(endpoint: Endpoint) -> tuple[TcpLink, TcpLink] | None:
    """Give a device's links, up and down, if its answers may be computed ahead.

    That cannot be done on links that change or are shared, that lose packets or must rest, and for a device
    that may leave. Times one way must vary, and never be 0: no two devices answer at the same moment then, so
    it does not matter in which order events of one moment were planned. What the trace shows goes the general
    way, too.
    """
    up, down = endpoint.up, endpoint.down
    if type(up) is not TcpLink or type(down) is not TcpLink:
        return None
    plain = endpoint.unsent is None and endpoint.lane is None and _is_plain(up) and _is_plain(down)
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
    return np.array([way_s(link.jitter.uniform()) for link in links if link.jitter is not None])
