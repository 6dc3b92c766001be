"""Codecs in messages: `[name, *parameters]`, for instance `["pq", 1152, 1, 2]`."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from broker.codecs.base import Codec
from broker.codecs.coded_pq import CodedPq
from broker.codecs.codeword_gradient import CodewordMean, GradientCodec, clustering
from broker.codecs.floats import Float16, Float32
from broker.codecs.pq import Pq
from broker.codecs.splitfc import SplitFc
from broker.codecs.stochastic_int import Int2, Int4, Int8
from broker.codecs.topk import RandomTopK, TopK
from broker.wire.errors import WireError

CODECS: dict[
    str, type[Float32 | Float16 | Int8 | Int4 | Int2 | Pq | CodedPq | TopK | RandomTopK | SplitFc]
] = {
    "float32": Float32,
    "float16": Float16,
    "int8": Int8,
    "int4": Int4,
    "int2": Int2,
    "pq": Pq,
    "coded_pq": CodedPq,
    "topk": TopK,
    "random_topk": RandomTopK,
    "splitfc": SplitFc,
}
GRADIENT_CODECS: dict[str, type[Any]] = CODECS | {"codeword_mean": CodewordMean}


def fits(codec: Codec, size_bytes: int, n: int, d: int) -> bool:
    """Tells whether a payload of this length can be a matrix of shape (n, d)."""
    most = codec.size_bytes(n, d)
    return size_bytes <= most if isinstance(codec, CodedPq) else size_bytes == most


def codec_to_wire(codec: GradientCodec) -> list[str | int | float]:
    """Returns the name and the parameters, in the order of the dataclass' fields."""
    return [getattr(codec, field.name) for field in fields(GRADIENT_CODECS[codec.codec])]


def codec_from_wire(parts: list[Any]) -> Codec:
    """Returns the codec that `codec_to_wire` described.

    Raises:
        WireError: "malformed" when this is not a known name followed by its parameters, "range" when the
            codec refuses a parameter.
    """
    codec: Codec = _made(parts, CODECS)
    return codec


def gradient_codec_from_wire(parts: list[Any], activations: Codec) -> GradientCodec:
    """Returns the codec of gradients whose activations travel in another one; raises as `codec_from_wire`.

    Also raises WireError, "malformed", when it needs codewords and the activations have none.
    """
    codec: GradientCodec = _made(parts, GRADIENT_CODECS)
    if isinstance(codec, CodewordMean) and clustering(activations) is None:
        raise WireError("malformed", f"{codec} with activations in {activations}")
    return codec


def _made(parts: list[Any], kinds: Mapping[str, Any]) -> Any:
    if not isinstance(parts, list) or not parts or not isinstance(parts[0], str) or parts[0] not in kinds:
        raise WireError("malformed", "not a codec")
    kind = kinds[parts[0]]
    if [type(part) for part in parts[1:]] != [field.type for field in fields(kind)[1:]]:
        raise WireError("malformed", f"parameters of {kind.__name__}")
    try:
        return kind(*parts)
    except ValueError as error:
        raise WireError("range", str(error)) from error
