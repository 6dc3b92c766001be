"""Messages as bytes: msgpack arrays `[VERSION, type, field, ...]`, fields in the order of the classes.

What has its default at the end of a message is left out. Numbers with a fraction take 32 bits, as they have
in the messages themselves; parameters of codecs, inside a field, take 64.

A receiver looks at version and lengths before anything is unpacked, and skips fields that it does not know
without building them.
"""

import functools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple, get_args

import msgpack
import msgspec

from broker.wire.chunks import MAX_PACKET_BYTES, MIN_PACKET_BYTES, packets_in, publish_bytes
from broker.wire.errors import WireError
from broker.wire.messages import (
    VERSION,
    Assignment,
    BatchDown,
    BatchUp,
    FeatureGradient,
    Gradient,
    HeadUpdate,
    Message,
    Scores,
)

_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)
_FIXARRAY, _MAX_FIXARRAY, _MAX_FIXINT = 0x90, 0x0F, 0x7F
_ASKED_FOR = frozenset({Assignment, *get_args(BatchUp | BatchDown), HeadUpdate, Scores})
_FLOAT32_BYTES = 5


def encode(message: Message) -> bytes:
    """Give the message's bytes, before chunking."""
    fields = _said(message)
    tag = message.__struct_config__.tag
    assert isinstance(tag, int)
    parts = [bytes((_FIXARRAY | 2 + len(fields), VERSION, tag))]
    parts += (msgpack.packb(field, use_single_float=type(field) is float) for field in fields)
    return b"".join(parts)


def encoded_bytes(message: Message) -> int:
    """Give `len(encode(message))` without encoding; it is needed for every message of a simulation."""
    return 3 + _bytes_of(_said(message))  # array of up to 15, version, type


def _bytes_of(fields: Iterable[Any]) -> int:
    total = 0
    for field in fields:
        kind = type(field)
        if isinstance(field, bytes):  # also what stands for a tensor in a run that goes on
            size = len(field)
            total += size + (2 if size < 2**8 else 3 if size < 2**16 else 5)
        elif kind is int:
            total += (
                1
                if field < 2**7
                else 2
                if field < 2**8
                else 3
                if field < 2**16
                else 5
                if field < 2**32
                else 9
            )
        elif kind is float:
            total += _FLOAT32_BYTES
        elif kind is tuple and field and type(field[0]) is not list:  # batches, and not codecs
            total += (1 if len(field) <= _MAX_FIXARRAY else 3) + _bytes_of(field)
        else:
            total += len(msgspec.msgpack.encode(field))  # as long, and made faster
    return total


def qos_of(message: Message, size: int) -> int:
    """Give the quality of service that a message is published with.

    What a round is made of is asked for when it does not come. So it needs no PUBACK, which would cost as
    much as a tenth of a small message. A large one costs a PUBACK little, and asking for it again much.

    Args:
        message: the message.
        size: its bytes, before chunking.
    """
    return 0 if size <= MIN_PACKET_BYTES and type(message) in _ASKED_FOR else 1


class Published(NamedTuple):
    """How a message travels.

    Attributes:
        wire_bytes: of its PUBLISH packets.
        packets: so many.
        qos: of each.
    """

    wire_bytes: int
    packets: int
    qos: int


def published(topic: str, message: Message, packet_bytes: int = MAX_PACKET_BYTES) -> Published:
    """Give how a message travels, in packets whose payloads are at most `packet_bytes`."""
    size = encoded_bytes(message)
    qos = qos_of(message, size)
    return _published(len(topic.encode()), size, packet_bytes, qos)


class Scale:
    """Weighs messages: what many are told, or all say, is weighed once.

    Args:
        packet_bytes: largest payload of a packet.
    """

    __slots__ = ("_latest", "_packet_bytes")

    def __init__(self, packet_bytes: int = MAX_PACKET_BYTES) -> None:
        self._packet_bytes = packet_bytes
        self._latest: dict[type[Message], tuple[Message, int, Published]] = {}

    def weigh(self, topic: str, message: Message) -> Published:
        """Give how a message travels; topics are ASCII."""
        kind = type(message)
        latest = self._latest.get(kind)
        if latest is not None and latest[1] == len(topic) and (latest[0] is message or latest[0] == message):
            return latest[2]
        travels = published(topic, message, self._packet_bytes)
        self._latest[kind] = message, len(topic), travels
        return travels


@functools.lru_cache(maxsize=1024)  # a simulation asks for every message, and many are of one size
def _published(topic_bytes: int, size: int, packet_bytes: int, qos: int) -> Published:
    return Published(publish_bytes(topic_bytes, size, packet_bytes, qos), packets_in(size, packet_bytes), qos)


def _said(message: Message) -> tuple[Any, ...]:
    """Give the fields up to the last one that has not its default."""
    fields = msgspec.structs.astuple(message)
    for default in reversed(message.__struct_defaults__):
        if fields[-1] != default:
            break
        fields = fields[:-1]
    return fields


def decode(data: bytes) -> Message:
    """Read one message. Needs at most the message's own length twice over in memory.

    Raises:
        WireError: "malformed" when the data are not msgpack of the right shape or break a limit, "version"
            for another protocol version, "not-finite" for a NaN or infinite number.
    """
    if len(data) < 3 or data[0] & ~_MAX_FIXARRAY != _FIXARRAY or not data[0] & _MAX_FIXARRAY:  # noqa: PLR2004
        raise WireError("malformed", "not an array of version, type and at most 13 fields")
    if data[1] != VERSION:
        what = str(data[1]) if data[1] <= _MAX_FIXINT else "something else"
        raise WireError(
            "version", f"protocol {what} is spoken there, this side speaks {VERSION}: update one of them"
        )
    try:
        message = _decoder.decode(bytes((data[0] - 1,)) + memoryview(data)[2:])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise WireError("malformed", str(error)[:200]) from error
    for number in _numbers(message):
        if not math.isfinite(number):
            raise WireError("not-finite", f"{type(message).__name__} carries {number}")
    return message


def _numbers(message: Message) -> list[float]:
    """Give the floating-point numbers of a message, those in tensors apart."""
    match message:
        case (
            Gradient(correction=number)
            | HeadUpdate(quantization_error=number)
            | FeatureGradient(loss=number)
            | Scores(score_sum=number)
        ):
            return [number]
        case Assignment(head_lr=number, codecs=codecs, features=features):
            named = (*codecs, *features)
            return [number, *(each for codec in named for each in codec if isinstance(each, float))]
        case _:
            return []
