"""The transport over a real broker: MQTT 3.1.1, QoS 0 and 1, clean sessions, through aiomqtt.

An aiomqtt client makes one connection and tells when it is lost. This module adds what aiomqtt leaves to its
users: a supervisor task that reconnects and subscribes again, publishes that continue on the next connection,
and a bounded inbox. Every connection has an aiomqtt client of its own, so that paho, below it, holds no
message of an earlier connection that it would send again without our knowledge.
"""

import asyncio
import itertools
import logging
import random
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Self
from weakref import WeakValueDictionary

import aiomqtt

from broker.errors import BrokerError, RefusedError, UnreachableError
from broker.transports import aiomqtt_quirks as quirks
from broker.transports.access import Access
from broker.transports.base import Connected, Disconnected, Event, TransportStats, Will, packets_of
from broker.transports.inbox import Inbox
from broker.transports.losses import Losses
from broker.transports.rotation import Rotation
from broker.wire import topics
from broker.wire.chunks import MAX_PACKET_BYTES
from broker.wire.link_bytes import KEEPALIVE_S

log = logging.getLogger(__name__)
_library_log = logging.getLogger(f"{__name__}.library")
_library_log.setLevel(logging.CRITICAL)  # aiomqtt logs errors that are handled here

ANSWER_TIMEOUT_S = 10.0
"""How long the broker may take to confirm a connection or a subscription."""

BACKOFF_S = (0.1, 5.0)
"""Shortest and longest pause between two attempts to connect; it doubles, and up to one half is taken off."""

MAX_PUBLISHES = 16
"""Packets sent and not yet acknowledged by the broker; paho would queue what is beyond 20."""

_NODELAY = ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),)  # without it every round trip takes 40 ms more


