"""The embedded broker: amqtt, for runs on one machine where no other broker is installed.

It keeps nothing on disk and has no limits on its queues. It never gives up a client that has gone silent
without closing its connection. Without the files of a fleet it lets everybody in, and everybody do
everything. For a network of devices use a real broker.
"""

import asyncio
import contextlib
import logging

from amqtt.adapters import StreamReaderAdapter, StreamWriterAdapter
from amqtt.broker import Action, Broker
from amqtt.session import Session

from broker.errors import BrokerError
from broker.servers.doors import Doors, RefusedEntryError
from broker.wire.chunks import MAX_PACKET_BYTES

_LISTENER = "default"
_STOP_S = 1.0
_ENTER_S = 30.0
"""How long a connection may take to say who it is."""


class _LimitedReader(StreamReaderAdapter):  # type: ignore[misc]  # amqtt is untyped
    """Closes a connection that announces a packet above MAX_PACKET_BYTES; amqtt itself takes any size."""

    _ended = False
    first = b""
    """What is read before that which comes from the connection."""

    async def read(self, n: int = -1) -> bytes:
        if self.first:
            taken = self.first[:n] if n >= 0 else self.first
            self.first = self.first[len(taken) :]
            return taken
        self._ended = self._ended or n > MAX_PACKET_BYTES
        return b"" if self._ended else await super().read(n)


class _Broker(Broker):  # type: ignore[misc]  # amqtt is untyped
    doors: Doors | None = None

    async def _topic_filtering(self, session: Session, topic: str, action: Action) -> bool:
        """Say what a fleet's access list says; without one, everything is allowed."""
        if self.doors is None:
            return True
        user, rights = str(session.username), self.doors.rights
        if action == Action.SUBSCRIBE:
            return rights.may_subscribe(user, topic)
        return rights.may(user, "write" if action == Action.PUBLISH else "read", topic)

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Session
    ) -> None:
        """Send retained messages to a session that has this subscription.

        amqtt 0.12 also calls this for every new connection with the subscriptions of all other sessions. The
        new client would get messages that it has not subscribed to. And when another client subscribes
        meanwhile, amqtt fails ("dictionary changed size during iteration") and the connection hangs.
        """
        if not any(owner is session for owner, _ in self._subscriptions.get(subscription[0], ())):
            return
        if self.doors is None:
            await super()._publish_retained_messages_for_subscription(subscription, session)
            return
        topic_filter, qos = subscription
        for topic, retained in list(self._retained_messages.items()):
            hears = self._matches(topic, topic_filter) and await self._topic_filtering(
                session, topic, Action.RECEIVE
            )
            if hears and (handler := self._get_handler(session)):
                best = min(qos, retained.qos or qos)
                await handler.mqtt_publish(retained.topic, retained.data, best, retain=True)


async def serve_embedded(host: str, port: int, stop: asyncio.Event, doors: Doors | None = None) -> None:
    """Run the broker until `stop` is set.

    Args:
        host: address to listen on.
        port: TCP port.
        stop: ends it.
        doors: who may come in and what for; None: everybody, without TLS.

    Raises:
        BrokerError: the address is taken, or is not one of this machine.
    """
    logging.getLogger("amqtt").setLevel(logging.ERROR)  # its warnings tell of each client that leaves
    broker = _Broker(
        {
            "listeners": {_LISTENER: {"type": "external"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )

    broker.doors = doors
    inside: dict[str, tuple[asyncio.StreamWriter, asyncio.Event]] = {}

    async def show_out(user: str) -> None:
        """End a user's older connection, which amqtt would leave open and deaf."""
        if user in inside:
            writer, has_left = inside[user]
            writer.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(has_left.wait(), _STOP_S)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        limited, user, has_left = _LimitedReader(reader), "", asyncio.Event()
        if doors is not None:
            try:
                async with asyncio.timeout(_ENTER_S):
                    user, limited.first = await doors.enter(limited, writer.get_extra_info("ssl_object"))
            except (RefusedEntryError, TimeoutError, OSError) as error:
                writer.write(getattr(error, "answer", b""))
                writer.close()
                return
            await show_out(user)
            inside[user] = writer, has_left
        try:
            await broker.external_connected(limited, StreamWriterAdapter(writer), _LISTENER)
        finally:
            has_left.set()
            if inside.get(user, (None,))[0] is writer:
                del inside[user]

    await broker.start()
    try:
        try:
            tls = doors.tls if doors else None
            server = await asyncio.start_server(connected, host, port, ssl=tls)  # it sets TCP_NODELAY
        except OSError as error:
            raise BrokerError(f"the broker cannot listen on {host}:{port}: {error}") from error
        try:
            await stop.wait()
        finally:
            server.close()
    finally:
        with contextlib.suppress(TimeoutError):  # amqtt may wait for a task that has ignored its cancellation
            await asyncio.wait_for(broker.shutdown(), _STOP_S)
