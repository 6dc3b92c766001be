"""The embedded broker: amqtt, for runs on one machine where no other broker is installed.

It asks for no password, keeps nothing on disk and has no limits on its queues. It never gives up a client
that has gone silent without closing its connection. For a network of devices use a real broker.
"""

import asyncio
import contextlib
import logging

from amqtt.adapters import StreamReaderAdapter, StreamWriterAdapter
from amqtt.broker import Broker
from amqtt.session import Session

from broker.errors import BrokerError
from broker.wire.chunks import MAX_PACKET_BYTES

_LISTENER = "default"
_STOP_S = 1.0


class _LimitedReader(StreamReaderAdapter):  # type: ignore[misc]  # amqtt is untyped
    """Closes a connection that announces a packet above MAX_PACKET_BYTES; amqtt itself takes any size."""

    _ended = False

    async def read(self, n: int = -1) -> bytes:
        self._ended = self._ended or n > MAX_PACKET_BYTES
        return b"" if self._ended else await super().read(n)


class _Broker(Broker):  # type: ignore[misc]  # amqtt is untyped
    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Session
    ) -> None:
        """Send retained messages to a session that has this subscription.

        amqtt 0.12 also calls this for every new connection with the subscriptions of all other sessions. The
        new client would get messages that it has not subscribed to. And when another client subscribes
        meanwhile, amqtt fails ("dictionary changed size during iteration") and the connection hangs.
        """
        if any(owner is session for owner, _ in self._subscriptions.get(subscription[0], ())):
            await super()._publish_retained_messages_for_subscription(subscription, session)


async def serve_embedded(host: str, port: int, stop: asyncio.Event) -> None:
    """Run the broker until `stop` is set.

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

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await broker.external_connected(_LimitedReader(reader), StreamWriterAdapter(writer), _LISTENER)

    await broker.start()
    try:
        try:
            server = await asyncio.start_server(connected, host, port)  # asyncio sets TCP_NODELAY
        except OSError as error:
            raise BrokerError(f"the broker cannot listen on {host}:{port}: {error}") from error
        try:
            await stop.wait()
        finally:
            server.close()
    finally:
        with contextlib.suppress(TimeoutError):  # amqtt may wait for a task that has ignored its cancellation
            await asyncio.wait_for(broker.shutdown(), _STOP_S)