class MqttTransport:
    """A client of an MQTT broker. See broker.transports.base.Transport for its methods.

    Args:
        broker: how to get there, or just URLs, see broker.urls. Several brokers are tried in turn, from the
            first on again after each loss, so that all clients of a run come together at one of them.
        client_id: unique at the broker, which ends the older of two connections with one id.
        subscriptions: topic filters, wildcards allowed.
        will: what the broker says when a connection is lost, by the number of the connection.
        connect_timeout_s: how long to try for the first connection; None: until it stands, and the log says
            that it is waited for. Reconnecting has no limit.
        keepalive_s: see KEEPALIVE_S.
        packet_bytes: largest payload of a packet that is sent; larger messages are cut.

    Raises:
        BrokerError: from the constructor: not the URL of a broker, or a file without certificates. From
            entering it: no broker answers, or each one refuses us, or a subscription.
    """

    def __init__(
        self,
        broker: str | Access,
        *,
        client_id: str,
        subscriptions: Sequence[str],
        will: Callable[[int], Will] | None = None,
        connect_timeout_s: float | None = 10.0,
        keepalive_s: int = KEEPALIVE_S,
        packet_bytes: int = MAX_PACKET_BYTES,
    ) -> None:
        self.stats = TransportStats()
        self._access = access = broker if isinstance(broker, Access) else Access.of(broker)
        self._brokers = Rotation(access, client_id)
        self._client_id = client_id
        self._subscriptions = [(topic, 1) for topic in subscriptions]
        self._will = will
        self._connection, self._abruptly, self._refused = 0, False, 0
        self._connect_timeout_s = connect_timeout_s
        self._keepalive_s = keepalive_s
        self._packet_bytes = packet_bytes
        self._inbox = Inbox(client_id, self.stats)
        self._transfers = itertools.count(random.getrandbits(31))  # other numbers after each restart
        self._slots = asyncio.Semaphore(MAX_PUBLISHES)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._supervisor: asyncio.Task[None] | None = None
        self._link: quirks.Link | None = None
        self._changed = asyncio.Event()  # set while there is a link, and when there will never be one again
        self._ended: str | None = None  # why there will never be a link again
        self._kind: type[Exception] = BrokerError  # of the error that says so; a bug is none of these
        self._early: list[aiomqtt.Message] = []  # messages that came before the subscriptions were confirmed
        self._trouble = "it does not answer"
        self._losses = Losses(client_id)

    async def __aenter__(self) -> Self:
        assert self._supervisor is None, "a transport is entered once"
        self._supervisor = asyncio.create_task(self._supervise(), name=f"mqtt {self._client_id}")
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await self._online()
        except TimeoutError:
            await self._leave()
            raise UnreachableError(f"no MQTT broker at {self._brokers.places}: {self._trouble}") from None
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._abruptly = kind is not None  # the broker then says our last will
        await self._leave()

    def events(self) -> AsyncIterator[Event]:
        """See Transport.events."""
        return self._inbox

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> None:
        """See Transport.publish."""
        transfer = next(self._transfers) % 2**32
        packets = packets_of(payload, transfer, retain=retain, limit=self._packet_bytes)
        turn = self._turns.setdefault(topic, asyncio.Lock())
        async with turn:  # one message of a topic at a time; its chunks, in any order, all at once
            if len(packets) == 1:
                await self._publish(topic, packets[0], retain=retain, qos=qos)
            else:
                await asyncio.gather(
                    *(self._publish(topic, packet, retain=retain, qos=qos) for packet in packets)
                )

    async def _publish(self, topic: str, packet: bytes, *, retain: bool, qos: int) -> None:
        async with self._slots:
            while True:
                link = await self._online()
                self._losses.sends(len(packet), asyncio.get_running_loop().time())
                try:
                    await link.publish(topic, packet, retain=retain, qos=qos)
                except aiomqtt.MqttError:
                    await asyncio.wait({link.reader})
                    self.stats.resent += 1
                else:
                    self._losses.acknowledged(len(packet))
                    return

    async def _online(self) -> quirks.Link:
        while self._link is None:
            if self._ended is not None:
                raise self._kind(self._ended)
            await self._changed.wait()
        return self._link

    async def _leave(self) -> None:
        self._end("the transport has been left")
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait({self._supervisor})

    def _end(self, why: str, error: Exception | None = None) -> None:
        if self._ended is None:
            self._ended = why
            if error is not None:
                self._kind = type(error) if isinstance(error, BrokerError) else RuntimeError
            self._inbox.close(error)
            self._changed.set()

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        shortest_s, longest_s = BACKOFF_S
        pause_s = shortest_s
        try:
            while True:
                start_s = loop.time()
                try:
                    self._trouble = await self._connect_and_read()
                except aiomqtt.MqttError as error:
                    self._trouble = self._access.explained(quirks.describe_error(error))
                    self._brokers.failed()
                except RefusedError as error:
                    self._trouble = str(error)
                    self._brokers.refused(error)
                else:
                    self._brokers.lost()
                log.debug("%s: no connection: %s", self._client_id, self._trouble)
                if self._connect_timeout_s is None and not self.stats.connections:
                    self._brokers.are_waited_for(self._trouble)
                if loop.time() - start_s > longest_s:
                    pause_s = shortest_s
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311  only spreads load
                pause_s = min(2 * pause_s, longest_s)
        except BrokerError as error:
            self._end(str(error), error)
        except Exception as error:  # noqa: BLE001  whoever uses the transport gets it
            self._fail(error)

    def _fail(self, bug: Exception) -> None:
        log.error("%s: the transport has failed", self._client_id, exc_info=bug)
        self._end(f"the transport has failed: {bug!r}", bug)

    async def _connect_and_read(self) -> str:
        """Connect, and pass messages on until the connection is lost; return why it was."""
        client = await self._connect()
        reader = asyncio.create_task(quirks.lost(client), name=f"mqtt {self._client_id} reader")
        try:
            await self._subscribe(client, reader)
            self._go_online(quirks.Link(client, reader))
            return await reader
        finally:
            self._go_offline()
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            await quirks.disconnect(client, abruptly=self._abruptly)

    async def _connect(self) -> aiomqtt.Client:
        self._connection += 1
        address = self._brokers.address
        client = aiomqtt.Client(
            address.host,
            address.port,
            username=address.username,
            password=address.password,
            identifier=self._client_id,
            will=quirks.last_will(self._will(self._connection)) if self._will else None,
            clean_session=True,
            protocol=aiomqtt.ProtocolVersion.V311,
            timeout=ANSWER_TIMEOUT_S,
            keepalive=self._keepalive_s,
            tls_context=self._brokers.context,
            socket_options=_NODELAY,
            queue_type=quirks.queue_that_hands_on(self._receive),
            logger=_library_log,
        )
        self._early.clear()
        client.pending_calls_threshold = MAX_PUBLISHES + 1
        try:
            await quirks.connect(client)
        except aiomqtt.MqttCodeError as error:
            if refusal := quirks.why_refused(error):
                raise RefusedError(f"{address} refuses us: {refusal}") from None
            raise
        return client

    async def _subscribe(self, client: aiomqtt.Client, reader: asyncio.Task[str]) -> None:
        if not self._subscriptions:
            return
        codes = await quirks.unless_lost(reader, client.subscribe(self._subscriptions))
        if refused := [*filter(topics.is_needed, quirks.refused_topics(self._subscriptions, codes))]:
            words = f"{self._brokers.address} refuses the subscription to {', '.join(refused)}"
            self._refused += 1
            if not self.stats.connections:
                raise RefusedError(words)
            if self._refused == 1:  # a cluster that has lost a node refuses for a while
                log.warning("%s: %s; trying again", self._client_id, words)
            raise aiomqtt.MqttError(words)

    def _receive(self, message: aiomqtt.Message) -> None:
        if self._link is None:
            self._early.append(message)
            return
        try:
            self._inbox.receive(message.topic.value, message.payload)
        except Exception as error:  # noqa: BLE001  aiomqtt would take it for a lost connection
            self._fail(error)

    def _go_online(self, link: quirks.Link) -> None:
        self.stats.connected()
        self._refused = 0
        self._brokers.stands()
        self._link = link
        self._losses.connected(asyncio.get_running_loop().time())
        self._inbox.signal(Connected(self._connection))
        for message in self._early:
            self._inbox.receive(message.topic.value, message.payload)
        self._early.clear()
        self._changed.set()
        log.info("%s: connected to %s", self._client_id, self._brokers.address)

    def _go_offline(self) -> None:
        if self._link is not None:
            self._link.lose()
        if self._link is not None and self._ended is None:
            self._changed.clear()
            self._inbox.signal(Disconnected())
            log.warning("%s: lost %s, trying to get it back", self._client_id, self._brokers.address)
            if why := self._losses.lost(asyncio.get_running_loop().time()):
                log.warning("%s: %s", self._client_id, why)
        self._link, self.stats.is_connected = None, False
