"""Connect and disconnect through aiomqtt 2.5 without leaving sockets or tasks behind.

aiomqtt connects on a thread that cannot be cancelled; it does not notice a broker that closes the connection
before it has accepted us; it keeps the socket of a failed attempt open; and a publish goes on waiting after
the connection is lost. This is the only module that uses private parts of aiomqtt and paho.
"""

import asyncio
import math
import re
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import aiomqtt
from paho.mqtt.reasoncodes import ReasonCode

from broker.transports.base import Will

T = TypeVar("T")

_REFUSALS = {133: "client identifier not valid", 134: "bad user name or password", 135: "not authorized"}

_POLL_S = 0.1


@dataclass(slots=True)
class Link:
    """A connection on which every subscription is confirmed.

    Attributes:
        client: the connection.
        reader: ends when it is lost.
    """

    client: aiomqtt.Client
    reader: asyncio.Task[str]
    _is_lost: bool = False

    async def publish(self, topic: str, packet: bytes, *, retain: bool, qos: int = 1) -> None:
        """Publish a packet, and wait until the broker has acknowledged it; with QoS 0, until it is sent.

        Raises:
            aiomqtt.MqttError: the connection was lost before the broker has done that.
        """
        await self.client.publish(topic, packet, qos=qos, retain=retain, timeout=math.inf)
        if self._is_lost:
            raise aiomqtt.MqttError("the connection was lost")

    def lose(self) -> None:
        """Let all who wait in `publish` know that the connection is lost.

        One acknowledgement that has come in the same moment may be told as lost, too.
        """
        self._is_lost = True
        for acknowledged in self.client._pending_publishes.values():  # noqa: SLF001  aiomqtt would let them wait
            acknowledged.set()


async def connect(client: aiomqtt.Client) -> None:
    """Connect; when that fails or is cancelled, close the socket.

    Raises:
        aiomqtt.MqttError: there is no connection, or the broker refuses it.
    """
    entering = asyncio.create_task(client.__aenter__(), name="mqtt connect")
    try:
        await _accepted(client, entering)
    except BaseException:
        while not entering.done() and not _had_socket(client):
            await asyncio.wait({entering}, timeout=_POLL_S)
        entering.cancel()
        await asyncio.gather(entering, return_exceptions=True)
        client._client._sock_close()  # noqa: SLF001  aiomqtt leaves it open
        raise


async def _accepted(client: aiomqtt.Client, entering: asyncio.Task[aiomqtt.Client]) -> None:
    while not entering.done():
        if _had_socket(client) and client._client.socket() is None:  # noqa: SLF001  there is no public method
            raise aiomqtt.MqttError("it hangs up")
        await asyncio.wait({entering}, timeout=_POLL_S)
    entering.result()


def _had_socket(client: aiomqtt.Client) -> bool:
    return client._misc_task is not None  # noqa: SLF001  aiomqtt starts this task when its thread has opened the socket


async def disconnect(client: aiomqtt.Client, *, abruptly: bool = False) -> None:
    """End a connection.

    Args:
        client: the connection.
        abruptly: close the socket without a DISCONNECT, so that the broker says the last will (MQTT 3.1.1,
            3.1.2.5).
    """
    if abruptly:
        client._client._sock_close()  # noqa: SLF001  no public word for it
    try:
        await client.__aexit__(None, None, None)
    except aiomqtt.MqttError:
        client._client._sock_close()  # noqa: SLF001  aiomqtt leaves it open
    loss = client._disconnected  # noqa: SLF001  asyncio logs a future's error that was never read
    if loss.done() and not loss.cancelled():
        loss.exception()


def queue_that_hands_on(
    receive: Callable[[aiomqtt.Message], None],
) -> type[asyncio.Queue[aiomqtt.Message]]:
    """Make a queue for aiomqtt that gives each message to a function at once and never holds one.

    aiomqtt makes a task for each message that is taken from its queue, and the queue has no bound.
    """

    class HandsOn(asyncio.Queue[aiomqtt.Message]):
        def put_nowait(self, message: aiomqtt.Message) -> None:
            receive(message)

    return HandsOn


async def lost(client: aiomqtt.Client) -> str:
    """Wait until a connection is lost, and return why it was."""
    try:
        async for _message in client.messages:
            raise AssertionError("its queue holds no message")
    except aiomqtt.MqttError as error:
        return describe_error(error)
    raise AssertionError("aiomqtt ends this iteration with an error only")


async def unless_lost(reader: asyncio.Task[str], work: Coroutine[Any, Any, T]) -> T:
    """Await an answer of the broker, for as long as the connection lasts.

    Args:
        reader: a task that ends when the connection is lost.
        work: what waits for the answer.

    Raises:
        aiomqtt.MqttError: the connection was lost before the answer came.
    """
    answer = asyncio.ensure_future(work)
    try:
        await asyncio.wait({answer, reader}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise aiomqtt.MqttError("the connection was lost")
        return answer.result()
    finally:
        if not answer.done():
            answer.cancel()
            await asyncio.gather(answer, return_exceptions=True)


def describe_error(error: aiomqtt.MqttError) -> str:
    """Return what went wrong, without numbers that only programmers know."""
    return re.sub(r"^\[[^]]*] ", "", str(error.__cause__ or error))  # without [Errno 111] or [code:128]


def why_refused(error: aiomqtt.MqttCodeError) -> str | None:
    """Say why the broker does not let us in; None when that is not what the error tells."""
    return _REFUSALS.get(getattr(error.rc, "value", 0))


def refused_topics(subscriptions: Sequence[tuple[str, int]], codes: Sequence[int | ReasonCode]) -> list[str]:
    """Give the topics that the broker does not let us hear."""
    answered = zip(subscriptions, codes, strict=True)
    return [topic for (topic, _), code in answered if isinstance(code, ReasonCode) and code.is_failure]


def last_will(will: Will) -> aiomqtt.Will:
    """Give a last will in aiomqtt's form."""
    return aiomqtt.Will(will.topic, will.payload, qos=1, retain=will.retain)
