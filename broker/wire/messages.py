"""The messages, their msgpack form, and its limits.

A message is a msgpack array `[VERSION, type, field, ...]`, fields in the order of the classes below.
A later version of a class may only append fields, each with a default; a receiver ignores fields that it does
not know. docs/protocol.md gives the bytes. Every length is checked against its limit before memory is
allocated.
"""

from typing import Annotated, Literal

import msgpack
import msgspec
from msgspec import Meta

from broker.wire.chunks import MAX_MESSAGE_BYTES
from broker.wire.errors import WireError

VERSION = 1

Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Round = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Step = Annotated[int, Meta(ge=0, le=2**16 - 1)]
Attempt = Annotated[int, Meta(ge=1, le=2**16 - 1)]
Word = Annotated[str, Meta(max_length=64)]
Text = Annotated[str, Meta(max_length=512)]
CodecSpec = Annotated[list[str | int | float], Meta(min_length=1, max_length=8)]
CodecSpecs = tuple[CodecSpec, CodecSpec, CodecSpec, CodecSpec]

_MAX_FIELDS = 32


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A client is ready; sent after every connection, and whenever the server has a new incarnation.

    Attributes:
        scenario: digest of the settings that both sides must have alike; the server rejects any other.
        samples: training samples on the device.
        round: the round whose state the client still holds; 0 when it holds none.
    """

    scenario: Word
    samples: Count
    round: Round


class Status(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Whether a client is connected, retained; `online=False` is also its last will."""

    online: bool


class RunState(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The run's state, retained.

    Attributes:
        phase: what the server does now; `away` is the server's last will.
        incarnation: a new word at every start of the server; a client that sees a new one sends a Hello.
        round: the current round.
        rounds: the number of rounds of the run.
        reason: why it finished.
    """

    phase: Literal["gathering", "running", "away", "finished"]
    incarnation: Word
    round: Round = 0
    rounds: Round = 0
    reason: Text = ""


class Assignment(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """A client is in the cohort of a round.

    Attributes:
        round: the round, counted from 1.
        attempt: counts repetitions of this message.
        steps: local steps, each an exchange of Activations and Gradient; 0: the head is the whole model and
            the client trains it by itself, then sends its HeadUpdate (FedAvg).
        codecs: of activations up, gradient down, head update up, head state down.
        head: the head's parameters under the fourth codec, shape (1, P).
    """

    round: Round
    attempt: Attempt
    steps: Step
    codecs: CodecSpecs
    head: bytes


class Activations(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """The activations of one batch at the cut, and its targets.

    Attributes:
        round: the round of the Assignment.
        step: 0 to steps - 1.
        attempt: counts repetitions of this message.
        count: n, the samples in the batch.
        payload: activations z~, shape (n, d), under the first codec.
        targets: the n targets, integers below the task's number of classes, packed (broker.wire.bits).
    """

    round: Round
    step: Step
    attempt: Attempt
    count: Annotated[int, Meta(ge=1, le=2**16)]
    payload: bytes
    targets: bytes


class Gradient(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """The gradient of one batch, and the strength of its correction (FedLite, arXiv 2201.11865).

    The client backpropagates `dh/dz~ + correction * (z - z~)`; only the client knows z.

    Attributes:
        round: as in the Activations answered.
        step: as in the Activations answered.
        attempt: counts repetitions of this message.
        correction: lambda; the scale is that of the mean loss over the client's batch.
        payload: dh/dz~ of that mean loss, shape (n, d), under the second codec.
    """

    round: Round
    step: Step
    attempt: Attempt
    correction: float
    payload: bytes


class HeadUpdate(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """A client has finished its round: the change of its head.

    Attributes:
        round: the round of the Assignment.
        attempt: counts repetitions of this message.
        samples: samples trained on in this round, the weight of this update.
        quantization_error: ||z - z~||^2 / ||z||^2 over the round's batches.
        payload: parameters after the round minus those received, shape (1, P), under the third codec.
    """

    round: Round
    attempt: Attempt
    samples: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    quantization_error: float
    payload: bytes


class Rejected(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """A message of the client was refused; `reason` is a stable word, `detail` is for people."""

    reason: Word
    detail: Text = ""


Message = Hello | Status | RunState | Assignment | Activations | Gradient | HeadUpdate | Rejected


def _fields(message: Message) -> list[object]:
    return [VERSION, *msgspec.to_builtins(message, builtin_types=(bytes,))]


def encode(message: Message) -> bytes:
    """Give the message's bytes, before chunking."""
    packed: bytes = msgpack.packb(_fields(message))
    return packed


def encoded_bytes(message: Message) -> int:
    """Give `len(encode(message))` without encoding; it is needed for every message of a simulation."""
    total = 3  # array of up to 15, version, type
    for field in msgspec.structs.astuple(message):
        kind = type(field)
        if kind is bytes:
            size = len(field)
            total += size + (2 if size < 2**8 else 3 if size < 2**16 else 5)
        elif kind is int:
            total += 1 if field < 2**7 else 2 if field < 2**8 else 3 if field < 2**16 else 5
        elif kind is float:
            total += 9
        else:
            total += len(msgpack.packb(field))
    return total


def decode(data: bytes) -> Message:
    """Read one message.

    Raises:
        WireError: "malformed" when the data are not msgpack of the right shape or break a limit, "version"
            for another protocol version, "not-finite" for a NaN or infinite number.
    """
    try:
        fields = msgpack.unpackb(
            data,
            max_bin_len=MAX_MESSAGE_BYTES,
            max_str_len=2048,
            max_array_len=_MAX_FIELDS,
            max_map_len=0,
            max_ext_len=0,
        )
    except (ValueError, msgpack.UnpackException) as error:
        raise WireError("malformed", f"not msgpack within the limits: {str(error)[:200]}") from error
    if not isinstance(fields, list) or len(fields) < 2:  # noqa: PLR2004  version and type
        raise WireError("malformed", "not an array of version, type and fields")
    if fields[0] != VERSION or isinstance(fields[0], bool):
        raise WireError("version", f"this side speaks version {VERSION}, got {str(fields[0])[:20]}")
    try:
        message: Message = msgspec.convert(fields[1:], Message, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise WireError("malformed", str(error)[:200]) from error
    match message:
        case Gradient(correction=number) | HeadUpdate(quantization_error=number):
            if number != number or abs(number) == float("inf"):  # noqa: PLR0124  NaN differs from itself
                raise WireError("not-finite", f"{type(message).__name__} carries {number}")
        case _:
            pass
    return message
