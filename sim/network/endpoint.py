"""A device's end of the virtual network, and the messages that travel there."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from broker.machine.actions import Publish
from broker.wire import topics
from broker.wire.link_bytes import KEEPALIVE_S, PING, OnLink, connection_on_link, pings_of_silence
from broker.wire.messages import Status
from broker.wire.packing import encoded_bytes
from edge_client.actions import ClientEvent
from sim.network.broker_queues import Window
from sim.network.clock import Clock, Ts
from sim.network.links.link import TcpLink
from sim.network.links.shared_link import SharedTcpLink

Handle = Callable[[ClientEvent], None]


class Sleeper(Protocol):
    """A device that may be at rest: then it stands in tables, and its endpoint is what it was before."""

    @property
    def is_at_rest(self) -> bool:
        """Whether it is."""

    def wake(self) -> None:
        """Let the endpoint be what it is now, and let happen what is to come."""


@dataclass(slots=True)
class NetworkStats:
    """What the network did.

    Attributes:
        uplink_bytes: on the devices' links, with all that broker.wire.link_bytes counts; the pings of a
            silence count when it ends, or is looked at.
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
        pubacks: that answer them; none if they are of QoS 0.
        on_link: what they cost on a device's link.
        asked_s: when it was published.
    """

    publish: Publish
    wire_bytes: int
    pubacks: int
    on_link: OnLink
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
        keepalive_s: silence after which it pings the broker.

    Attributes:
        unsent: what waits for its connection, or for a PUBACK, oldest first; None if it never leaves.
        session: counts its connections and losses; what belongs to an earlier one is void.
        connection: counts its connections; the device says this number as its session.
        online: whether it can send.
        subscribed: whether the broker sends to it.
        will: whether the broker has its last will, and so thinks that it is there.
        handle: takes what happens at the device.
        sent_bytes: on its link, see broker.wire.link_bytes.
        received_bytes: the same in the other direction.
        active_s: when a message was last on its link, or a ping.
        until_s: when the last message on its own links arrives that was put there.
        sleeper: the device, if it may be at rest.
        totals: of the network; they take the same bytes.
        at_work: of the network; it is there since its links or bytes last did something.
    """

    __slots__ = (
        "active_s",
        "at_work",
        "client",
        "connection",
        "down",
        "handle",
        "keepalive_s",
        "lane",
        "online",
        "received_bytes",
        "sent_bytes",
        "session",
        "sleeper",
        "subscribed",
        "totals",
        "unsent",
        "until_s",
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
        keepalive_s: float = KEEPALIVE_S,
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
        self.active_s = self.until_s = 0.0
        self.sleeper: Sleeper | None = None
        self.keepalive_s = keepalive_s
        self.totals = NetworkStats()
        self.at_work: set[Endpoint] = set()
        self.handle: Handle = lambda _: None

    def connects(self, run: str, now_s: float) -> None:
        """Count a connection, under the client identifier that is the default."""
        will = topics.status(run, self.client), encoded_bytes(Status(online=False, session=self.session))
        subscriptions = topics.client_subscriptions(run, self.client)
        self.active_s = now_s
        cost = connection_on_link(f"{run}-{self.client}", subscriptions, will)
        self.counts(cost.there, cost.back, now_s)

    def carry(
        self,
        link: TcpLink | SharedTcpLink,
        clock: Clock,
        at_s: float,
        payload_bytes: int,
        deliver: Callable[[float, *Ts], None],
        *args: *Ts,
    ) -> float | None:
        """Put a message on one of its links; `deliver(start_s, *args)` is called when it has arrived.

        Args:
            link: `up` or `down`.
            clock: virtual time.
            at_s: when the message is there; a shared link takes it now.
            payload_bytes: of its MQTT packets.
            deliver: takes when it began to leave.
            args: of `deliver`, too.

        Returns:
            When it arrives; None on a shared link, where that depends on what others will send.
        """
        self.at_work.add(self)
        if isinstance(link, SharedTcpLink):
            link.send(payload_bytes, deliver, *args)
            return None
        carried = link.carry(at_s, payload_bytes)
        self.until_s = max(carried.arrival_s, self.until_s)
        clock.at(carried.arrival_s, deliver, carried.start_s, *args)
        return carried.arrival_s

    def counts(self, sent_bytes: int, received_bytes: int, now_s: float) -> None:
        """Count what a message has cost on its link, with what answers it; it ends a silence."""
        if now_s - self.active_s >= self.keepalive_s:
            self.count_pings(now_s)
        self.active_s = now_s
        self._add(sent_bytes, received_bytes)

    def _add(self, sent_bytes: int, received_bytes: int) -> None:
        self.at_work.add(self)
        self.sent_bytes += sent_bytes
        self.received_bytes += received_bytes
        self.totals.uplink_bytes += sent_bytes
        self.totals.downlink_bytes += received_bytes

    def count_pings(self, now_s: float) -> None:
        """Count the pings of a silence that ends now, or goes on."""
        if not self.subscribed:
            return
        pings = pings_of_silence(now_s - self.active_s, self.keepalive_s)
        self.active_s += pings * self.keepalive_s
        self._add(pings * PING.there, pings * PING.back)

    @property
    def is_at_rest(self) -> bool:
        """Whether the device is, see Sleeper."""
        return self.sleeper is not None and self.sleeper.is_at_rest

    @property
    def is_sharing(self) -> bool:
        """Whether something of its own is under way on a link that it shares with others."""
        up, down = self.up, self.down  # both share or none
        if not isinstance(up, SharedTcpLink) or not isinstance(down, SharedTcpLink):
            return False
        return up.under_way + down.under_way > 0
