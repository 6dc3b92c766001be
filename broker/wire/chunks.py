"""Cuts large messages into chunks, joins them again, and counts the bytes of MQTT packets.

A message of at most `limit` bytes (MAX_PACKET_BYTES or less) travels as it is. A larger one is cut into
chunks. Each chunk is the msgpack array `[1, 0, transfer, index, count, crc32, part]`, where 0 is the message
type reserved for chunks and crc32 is that of the whole message. The integers always have their widest msgpack
form. So every header has HEADER_BYTES, and the sizes of all packets follow from the message's length alone.

Nothing here sends, waits or reads a clock.
"""

import struct
import zlib
from dataclasses import dataclass, field
from functools import lru_cache

from broker.wire.errors import WireError

MAX_PACKET_BYTES = 128_000
"""The largest payload of one MQTT packet.

With topic and header, such a packet stays below the smallest limit among common brokers (128 KiB at AWS IoT
Core; EMQX's default is 1 MiB for the whole packet). An uplink of 128 kbit/s needs 8 s for it, so a keepalive
ping that waits behind it still leaves in time.
"""

MIN_PACKET_BYTES = 4096
"""The smallest such limit that can be chosen: what is retained must fit into one packet, and so must what is
sent with QoS 0."""

MAX_MESSAGE_BYTES = 64 * 2**20
"""The largest message, before chunking; sender and receiver refuse larger ones."""

MAX_REMAINING_LENGTH = 268_435_455
"""The largest number that MQTT's field for a packet's length can hold (MQTT 3.1.1, 2.2.3)."""

_HEADER = struct.Struct(">3sBIBHBHBIBI")
_MAGIC = b"\x97\x01\x00"  # array of 7, version 1, type 0
_U16, _U32, _BIN32 = 0xCD, 0xCE, 0xC6
_MAX_CHUNKS = 2**16 - 1

HEADER_BYTES = _HEADER.size

_PART_COST_BYTES = 256  # about the memory of the Python objects around one part; counted for tiny parts too
_MAX_FINISHED = 4096  # topics for which the last finished message is remembered, to recognise its duplicates


@dataclass(frozen=True, slots=True)
class Chunk:
    """One part of a message, with the fields of its header."""

    transfer: int
    index: int
    count: int
    crc32: int
    part: memoryview


@dataclass(frozen=True, slots=True)
class Message:
    """A whole message and the bytes of all its PUBLISH packets."""

    payload: bytes
    wire_bytes: int


def mqtt_packet_bytes(topic: str, payload_bytes: int, qos: int = 1) -> int:
    """Give the exact size of a PUBLISH packet (MQTT 3.1.1, 2.2 and 3.3).

    Args:
        topic: topic name.
        payload_bytes: length of the application's payload.
        qos: 1, or 0, with which a packet has no identifier.

    Raises:
        ValueError: the packet would be longer than MQTT allows.
    """
    return _packet_bytes(len(topic.encode()), payload_bytes, qos)


def _packet_bytes(topic_bytes: int, payload_bytes: int, qos: int) -> int:
    remaining = 2 + topic_bytes + 2 * qos + payload_bytes  # topic's length, topic, identifier, payload
    if remaining > MAX_REMAINING_LENGTH:
        raise ValueError(f"an MQTT packet of {remaining} bytes: at most {MAX_REMAINING_LENGTH} are possible")
    length_bytes = 1 if remaining < 2**7 else 2 if remaining < 2**14 else 3 if remaining < 2**21 else 4
    return 1 + length_bytes + remaining


def wire_bytes(topic: str, payload_bytes: int, limit: int = MAX_PACKET_BYTES, qos: int = 1) -> int:
    """Give the bytes of all PUBLISH packets that carry a message, chunked where it must be."""
    return publish_bytes(len(topic.encode()), payload_bytes, limit, qos)


def publish_bytes(topic_bytes: int, payload_bytes: int, limit: int, qos: int) -> int:
    """Give the same of a topic of so many bytes."""
    return sum(_packet_bytes(topic_bytes, size, qos) for size in frame_sizes(payload_bytes, limit))


