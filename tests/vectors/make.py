"""Writes the test vectors: bytes that every implementation of the protocol must read, and what they mean.

    python -m tests.vectors.make

The files are JSON. Bytes are hexadecimal; tensors are float32, little-endian, row by row, in hexadecimal.
"""

import json
import random
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from broker.codecs import (
    C3,
    Codec,
    CodedPq,
    CodewordMean,
    Float16,
    Float32,
    GradientCodec,
    Int2,
    Int4,
    Int8,
    LowRank,
    Nsc,
    Pq,
    RandomTopK,
    SampleMean,
    SlFac,
    SplitFc,
    TopK,
    TouchedRows,
    codec_to_wire,
    decode_activations,
    decode_gradient,
    encode_activations,
    encode_gradient,
)
from broker.codecs.base import Matrix
from broker.codecs.targets import Labels, Numbers, Probabilities, Several, Tags, Targets
from broker.wire import bits, chunks, packing
from broker.wire.errors import WireError
from tests.fuzz.mutation import MESSAGES

FOLDER = Path(__file__).parent
SORTED = CodedPq(subvectors=64, centroids=24, width=8)
"""What has sorted rows, so that codewords of neighbours foretell codes."""
CODECS: list[tuple[Codec, int, int]] = [
    (Float32(), 2, 3),
    (Float16(), 2, 5),
    (Int8(), 3, 100),
    (Int4(), 3, 100),
    (Int2(), 2, 5),
    (TopK(fraction=0.1), 2, 50),
    (TopK(fraction=0.5), 2, 10),
    (RandomTopK(fraction=0.2, randomness=0.1), 1, 40),
    (SplitFc(keep=0.3, value_bits=8.0, random=0), 4, 20),
    (SplitFc(keep=0.5, value_bits=3.0), 9, 40),
    (Pq(subvectors=4, groups=1, centroids=2), 3, 8),
    (Pq(subvectors=4, groups=2, centroids=3), 3, 8),
    (Pq(subvectors=2, groups=1, centroids=1), 2, 4),
    (CodedPq(subvectors=16, centroids=3, width=4), 6, 32),
    (CodedPq(subvectors=4, centroids=2, width=1), 2, 8),
    (CodedPq(subvectors=144, centroids=6, width=12), 3, 288),
    (CodedPq(subvectors=200, centroids=40, width=1), 2, 400),
    (CodedPq(subvectors=48, centroids=64, width=4), 40, 48 * 18),
    *((TouchedRows(bits=bits), 6, 5) for bits in (4, 8, 16, 32)),
    (TouchedRows(bits=4), 3, 300),
    (LowRank(rank=2, bits=4), 12, 10),
    (LowRank(rank=2, bits=16), 3, 4),
    (SampleMean(subvectors=2, rank=2, bits=8), 4, 10),
    (C3(ratio=3, bits=32, keys=5), 5, 7),
    (SlFac(channels=2, width=3), 4, 24),
    (Nsc(columns=4, rank=2), 5, 12),
    (CodedPq(subvectors=12, centroids=20, width=1, rank=2), 9, 12 * 6),
    (SORTED, 5, 64 * 3),
]
EXACT = (Float32, Float16, TopK, TouchedRows)
"""Codecs that have one payload for each tensor; the others draw or cluster, and only decoding is fixed."""
NEARLY = (C3, SlFac)
"""Codecs whose decoding has rounding errors of its own: what they give is fixed but for the last digits."""


def of_messages() -> list[dict[str, Any]]:
    """Every message with its fields in order."""
    return [
        {
            "message": type(each).__name__,
            "fields": {
                name: _with_hex(value)
                for name, value in msgspec.to_builtins(
                    msgspec.structs.asdict(each), builtin_types=(bytes,)
                ).items()
            },
            "bytes": packing.encode(each).hex(),
        }
        for each in MESSAGES
    ]


def of_codecs() -> list[dict[str, Any]]:
    """Every codec with a tensor, a payload of it, and what that payload decodes to."""
    found = []
    for number, (codec, n, d) in enumerate(CODECS):
        rng = np.random.default_rng(number)
        x = np.maximum(rng.standard_normal((n, d)), 0).astype(np.float32)
        if codec.sees_shapes:
            x[1::3] = 0  # rows that were not touched
        if codec == SORTED:
            x.sort(axis=1)
        payload = codec.encode(x, rng)
        found.append(
            {
                "codec": codec_to_wire(codec),
                "n": n,
                "d": d,
                "input": _hex(x),
                "payload": payload.hex(),
                "exact": isinstance(codec, EXACT),
                **({"nearly": True} if isinstance(codec, NEARLY) else {}),
                "output": _hex(codec.decode(payload, n, d)),
            }
        )
    return found


