"""A device's end of the virtual network, and the messages that travel there."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from broker.machine.actions import Publish
from edge_client.actions import ClientEvent
from sim.network.broker_queues import Window
from sim.network.links.link import TcpLink
from sim.network.links.shared_link import SharedTcpLink

Handle = Callable[[ClientEvent], None]


@dataclass(slots=True)
class NetworkStats:
    """What the network did.

    Attributes:
        uplink_bytes: on the devices' links with TCP/IP headers, and PUBACKs for what came down.
        downlink_bytes: the same in the other direction.
        lost: messages that a lost connection took with it, or that found nobody.
        dropped: messages for which a broker's queue had no room.
    """

    uplink_bytes: int = 0
    downlink_bytes: int = 0
    lost: int = 0
    dropped: int = 0


class InFlight(msgspec.Struct, frozen=True, gc=False):
    """A message on its way, with its sizes.

    Attributes:
        publish: topic and message.
        wire_bytes: of its PUBLISH packets.
        link_bytes: of the same with TCP/IP headers.
        answer_bytes: of the PUBACKs for them, with TCP/IP headers.
        asked_s: when it was published.
    """

    publish: Publish
    wire_bytes: int
    link_bytes: int
    answer_bytes: int
    asked_s: float


class Endpoint:
    """A device's end of the network: its links, its connection and what it has not sent yet.

    Args:
        client: its name.
        up: link to the broker.
        down: link from the broker.
        window: what the broker may have under way to it.
        leaves: whether it may ever leave; its unsent messages are then kept.
        lane: of the trace, if it has one.

    Attributes:
        unsent: what has not arrived at the broker, oldest first; None if it never leaves.
        session: counts its connections and losses; what belongs to an earlier one is void.
        connection: counts its connections; the device says this number as its session.
        online: whether it can send.
        subscribed: whether the broker sends to it.
        will: whether the broker has its last will, and so thinks that it is there.
        handle: takes what happens at the device.
        sent_bytes: on its link with TCP/IP headers, PUBACKs for what came down included.
        received_bytes: the same in the other direction.
    """

    __slots__ = (
        "client",
        "connection",
        "down",
        "handle",
        "lane",
        "online",
        "received_bytes",
        "sent_bytes",
        "session",
        "subscribed",
        "unsent",
        "up",
        "will",
        "window",
    )

    def __init__(
        self,
        client: str,
        up: TcpLink | SharedTcpLink,
        down: TcpLink | SharedTcpLink,
        window: Window,
        *,
        leaves: bool,
        lane: int | None,
    ) -> None:
        self.client = client
        self.up = up
        self.down = down
        self.window = window
        self.lane = lane
        self.unsent: deque[InFlight] | None = deque() if leaves else None
        self.session = 0
        self.connection = 0
        self.online = False
        self.subscribed = False
        self.will = False
        self.sent_bytes = self.received_bytes = 0
        self.handle: Handle = lambda _: None