@lru_cache(maxsize=1024)
def packets_in(payload_bytes: int, limit: int = MAX_PACKET_BYTES) -> int:
    """Give the number of packets that `split` makes of a message of `payload_bytes`."""
    return len(frame_sizes(payload_bytes, limit))


def frame_sizes(payload_bytes: int, limit: int = MAX_PACKET_BYTES) -> list[int]:
    """Give the lengths of the payloads that `split` makes of a message of `payload_bytes`.

    Raises:
        ValueError: the message is above MAX_MESSAGE_BYTES, or would need more than 65,535 chunks of `limit`.
    """
    if payload_bytes > MAX_MESSAGE_BYTES:
        raise ValueError(f"a message of {payload_bytes} bytes: at most {MAX_MESSAGE_BYTES} are allowed")
    if payload_bytes <= limit:
        return [payload_bytes]
    part_bytes = limit - HEADER_BYTES
    if part_bytes < 1 or payload_bytes > part_bytes * _MAX_CHUNKS:
        raise ValueError(f"packets of {limit} bytes are too small for a message of {payload_bytes} bytes")
    full, rest = divmod(payload_bytes, part_bytes)
    return [limit] * full + ([HEADER_BYTES + rest] if rest else [])


def split(payload: bytes, transfer: int, limit: int = MAX_PACKET_BYTES) -> list[bytes]:
    """Cut a message into the payloads of its MQTT packets; a small one is given back as it is.

    Args:
        payload: the whole message.
        transfer: a number, 0 to 2**32 - 1, that differs between the messages of one publisher.
        limit: largest payload of a packet, in bytes.

    Raises:
        ValueError: as in `frame_sizes`.
    """
    sizes = frame_sizes(len(payload), limit)
    if len(sizes) == 1:
        return [payload]
    crc32 = zlib.crc32(payload)
    whole = memoryview(payload)
    part_bytes = limit - HEADER_BYTES
    frames = []
    for index, size in enumerate(sizes):
        length = size - HEADER_BYTES
        header = _HEADER.pack(
            _MAGIC, _U32, transfer, _U16, index, _U16, len(sizes), _U32, crc32, _BIN32, length
        )  # fmt: skip
        frames.append(b"".join((header, whole[index * part_bytes :][:length])))
    return frames


def is_chunk(packet: bytes) -> bool:
    """Tell whether a packet's payload is a chunk; whole messages never have type 0."""
    return packet.startswith(_MAGIC)


def parse(packet: bytes) -> Chunk:
    """Read a chunk without copying its part.

    Raises:
        WireError: "malformed": `split` never writes such fields or such a length.
    """
    if len(packet) <= HEADER_BYTES:
        raise WireError("malformed", f"a chunk of {len(packet)} bytes holds no part")
    magic, a, transfer, b, index, c, count, d, crc32, e, length = _HEADER.unpack_from(packet)
    if magic != _MAGIC or (a, b, c, d, e) != (_U32, _U16, _U16, _U32, _BIN32):
        raise WireError("malformed", "a chunk header with other msgpack types")
    if length != len(packet) - HEADER_BYTES:
        raise WireError("malformed", f"a chunk that promises {length} bytes and has another length")
    if not index < count or count == 1:
        raise WireError("malformed", f"chunk {index} of {count}")
    return Chunk(transfer, index, count, crc32, memoryview(packet)[HEADER_BYTES:])


@dataclass(frozen=True, slots=True)
class ReassemblyLimits:
    """How much of unfinished messages a receiver holds in memory.

    Attributes:
        message_bytes: the largest message that is accepted.
        transfers_per_topic: unfinished messages on one topic; when one more begins, the oldest is dropped.
        total_bytes: memory for all unfinished messages; when it is full, the oldest are dropped.
    """

    message_bytes: int = MAX_MESSAGE_BYTES
    transfers_per_topic: int = 2
    total_bytes: int = 4 * MAX_MESSAGE_BYTES


@dataclass(slots=True)
class _Transfer:
    count: int
    crc32: int
    payload_bytes: int = 0
    wire_bytes: int = 0
    parts: dict[int, memoryview] = field(default_factory=dict)

    @property
    def held_bytes(self) -> int:
        return self.payload_bytes + _PART_COST_BYTES * (1 + len(self.parts))


