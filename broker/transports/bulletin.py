"""Keeps retained messages at the broker up to date, without getting in the way of other messages.

One message is under way at a time. After it comes a pause of twenty times as long as the broker took to
acknowledge it: so these messages take at most a twentieth of the time, and less of the bytes, also where the
link is slow or the broker is busy. What is overtaken by something newer before it was sent is not sent.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Self

from broker.errors import BrokerError
from broker.transports.base import Transport
from broker.wire.chunks import mqtt_packet_bytes

log = logging.getLogger(__name__)

PAUSES = 20
PAUSE_S = (0.05, 10.0)
"""Shortest and longest pause."""

FINISH_S = 2.0
"""How long the last pages are tried when everything else is over."""


class Bulletin:
    """Publishes pages, each retained on a topic of its own, from its being entered to its being left.

    Args:
        transport: an entered transport.
        topic_of: gives the topic of a page by its name.

    Attributes:
        wire_bytes: of the packets that were sent.
    """

    def __init__(self, transport: Transport, topic_of: Callable[[str], str]) -> None:
        self.wire_bytes = 0
        self._transport = transport
        self._topic_of = topic_of
        self._kept: dict[str, bytes] = {}
        self._waiting: dict[str, bytes] = {}
        self._news = asyncio.Event()
        self._part = False

    async def __aenter__(self) -> Self:
        self._keeping = asyncio.create_task(self._keep(), name="bulletin")
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Publish what waits, now that nobody else has anything to say any more; for two seconds at most."""
        self._keeping.cancel()
        await asyncio.gather(self._keeping, return_exceptions=True)
        with suppress(TimeoutError, BrokerError):
            async with asyncio.timeout(FINISH_S):
                while self._waiting:
                    await self._publish_next()

    def post(self, pages: Iterable[tuple[str, bytes]] | None) -> None:
        """Take note of the present content of pages; those that have changed are published in time.

        None: nothing is to be published, also not what waits.
        """
        if pages is None:
            self._waiting.clear()
        for name, content in pages or ():
            if self._kept.get(name) == content:
                self._waiting.pop(name, None)
            else:
                self._waiting[name] = content
        (self._news.set if self._waiting else self._news.clear)()

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        shortest_s, longest_s = PAUSE_S
        while True:
            await self._news.wait()
            begin_s = loop.time()
            try:
                await self._publish_next()
            except BrokerError as error:
                log.debug("no more pages: %s", error)
                return
            took_s = loop.time() - begin_s
            await asyncio.sleep(min(max(PAUSES * took_s, shortest_s), longest_s))

    async def _publish_next(self) -> None:
        # What has waited longest is next. Parts of a page (those with a slash) may be many; if both kinds
        # wait, every other message is none.
        self._part = not self._part
        of_kind = (name for name in self._waiting if ("/" in name) is self._part)
        name = next(of_kind, None) or next(iter(self._waiting))
        topic, content = self._topic_of(name), self._waiting.pop(name)
        if not self._waiting:
            self._news.clear()
        self._kept[name] = content
        self.wire_bytes += mqtt_packet_bytes(topic, len(content))
        await self._transport.publish(topic, content, retain=True)
