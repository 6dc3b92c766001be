"""The objects of a device that may be at rest, while it is not."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from broker.wire.messages import Standing
from edge_client.actions import ClientAction
from edge_client.core import ClientCore
from scenarios.schema.links import link_of
from scenarios.schema.network import Always, FleetGroup
from sim.network.endpoint import Endpoint
from sim.network.links.link import TcpLink
from sim.network.links.path import Path, path_of
from sim.network.links.random_stream import RandomStream
from sim.simulation.devices import Computer

_ALMOST_0 = 2.0**-53
"""Not above any number that is drawn."""

MOST_PUBACKS = 2
"""So many may be under way to the broker from a device at rest."""

Act = Callable[[list[ClientAction]], None]


class Keeper(Protocol):
    """Something that keeps devices at rest."""

    def rests(self, number: int) -> bool:
        """Say whether a device is at rest."""

    def wake(self, number: int) -> None:
        """Let a device's objects be what it is now, and what is to come happen in the general way."""


class Device:
    """The objects of a device that may be at rest; while it is, they are what it was before.

    Args:
        keeper: has it while it is at rest.
        number: its place in the fleet.
        endpoint: its place in the network.
        core: its state machine.
        computer: does its jobs.
        act: carries out what its state machine asks for.
    """

    __slots__ = ("_keeper", "act", "computer", "core", "down", "endpoint", "number", "up")

    def __init__(
        self,
        keeper: Keeper,
        number: int,
        endpoint: Endpoint,
        core: ClientCore,
        computer: Computer,
        act: Act,
    ) -> None:
        up, down = endpoint.up, endpoint.down
        assert isinstance(up, TcpLink)
        assert isinstance(down, TcpLink)
        self.up, self.down = up, down
        self._keeper, self.number, self.endpoint = keeper, number, endpoint
        self.core, self.computer, self.act = core, computer, act

    @property
    def is_at_rest(self) -> bool:
        """Whether its objects are not what it is now."""
        return self._keeper.rests(self.number)

    def wake(self) -> None:
        """Let its objects be what it is now, and let happen what is to come."""
        self._keeper.wake(self.number)

    def may_rest(self, now_s: float) -> bool:
        """Say whether it has heard all that was said to it, has said all that it will, and is as ever."""
        endpoint = self.endpoint
        return (
            endpoint.until_s < now_s
            and endpoint.subscribed
            and endpoint.online
            and self.core.standing is not Standing.WORKING
            and self.computer.slowdown.constant is not None
            and len(endpoint.window.awaited(now_s)) <= MOST_PUBACKS
        )


class Line(NamedTuple):
    """A kind of link on which answers may be computed ahead: both directions."""

    up: Path
    down: Path


def line_of(group: FleetGroup) -> Line | None:
    """Give the kind of link of a group's devices, if their answers may be computed ahead.

    That cannot be done on links that change or are shared, nor for a device that may leave.
    """
    link = link_of(group.link)
    leaves = group.battery is not None or not isinstance(group.availability, Always)
    if leaves or group.via is not None or link.changes:
        return None
    line = Line(path_of(link, "up"), path_of(link, "down"))
    return line if all(map(_is_plain, line)) else None


def _is_plain(path: Path) -> bool:
    """Say whether answers may be computed ahead on one direction of a link of a device's own.

    That cannot be done on links that lose packets or must rest. Times one way must vary, and never be 0: no
    two devices answer at the same moment then, so it does not matter in which order events of one moment were
    planned.
    """
    alone = not (path.loss or path.rest or path.jitter_per_packet)
    return alone and path.one_way_s is not None and path.one_way_s(_ALMOST_0) > 0


def stream_of(link: TcpLink) -> RandomStream:
    """Give what the times one way of such a link come from."""
    assert link.jitter is not None
    return link.jitter
