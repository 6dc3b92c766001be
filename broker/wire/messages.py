"""What is said: typed messages, their msgpack form and its limits.

A message is a msgpack array `[VERSION, type, field, ...]`, fields in the order of the classes below.
Fields are only ever appended, each with a default; a receiver ignores fields it does not know.
docs/protocol.md gives the bytes. Every length is bounded before anything is allocated.
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
    """A client is there and ready: sent on every connection and to every new incarnation of the server.

    Attributes:
        scenario: digest of what both sides must agree upon; another one is rejected.
        samples: training samples on the device.
        round: the round whose state the client still holds; 0 when it holds none.
    """

    scenario: Word
    samples: Count
    round: Round


class Status(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A client's presence, retained; `online=False` is its last will."""

    online: bool


class RunState(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The run's state, retained.

    Attributes:
        phase: what the server does; `away` is the server's last will.
        incarnation: changes with every start of the server; clients greet each one once.
        round: the round under way.
        rounds: how many there will be.
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
    """One batch at the cut.

    Attributes:
        round: the round of the Assignment.
        step: 0 to steps - 1.
        attempt: counts repetitions of this message.
        count: samples in the batch, n.
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
    """What the client needs for its corrected gradient (FedLite, arXiv 2201.11865).

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
    """A client's round is done.

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
    """Give `len(encode(message))` without making it: ledger and simulation ask for every message."""
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
        WireError: "malformed" for what is no msgpack of the right shape or breaks a limit, "version"
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
