"""What every transport is: its methods, the events that it gives, and what it counts."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from broker.wire import chunks
from broker.wire.errors import WireError


@dataclass(frozen=True, slots=True)
class Connected:
    """The connection stands and every subscription is in force; comes again after each loss.

    Attributes:
        connection: its number; the will of the connection was made with the same number.
    """

    connection: int


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection was lost; the transport tries to connect again."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A whole message.

    Attributes:
        topic: the topic it was published on.
        payload: the message; if it came in chunks, these are joined.
        wire_bytes: bytes of all PUBLISH packets that carried it, as if they were of QoS 1.
    """

    topic: str
    payload: bytes
    wire_bytes: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Packets were dropped: they broke a rule, or there was no room for them.

    Attributes:
        topic: the topic that they were published on.
        error: why; its reason is "oversize", "topic-full", "full", "evicted" (an unfinished message made room
            for a newer one), or what chunks.Reassembler raised.
        wire_bytes: bytes of the PUBLISH packets.
    """

    topic: str
    error: WireError
    wire_bytes: int


Event = Connected | Disconnected | Frame | Refused


@dataclass(frozen=True, slots=True)
class Will:
    """The message that the broker publishes for us when our connection ends without a DISCONNECT.

    (MQTT 3.1.1, 3.1.2.5.)
    """

    topic: str
    payload: bytes
    retain: bool = False


@dataclass(slots=True)
class TransportStats:
    """What a transport has counted so far.

    Attributes:
        is_connected: whether the connection stands.
        connections: connections made; all but the first are reconnections.
        resent: packets sent again because the connection was lost before the broker acknowledged them. The
            receiver may get such a packet twice; how often that happens is not known here.
        dropped: incoming packets and messages that were dropped, by reason, see Refused.
        peak_pending_bytes: the largest number of payload bytes that waited for the consumer of events.
    """

    is_connected: bool = False
    connections: int = 0
    resent: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    peak_pending_bytes: int = 0

    def connected(self) -> None:
        """Count a connection, which now stands."""
        self.is_connected = True
        self.connections += 1


class Transport(Protocol):
    """A client of a broker, as an async context manager.

    Entering it returns once the first connection stands; it then reconnects by itself until it is left. Left
    by an exception it does not say goodbye, and the broker says its will.
    """

    @property
    def stats(self) -> TransportStats:
        """The counters; the object is updated as things happen."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> None:
        """Publish a message; return once the broker has acknowledged it (QoS 1, at least once).

        When the connection is lost meanwhile, this waits for the next one and sends the message again.
        Messages on one topic are sent in the order of the calls, each after the one before is acknowledged.
        With QoS 0 (at most once) "acknowledged" is "handed to the connection": a message is lost with that.

        Raises:
            ValueError: a message above chunks.MAX_MESSAGE_BYTES, a retained one that would need chunks, or a
                topic with wildcards.
            BrokerError: the transport was left, or has given up.
            Exception: a bug has ended the transport.
        """
        ...

    def events(self) -> AsyncIterator[Event]:
        """Iterate over messages and changes of the connection; there may be one consumer.

        The iteration ends when the transport is left.

        Raises:
            BrokerError: the transport has given up.
        """
        ...


class Connect(Protocol):
    """Makes transports to one broker; URL and credentials are already bound."""

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


def packets_of(
    payload: bytes, transfer: int, *, retain: bool, limit: int = chunks.MAX_PACKET_BYTES
) -> list[bytes]:
    """Cut a message into the payloads of its packets.

    Args:
        payload: the whole message.
        transfer: number that tells this message's chunks from those of the sender's other messages.
        retain: whether the broker shall keep the message; it keeps one packet for each topic.
        limit: largest payload of a packet.

    Raises:
        ValueError: a message above chunks.MAX_MESSAGE_BYTES, or a retained one that would need chunks.
    """
    packets = chunks.split(payload, transfer, limit)
    if retain and len(packets) > 1:
        raise ValueError(f"a retained message of {len(payload)} bytes: at most {limit} can be kept")
    return packets
