"""A broker in memory, for tests and for trying things without a network.

    broker = MemoryBroker()
    async with broker.transport(client_id="pi", subscriptions=["fl/run/state"]) as transport: ...

A message is delivered during the call that publishes it, to one client after the other in the order in which
they connected. So a program sees the same events each time. Chunks, limits and byte counts are those of the
MQTT transport.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Self

from broker.errors import BrokerError
from broker.transports.base import Connected, Event, TransportStats, Will, packets_of
from broker.transports.inbox import Inbox


def matches(pattern: str, topic: str) -> bool:
    """Tell whether a subscription, which may have the wildcards + and #, covers a topic (MQTT 3.1.1, 4.7)."""
    if topic.startswith("$") and not pattern.startswith("$"):
        return False
    wanted, levels = pattern.split("/"), topic.split("/")
    if wanted[-1] == "#":
        wanted.pop()
        levels = levels[: len(wanted)]
    return len(wanted) == len(levels) and all(
        w in ("+", level) for w, level in zip(wanted, levels, strict=True)
    )


class MemoryBroker:
    """Passes messages between transports of one event loop; keeps retained messages and last wills.

    Attributes:
        retained: the kept payload of each topic.
    """

    def __init__(self) -> None:
        self.retained: dict[str, bytes] = {}
        self._clients: dict[str, MemoryTransport] = {}
        self._transfers = itertools.count()

    def transport(
        self, *, client_id: str, subscriptions: Sequence[str], will: Callable[[int], Will] | None = None
    ) -> "MemoryTransport":
        """Make a transport, which the caller enters."""
        return MemoryTransport(self, client_id, subscriptions, will)

    def kill(self, client_id: str) -> None:
        """Cut a client off as if it had lost its power: its will is published, its transport raises errors.

        Raises:
            KeyError: no such client is connected.
        """
        client = self._clients.pop(client_id)
        client.stats.is_connected = False
        client.inbox.close(BrokerError(f"{client_id} was killed"))
        if client.will is not None:
            will = client.will(client.stats.connections)
            self.publish(will.topic, will.payload, retain=will.retain)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Deliver a message to all clients that subscribe to its topic, in chunks if it is large.

        Raises:
            ValueError: as in Transport.publish.
        """
        if not topic or "+" in topic or "#" in topic:
            raise ValueError(f"{topic!r} is no topic to publish on")
        packets = packets_of(payload, next(self._transfers), retain=retain)
        if retain and payload:
            self.retained[topic] = payload
        elif retain:
            self.retained.pop(topic, None)
        for packet in packets:
            for client in list(self._clients.values()):
                client.receive(topic, packet)

    def attach(self, client: "MemoryTransport") -> None:
        """Connect a client; another one with the same id is cut off first (MQTT 3.1.1, 3.1.4-2)."""
        if client.client_id in self._clients:
            self.kill(client.client_id)
        self._clients[client.client_id] = client
        client.stats.connected()
        client.inbox.signal(Connected(client.stats.connections))
        for topic, payload in self.retained.items():
            client.receive(topic, payload)

    def detach(self, client: "MemoryTransport") -> None:
        """Disconnect a client without publishing its will."""
        if self.has(client):
            del self._clients[client.client_id]
            client.stats.is_connected = False

    def has(self, client: "MemoryTransport") -> bool:
        """Tell whether this very client is connected."""
        return self._clients.get(client.client_id) is client


class MemoryTransport:
    """One client of a MemoryBroker; made by MemoryBroker.transport. See broker.transports.base.Transport."""

    def __init__(
        self,
        broker: MemoryBroker,
        client_id: str,
        subscriptions: Sequence[str],
        will: Callable[[int], Will] | None,
    ) -> None:
        self.client_id = client_id
        self.will = will
        self.stats = TransportStats()
        self.inbox = Inbox(client_id, self.stats)
        self._broker = broker
        self._subscriptions = tuple(subscriptions)

    async def __aenter__(self) -> Self:
        self._broker.attach(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self._broker.has(self):
            self._broker.kill(self.client_id)
        self._broker.detach(self)
        self.inbox.close()

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> None:  # noqa: ARG002  nothing is lost here
        """See Transport.publish."""
        if not self._broker.has(self):
            raise BrokerError(f"{self.client_id} is not connected")
        self._broker.publish(topic, payload, retain=retain)
        await asyncio.sleep(0)  # other tasks run now, as they would while a real broker answers

    def events(self) -> AsyncIterator[Event]:
        """See Transport.events."""
        return self.inbox

    def receive(self, topic: str, packet: bytes) -> None:
        """Take a packet from the broker, if one of the subscriptions covers its topic."""
        if any(matches(pattern, topic) for pattern in self._subscriptions):
            self.inbox.receive(topic, packet)
