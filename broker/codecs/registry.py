"""The list of all codecs, and codecs in messages: `[number, *parameters]`, for instance `[7, 1152, 1, 2]`.

A new codec is added to `TensorCodec`, and nowhere else: what can be named on the wire and in a scenario, what
is accepted from a device and how its bytes are counted all follow from this union. In messages it has its
name, which takes more bytes, until `NUMBERS` has a number for it.
"""

import functools
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_args, get_type_hints

from broker.codecs.base import Codec
from broker.codecs.coded_pq import CodedPq
from broker.codecs.codeword_gradient import CodewordMean, GradientCodec, clustering
from broker.codecs.floats import Float16, Float32
from broker.codecs.heads.low_rank import LowRank
from broker.codecs.heads.touched_rows import TouchedRows
from broker.codecs.pq import Pq
from broker.codecs.published.c3 import C3
from broker.codecs.published.nsc import Nsc
from broker.codecs.published.sl_fac import SlFac
from broker.codecs.published.splitfc import SplitFc
from broker.codecs.sample_mean import SampleMean
from broker.codecs.stochastic_int import Int2, Int4, Int8
from broker.codecs.topk import RandomTopK, TopK
from broker.wire.errors import WireError

TensorCodec = (
    Float32
    | Float16
    | Int8
    | Int4
    | Int2
    | Pq
    | CodedPq
    | TopK
    | RandomTopK
    | SplitFc
    | TouchedRows
    | LowRank
    | SampleMean
    | C3
    | SlFac
    | Nsc
)
"""Every codec that can carry any tensor, for all four flows."""

CODECS: dict[str, type[TensorCodec]] = {kind().codec: kind for kind in get_args(TensorCodec)}
"""The same by name."""

GRADIENT_CODECS: dict[str, type[Any]] = CODECS | {CodewordMean().codec: CodewordMean}
"""Those for `gradient_down`, by name."""

CLUSTERING_CODECS = [name for name, kind in CODECS.items() if clustering(kind()) is not None]
"""Names of the codecs that have codewords, which `CodewordMean` needs."""


NUMBERS = {
    "float32": 0,
    "float16": 1,
    "int8": 2,
    "int4": 3,
    "int2": 4,
    "topk": 5,
    "random_topk": 6,
    "pq": 7,
    "coded_pq": 8,
    "splitfc": 9,
    "codeword_mean": 10,
    "touched_rows": 11,
    "low_rank": 12,
    "sample_mean": 13,
}
"""What stands for a codec in messages; part of the protocol, so a number never gets another meaning."""

LATER = {"coded_pq": 1, "codeword_mean": 1, "touched_rows": 1}
"""How many of a codec's last parameters came later: they are left out while they have their defaults.

So who does not know them goes on reading the codec as it was, and refuses it where it is another one.
"""

_NAMES = {number: name for name, number in NUMBERS.items()}


def codec_to_wire(codec: GradientCodec) -> list[str | int | float]:
    """Returns the number and the parameters, in the order of the dataclass' fields; see `LATER`."""
    of_codec = fields(GRADIENT_CODECS[codec.codec])
    name, *parameters = (getattr(codec, field.name) for field in of_codec)
    least = len(parameters) - LATER.get(name, 0)
    while len(parameters) > least and parameters[-1] == of_codec[len(parameters)].default:
        parameters.pop()
    return [NUMBERS.get(name, name), *parameters]


def codec_from_wire(parts: list[Any]) -> Codec:
    """Returns the codec that `codec_to_wire` described.

    Raises:
        WireError: "malformed" when this is not a known number or name followed by its parameters, "range"
            when the codec refuses a parameter.
    """
    codec: Codec = _codec_of(parts, CODECS)
    return codec


def gradient_codec_from_wire(parts: list[Any], activations: Codec) -> GradientCodec:
    """Returns the codec of gradients whose activations travel in another one.

    Raises:
        WireError: as in `codec_from_wire`; "malformed" also when the codec needs codewords and the
            activations have none.
    """
    codec: GradientCodec = _codec_of(parts, GRADIENT_CODECS)
    if isinstance(codec, CodewordMean) and clustering(activations) is None:
        raise WireError("malformed", f"{codec} with activations in {activations}")
    return codec


def _codec_of(parts: list[Any], kinds: Mapping[str, Any]) -> Any:
    first, *parameters = parts if isinstance(parts, list) and parts else [None]
    name = _NAMES.get(first) if type(first) is int else first
    if not isinstance(name, str) or name not in kinds:
        raise WireError("malformed", "not a codec")
    kind = kinds[name]
    types = _parameter_types(kind)
    least = len(types) - LATER.get(name, 0)
    if len(parameters) < least or [type(part) for part in parameters] != types[: len(parameters)]:
        raise WireError("malformed", f"parameters of {kind.__name__}")
    try:
        return kind(name, *parameters)
    except ValueError as error:
        raise WireError("range", str(error)) from error


@functools.cache
def _parameter_types(kind: type[Any]) -> list[type[Any]]:
    """Returns the types of the fields after the name, resolved where the annotations are text."""
    hints = get_type_hints(kind)
    return [hints[field.name] for field in fields(kind)[1:]]
