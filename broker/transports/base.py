"""How messages travel: the interface of all transports, and the buffer behind each of them."""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from broker.errors import BrokerError
from broker.wire import chunks
from broker.wire.errors import WireError

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_WARNINGS = 1.0


@dataclass(frozen=True, slots=True)
class Connected:
    """The connection stands and every subscription is in force; comes again after each loss.

    Attributes:
        connection: its number; the will of the connection was made with the same number.
    """

    connection: int


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection was lost; the transport is at work to get it back."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A whole message.

    Attributes:
        topic: where it was published.
        payload: the message, chunks put together.
        wire_bytes: bytes of all the PUBLISH packets it came in.
    """

    topic: str
    payload: bytes
    wire_bytes: int


Event = Connected | Disconnected | Frame


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker says in our name when we vanish without a word (MQTT 3.1.1, 3.1.2.5)."""

    topic: str
    payload: bytes
    retain: bool = False


@dataclass(slots=True)
class TransportStats:
    """What happened on a transport so far.

    Attributes:
        connections: times the connection was made; all but the first are reconnects.
        resent: packets sent again because the connection was lost before the broker's answer. Receivers
            may see these twice; how many do so is not known here.
        dropped: incoming packets and messages dropped, by reason: "oversize", "topic-full", "full",
            "evicted" (unfinished chunked messages), or the reason of a WireError.
        peak_pending_bytes: the most that ever waited for the consumer of events.
    """

    connections: int = 0
    resent: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    peak_pending_bytes: int = 0


class Transport(Protocol):
    """A client's connection to a broker, as an async context manager.

    Entering it returns once the first connection stands; it then reconnects by itself until it is left. Left by
    an exception it does not say goodbye, and the broker says its will.
    """

    @property
    def stats(self) -> TransportStats:
        """Counters, live."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Say something; return once the broker has it (QoS 1, at least once).

        Waits through lost connections and sends again. Messages on one topic keep the order of the calls.

        Raises:
            ValueError: a message above chunks.MAX_MESSAGE_BYTES, a retained one that would need chunks, or a
                topic with wildcards.
            BrokerError: the transport was left or has failed for good.
        """
        ...

    def events(self) -> AsyncIterator[Event]:
        """Iterate over what happens; for one consumer.

        Ends when the transport is left, and raises BrokerError when it has failed for good.
        """
        ...


class Connect(Protocol):
    """Makes transports: what is left of one's constructor once broker and credentials are known."""

    def __call__(
        self, *, client_id: str, subscriptions: Sequence[str], will: Callable[[int], Will] | None = None
    ) -> Transport:
        """Make a transport that is yet to be entered.

        Args:
            client_id: unique at the broker.
            subscriptions: topic filters.
            will: gives the last will of each connection by its number; numbers rise from 1, with gaps.
        """
        ...


def packets_of(payload: bytes, transfer: int, *, retain: bool) -> list[bytes]:
    """Cut a message into the payloads of its packets.

    Raises:
        ValueError: a message above chunks.MAX_MESSAGE_BYTES, or a retained one that would need chunks: a
            broker keeps just one packet per topic.
    """
    packets = chunks.split(payload, transfer)
    if retain and len(packets) > 1:
        raise ValueError(
            f"a retained message of {len(payload)} bytes: at most {chunks.MAX_PACKET_BYTES} can be kept"
        )
    return packets


@dataclass(frozen=True, slots=True)
class InboxLimits:
    """What may wait for the consumer of events: of one topic, and in all."""

    topic_frames: int = 16
    topic_bytes: int = chunks.MAX_MESSAGE_BYTES
    frames: int = 65_536
    bytes: int = 4 * chunks.MAX_MESSAGE_BYTES


class Inbox:
    """From packets to events: a bounded buffer that makes nobody wait.

    The broker has its acknowledgement before we see a message, so there is no way to slow it down: what
    comes too fast is dropped, counted and logged. Limits hold per topic, so that one client that floods
    its own topic takes nothing from the others. Senders repeat what stays unanswered.

    Args:
        name: for the log.
        stats: where to count.
        limits: what may wait.
    """

    def __init__(self, name: str, stats: TransportStats, limits: InboxLimits | None = None) -> None:
        self._name = name
        self._stats = stats
        self._limits = limits or InboxLimits()
        self._reassembler = chunks.Reassembler()
        self._events: deque[Event] = deque()
        self._topic_frames: Counter[str] = Counter()
        self._topic_bytes: Counter[str] = Counter()
        self._pending_bytes = 0
        self._news = asyncio.Event()
        self._closed = False
        self._error: BrokerError | None = None
        self._next_warning_s = 0.0

    def signal(self, event: Connected | Disconnected) -> None:
        """Put a change of the connection in its place among the messages."""
        self._events.append(event)
        self._news.set()

    def receive(self, topic: str, packet: bytes) -> None:
        """Take the payload of a packet."""
        if len(packet) > chunks.MAX_PACKET_BYTES:
            self._drop("oversize", topic)
            return
        message: chunks.Message | None
        if chunks.is_chunk(packet):
            try:
                message = self._reassembler.add(topic, packet)
            except WireError as error:
                self._drop(error.reason, topic)
                return
            if self._reassembler.evicted:
                self._stats.dropped["evicted"] = self._reassembler.evicted
        else:
            message = chunks.Message(packet, chunks.mqtt_packet_bytes(topic, len(packet)))
        if message is not None:
            self._enqueue(Frame(topic, message.payload, message.wire_bytes))

    def close(self, error: BrokerError | None = None) -> None:
        """End the iteration after what is already there, with `error` if there is one."""
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
        if isinstance(event, Frame):
            self._count(event, -1)
        return event

    def _enqueue(self, frame: Frame) -> None:
        limits, size = self._limits, len(frame.payload)
        if (
            self._topic_frames[frame.topic] >= limits.topic_frames
            or self._topic_bytes[frame.topic] + size > limits.topic_bytes
        ):
            self._drop("topic-full", frame.topic)
        elif len(self._events) >= limits.frames or self._pending_bytes + size > limits.bytes:
            self._drop("full", frame.topic)
        else:
            self._count(frame, 1)
            self._stats.peak_pending_bytes = max(self._stats.peak_pending_bytes, self._pending_bytes)
            self._events.append(frame)
            self._news.set()

    def _count(self, frame: Frame, sign: int) -> None:
        self._topic_frames[frame.topic] += sign
        self._topic_bytes[frame.topic] += sign * len(frame.payload)
        self._pending_bytes += sign * len(frame.payload)
        if not self._topic_frames[frame.topic]:
            del self._topic_frames[frame.topic], self._topic_bytes[frame.topic]

    def _drop(self, reason: str, topic: str) -> None:
        self._stats.dropped[reason] += 1
        now_s = time.monotonic()
        if now_s >= self._next_warning_s:
            self._next_warning_s = now_s + _SECONDS_BETWEEN_WARNINGS
            log.warning("%s: dropped %s (last on %.80r)", self._name, dict(self._stats.dropped), topic)