def of_gradients() -> list[dict[str, Any]]:
    """Gradients that are one mean for each codeword of their activations."""
    found = []
    pairs: list[tuple[CodewordMean, Codec, int]] = [
        (CodewordMean(bits=8), Pq(subvectors=4, centroids=3), 8),
        (CodewordMean(bits=4), CodedPq(subvectors=4, centroids=3), 8),
        (CodewordMean(bits=4, rank=1), CodedPq(subvectors=4, centroids=8), 16),
    ]
    for number, (codec, activations, d) in enumerate(pairs):
        rng = np.random.default_rng(100 + number)
        z, gradient = (rng.standard_normal((3, d)).astype(np.float32) for _ in range(2))
        sent, _, codewords = encode_activations(activations, z, rng)
        of_gradient: GradientCodec = codec
        payload = encode_gradient(of_gradient, gradient, codewords, rng)
        _, received = decode_activations(activations, sent, 3, d)
        found.append(
            {
                "codec": codec_to_wire(codec),
                "n": 3,
                "d": d,
                "activations_codec": codec_to_wire(activations),
                "activations_payload": sent.hex(),
                "input": _hex(gradient),
                "payload": payload.hex(),
                "output": _hex(decode_gradient(codec, payload, received, 3, d)),
            }
        )
    return found


def of_bits() -> list[dict[str, Any]]:
    """Packed integers of every width."""
    rng = random.Random(0)
    found = []
    for width in range(17):
        values = [rng.randrange(2**width) for _ in range(5)]
        packed = bits.pack(np.array(values, np.uint16), width)
        found.append({"bits": width, "values": values, "bytes": packed.hex()})
    return found


def of_chunks() -> list[dict[str, Any]]:
    """Messages that are cut, and one that is not."""
    found = []
    for size, limit, transfer in ((10, 64, 1), (64, 64, 2), (65, 64, 3), (200, 64, 2**32 - 1)):
        message, topic = bytes(range(size)), "fl/3/run/u/c0"
        packets = chunks.split(message, transfer, limit)
        found.append(
            {
                "message": message.hex(),
                "limit": limit,
                "transfer": transfer,
                "packets": [packet.hex() for packet in packets],
                "topic": topic,
                "wire_bytes": chunks.wire_bytes(topic, size, limit),
            }
        )
    return found


def of_refusals() -> list[dict[str, Any]]:
    """Bytes that are no message, each with the reason for which it is refused."""
    bad = {
        "version 1": "94 01 02 c2 05",
        "unknown type": "93 03 63 01",
        "a number for a truth value": "94 03 02 01 05",
        "a field is missing": "93 03 02 c2",
        "something after it": "94 03 02 c2 05 00",
        "NaN for the correction": "98 03 06 03 07 00 01 ca 7fc00000 c40109",
        "a reason of 65 characters": "94 03 08 d9 41" + "78" * 65 + "a0",
        "step 65536": "97 03 09 03 09 07 ce00010000 c3",
    }
    found = []
    for what, text in bad.items():
        data = bytes.fromhex(text)
        try:
            packing.decode(data)
        except WireError as error:
            found.append({"what": what, "bytes": data.hex(), "reason": error.reason})
        else:
            raise AssertionError(f"{what} is accepted")
    return found


KINDS: list[tuple[Targets, int]] = [
    (Labels(10), 5),
    (Labels(4, ignore=-100), 5),
    (Labels(3, (6, 6)), 2),
    (Numbers((2,)), 3),
    (Tags(100), 4),
    (Tags(3), 4),
    (Probabilities(3), 2),
    (Several({"digit": Labels(10), "tags": Tags(50), "angle": Numbers()}), 2),
]


def of_targets() -> list[dict[str, Any]]:
    """Targets of every kind; those of a map are alike, so that they are entropy-coded."""
    found = []
    for number, (kind, n) in enumerate(KINDS):
        values = kind.example(n, np.random.default_rng(number))
        if isinstance(values, np.ndarray) and isinstance(kind, Labels) and kind.shape:
            values[:, 1:] = values[:, :1]
        if isinstance(values, np.ndarray) and isinstance(kind, Labels) and kind.ignore is not None:
            values[1] = kind.ignore
        told = {"": values} if isinstance(values, np.ndarray) else values
        found.append(
            {
                "outputs": kind.wire_parts(),
                "n": n,
                "values": {name: each.reshape(n, -1).tolist() for name, each in told.items()},
                "bytes": kind.encode(values).hex(),
            }
        )
    return found


VECTORS = {
    "messages": of_messages,
    "codecs": of_codecs,
    "gradients": of_gradients,
    "bits": of_bits,
    "chunks": of_chunks,
    "refusals": of_refusals,
    "targets": of_targets,
}


def _with_hex(value: Any) -> Any:
    """Give a field as JSON can have it."""
    if isinstance(value, list | tuple):
        return [_with_hex(each) for each in value]
    return {"hex": value.hex()} if isinstance(value, bytes) else value


def _hex(x: Matrix) -> str:
    return x.astype("<f4").tobytes().hex()


def main() -> None:
    """Write the files."""
    for name, make in VECTORS.items():
        (FOLDER / f"{name}.json").write_text(json.dumps(make(), indent=1) + "\n")


if __name__ == "__main__":
    main()
