"""The buffer between a broker's packets and the consumer of events."""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from broker.transports.base import Connected, Disconnected, Event, Frame, Refused, TransportStats
from broker.wire import chunks
from broker.wire.errors import WireError

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_WARNINGS = 1.0


@dataclass(frozen=True, slots=True)
class InboxLimits:
    """How much may wait for the consumer of events.

    Attributes:
        topic_frames: messages of one topic.
        topic_bytes: bytes of one topic's messages.
        frames: messages and changes of the connection, of all topics.
        bytes: bytes of all messages.
    """

    topic_frames: int = 16
    topic_bytes: int = chunks.MAX_MESSAGE_BYTES
    frames: int = 65_536
    bytes: int = 4 * chunks.MAX_MESSAGE_BYTES


class Inbox:
    """Turns packets into events, and holds a bounded number of them.

    The broker has its acknowledgement before a message gets here, so nothing can slow a sender down.
    A message for which there is no room is dropped, counted and logged, and so is a packet that breaks the
    rules. The consumer hears of it (Refused); what waits of one topic and for one reason is told together.
    Each topic has a limit of its own, so that a client that floods its topic takes no room from the others.

    Args:
        name: the client's name in the log.
        stats: the counters to add to.
        limits: how much may wait.
    """

    def __init__(self, name: str, stats: TransportStats, limits: InboxLimits | None = None) -> None:
        self._name = name
        self._stats = stats
        self._limits = limits or InboxLimits()
        self._reassembler = chunks.Reassembler()
        self._events: deque[Connected | Disconnected | Frame | tuple[str, str]] = deque()
        self._refused: dict[tuple[str, str], Refused] = {}  # by topic and reason; the key stands in _events
        self._topic_frames: Counter[str] = Counter()
        self._topic_bytes: Counter[str] = Counter()
        self._pending_bytes = 0
        self._news = asyncio.Event()
        self._closed = False
        self._error: Exception | None = None
        self._next_warning_s = 0.0

    def signal(self, event: Connected | Disconnected) -> None:
        """Put a change of the connection in its place among the messages."""
        self._events.append(event)
        self._news.set()

    def receive(self, topic: str, packet: bytes) -> None:
        """Take the payload of a packet; a whole message becomes an event, a chunk waits for the others."""
        wire_bytes = chunks.mqtt_packet_bytes(topic, len(packet))
        if len(packet) > chunks.MAX_PACKET_BYTES:
            why = f"a packet of {len(packet)} bytes, at most {chunks.MAX_PACKET_BYTES} are taken"
            self._refuse(topic, WireError("oversize", why), wire_bytes)
        elif chunks.is_chunk(packet):
            self._join(topic, packet, wire_bytes)
        else:
            self._enqueue(Frame(topic, packet, wire_bytes))

    def _join(self, topic: str, packet: bytes, wire_bytes: int) -> None:
        message = None
        try:
            message = self._reassembler.add(topic, packet)
        except WireError as error:
            lost = self._reassembler.take_lost()
            self._refuse(topic, error, lost.pop(topic, wire_bytes))
        else:
            lost = self._reassembler.take_lost()
        for of_topic, lost_bytes in lost.items():
            why = "an unfinished message had to make room for a newer one"
            self._refuse(of_topic, WireError("evicted", why), lost_bytes)
        if message is not None:
            self._enqueue(Frame(topic, message.payload, message.wire_bytes))

    def close(self, error: Exception | None = None) -> None:
        """End the iteration once the events that are already here have been taken; then raise `error`."""
        self._closed = True
        self._error = error
        self._news.set()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self._error is not None:
                raise self._error
            if self._closed:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        event = self._events.popleft()
        if isinstance(event, tuple):
            return self._refused.pop(event)
        if isinstance(event, Frame):
            self._free(event)
        return event

    def _enqueue(self, frame: Frame) -> None:
        limits, size = self._limits, len(frame.payload)
        if (
            self._topic_frames[frame.topic] >= limits.topic_frames
            or self._topic_bytes[frame.topic] + size > limits.topic_bytes
        ):
            why = "earlier messages of this topic still wait to be read"
            self._refuse(frame.topic, WireError("topic-full", why), frame.wire_bytes)
        elif len(self._events) >= limits.frames or self._pending_bytes + size > limits.bytes:
            why = "too many messages wait to be read"
            self._refuse(frame.topic, WireError("full", why), frame.wire_bytes)
        else:
            self._reserve(frame)
            self._events.append(frame)
            self._news.set()

    def _reserve(self, frame: Frame) -> None:
        """Count the room that a waiting message takes."""
        self._topic_frames[frame.topic] += 1
        self._topic_bytes[frame.topic] += len(frame.payload)
        self._pending_bytes += len(frame.payload)
        self._stats.peak_pending_bytes = max(self._stats.peak_pending_bytes, self._pending_bytes)

    def _free(self, frame: Frame) -> None:
        """Give back the room of a message; a topic of which nothing waits is forgotten."""
        self._topic_frames[frame.topic] -= 1
        self._topic_bytes[frame.topic] -= len(frame.payload)
        self._pending_bytes -= len(frame.payload)
        if not self._topic_frames[frame.topic]:
            del self._topic_frames[frame.topic], self._topic_bytes[frame.topic]

    def _refuse(self, topic: str, error: WireError, wire_bytes: int) -> None:
        """Count and log what is dropped, and let the consumer know."""
        self._stats.dropped[error.reason] += 1
        self._log(topic)
        has_room = len(self._events) < self._limits.frames
        key = (topic if has_room else "", error.reason)  # without room, all topics together
        earlier = self._refused.get(key)
        if earlier is None:
            self._refused[key] = Refused(topic, error, wire_bytes)
            self._events.append(key)
            self._news.set()
        else:
            self._refused[key] = Refused(earlier.topic, error, earlier.wire_bytes + wire_bytes)

    def _log(self, topic: str) -> None:
        now_s = time.monotonic()
        if now_s >= self._next_warning_s:
            self._next_warning_s = now_s + _SECONDS_BETWEEN_WARNINGS
            log.warning("%s: dropped %s (last on %.80r)", self._name, dict(self._stats.dropped), topic)
