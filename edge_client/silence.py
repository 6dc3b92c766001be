"""Says what may be wrong when a device hears nothing: a broker does not tell whom it keeps from topics.

Mosquitto confirms a subscription that it will never serve, and takes a message that it will drop, since
MQTT 3.1.1 has no answer for either. So a device would listen to a silent broker for ever.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Self

from broker.transports.base import (
    Connect,
    Connected,
    Disconnected,
    Event,
    Frame,
    Transport,
    TransportStats,
    Will,
)
from broker.wire import topics
from broker.wire.errors import WireError

log = logging.getLogger(__name__)

UNHEARD_S = 20.0
"""So long after it has connected, a device should have heard the state of its run, which the broker keeps."""

UNANSWERED_S = 60.0
"""So long after it has greeted the server, it should have been spoken to, unless the cohorts are small."""


def attentive(connect: Connect, user: str | None) -> Connect:
    """Make transports that say once what may be wrong when nobody answers.

    Args:
        connect: makes the transports that do the work.
        user: the user's name at the broker; None without one.
    """

    def make(
        *, client_id: str, subscriptions: Sequence[str], will: Callable[[int], Will] | None = None
    ) -> Transport:
        transport = connect(client_id=client_id, subscriptions=subscriptions, will=will)
        return Attentive(transport, subscriptions, user)

    return make


class Attentive:
    """A transport of a device, see attentive.

    Args:
        transport: that does the work.
        subscriptions: of the device; they tell its run and its name.
        user: see attentive.
    """

    def __init__(self, transport: Transport, subscriptions: Sequence[str], user: str | None) -> None:
        self._transport = transport
        self._run = subscriptions[0].split("/")[2]
        self._client = next((topic.split("/")[4] for topic in subscriptions if _kind(topic) == "down"), "")
        self._comes = "without a user name" if user is None else f"as user '{user}'"
        self._heard = self._answered = False
        self._timers: list[asyncio.TimerHandle] = []

    @property
    def stats(self) -> TransportStats:
        """See Transport.stats."""
        return self._transport.stats

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wait_no_more()
        await self._transport.__aexit__(kind, error, trace)

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> None:
        """See Transport.publish."""
        await self._transport.publish(topic, payload, retain=retain, qos=qos)
        if not self._answered and _kind(topic) == "up":
            self._after(UNANSWERED_S, self._unanswered)

    async def events(self) -> AsyncIterator[Event]:
        """See Transport.events."""
        async for event in self._transport.events():
            match event:
                case Connected() if not self._heard:
                    self._after(UNHEARD_S, self._unheard)
                case Disconnected():
                    self._wait_no_more()
                case Frame(topic=topic):
                    self._heard = True
                    self._answered = self._answered or _kind(topic) == "down"
                case _:
                    pass
            yield event

    def _after(self, delay_s: float, tell: Callable[[], None]) -> None:
        self._timers.append(asyncio.get_running_loop().call_later(delay_s, tell))

    def _wait_no_more(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def _unheard(self) -> None:
        if not self._heard:
            self._heard = True
            log.warning(
                "%s: nothing of run %s at the broker for %.0f s: its server has not begun, or the run has "
                "another name, or the broker does not let who comes %s read the run's topics "
                "(`fedlite fleet allow %s`)",
                self._client or self._run, self._run, UNHEARD_S, self._comes, self._run,
            )  # fmt: skip

    def _unanswered(self) -> None:
        if not self._answered:
            self._answered = True
            log.warning(
                "%s: the server of run %s has not spoken to it for %.0f s: it has not been chosen for a "
                "round yet, or the broker drops what it says, because it comes %s and not as '%s', or "
                "has no right to %s",
                self._client, self._run, UNANSWERED_S, self._comes, self._client,
                topics.up(self._run, self._client),
            )  # fmt: skip


def _kind(topic: str) -> str:
    try:
        return topics.parse(topic).kind
    except WireError:
        return ""