class Reassembler:
    """Joins chunks, which may come in any order, and holds a bounded amount of memory.

    Attributes:
        evicted: unfinished messages that were dropped to make room for newer ones.
        held_bytes: about the memory that unfinished messages take.
    """

    def __init__(self, limits: ReassemblyLimits | None = None) -> None:
        self._limits = limits or ReassemblyLimits()
        self._unfinished: dict[str, dict[int, _Transfer]] = {}  # by topic and transfer, oldest first
        self._finished: dict[str, int] = {}  # the last finished transfer of each topic
        self._lost: dict[str, int] = {}
        self.evicted = 0
        self.held_bytes = 0

    def add(self, topic: str, packet: bytes) -> Message | None:
        """Take a chunk; return the message if this was its last missing chunk, else None.

        A chunk that came before is ignored, since QoS 1 may deliver a packet twice.

        Raises:
            WireError: "malformed"; "inconsistent" with earlier chunks of the same message; "too-large"; or
                "crc", when the joined message does not have the announced checksum.
        """
        chunk = parse(packet)
        if self._finished.get(topic) == chunk.transfer:
            return None
        transfer = self._unfinished.get(topic, {}).get(chunk.transfer)
        if transfer is None:
            transfer = self._start(topic, chunk)
        elif (transfer.count, transfer.crc32) != (chunk.count, chunk.crc32):
            raise WireError("inconsistent", "a chunk that differs from others of its message")
        if chunk.index in transfer.parts:
            return None
        transfer.parts[chunk.index] = chunk.part
        transfer.payload_bytes += len(chunk.part)
        transfer.wire_bytes += mqtt_packet_bytes(topic, len(packet))
        self.held_bytes += len(chunk.part) + _PART_COST_BYTES
        if transfer.payload_bytes > self._limits.message_bytes:
            self._give_up(topic, chunk.transfer)
            raise WireError("too-large", f"a message above {self._limits.message_bytes} bytes")
        if len(transfer.parts) == transfer.count:
            return self._finish(topic, chunk.transfer)
        self._make_room()
        return None

    def take_lost(self) -> dict[str, int]:
        """Give, by topic, the packets' bytes of unfinished messages that were given up since the last call.

        When `add` has raised "too-large" or "crc", those of its packet are among them.
        """
        lost, self._lost = self._lost, {}
        return lost

    def _start(self, topic: str, chunk: Chunk) -> _Transfer:
        of_topic = self._unfinished.setdefault(topic, {})
        if len(of_topic) >= self._limits.transfers_per_topic:
            self._evict(topic)
        transfer = _Transfer(chunk.count, chunk.crc32)
        self._unfinished.setdefault(topic, of_topic)[chunk.transfer] = transfer
        self.held_bytes += transfer.held_bytes
        return transfer

    def _make_room(self) -> None:
        while self.held_bytes > self._limits.total_bytes:
            self._evict(next(iter(self._unfinished)))

    def _finish(self, topic: str, number: int) -> Message:
        transfer = self._forget(topic, number)
        payload = b"".join(transfer.parts[index] for index in range(transfer.count))
        if zlib.crc32(payload) != transfer.crc32:
            self._lost[topic] = self._lost.get(topic, 0) + transfer.wire_bytes
            raise WireError("crc", "a message whose chunks do not add up to its checksum")
        self._finished.pop(topic, None)
        self._finished[topic] = number
        if len(self._finished) > _MAX_FINISHED:
            del self._finished[next(iter(self._finished))]
        return Message(payload, transfer.wire_bytes)

    def _evict(self, topic: str) -> None:
        """Give up the oldest unfinished message of a topic."""
        self._give_up(topic, next(iter(self._unfinished[topic])))
        self.evicted += 1

    def _give_up(self, topic: str, number: int) -> None:
        self._lost[topic] = self._lost.get(topic, 0) + self._forget(topic, number).wire_bytes

    def _forget(self, topic: str, number: int) -> _Transfer:
        of_topic = self._unfinished[topic]
        transfer = of_topic.pop(number)
        if not of_topic:
            del self._unfinished[topic]
        self.held_bytes -= transfer.held_bytes
        return transfer
