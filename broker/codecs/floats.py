"""Codecs that send every value as a float: float32 without loss, float16 in half the bytes."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from broker.codecs.base import PAPER_FLOAT_BITS, Codec, Matrix
from broker.codecs.coding.block_float16 import decode_halves, encode_halves, halves_bytes
from broker.wire.errors import WireError


@dataclass(frozen=True, slots=True)
class Float32(Codec):
    """The values themselves: y = x.

    Bytes: float32, little-endian, row by row. Size: 4 n d.
    """

    codec: Literal["float32"] = "float32"

    def encode(self, x: Matrix, rng: np.random.Generator) -> bytes:  # noqa: ARG002 - nothing is random here
        """See `Codec.encode`."""
        if not np.isfinite(x).all():
            raise ValueError("not finite: a value is NaN or infinite")
        return x.astype("<f4", copy=False).tobytes()

    def decode(self, payload: bytes, n: int, d: int) -> Matrix:
        """See `Codec.decode`."""
        if not self.fits(len(payload), n, d):
            raise WireError("shape", f"{len(payload)} bytes for {n} x {d} float32")
        values = np.frombuffer(payload, "<f4").astype(np.float32)
        if not np.isfinite(values).all():
            raise WireError("not-finite", "a float32 value")
        return values.reshape(n, d)

    def size_bytes(self, n: int, d: int) -> int:
        """See `Codec.size_bytes`."""
        return 4 * n * d

    def paper_bits(self, n: int, d: int, payload_bytes: int) -> float:  # noqa: ARG002 - see the base class
        """See `Codec.paper_bits`: the floats themselves, which the paper counts as 64 bits each."""
        return PAPER_FLOAT_BITS * n * d


@dataclass(frozen=True, slots=True)
class Float16(Codec):
    """Half precision with one exponent for the whole matrix: y = float16(x * 2**-e) * 2**e.

    e puts the largest magnitude into [2**14, 2**15). The error is at most 2**-11 of a value, and at most
    2**-39 of the largest magnitude where that is more.

    Bytes: e as a signed byte, then float16, little-endian, row by row. Size: 1 + 2 n d.
    """

    codec: Literal["float16"] = "float16"

    def encode(self, x: Matrix, rng: np.random.Generator) -> bytes:  # noqa: ARG002 - nothing is random here
        """See `Codec.encode`."""
        return encode_halves(x)

    def decode(self, payload: bytes, n: int, d: int) -> Matrix:
        """See `Codec.decode`."""
        if not self.fits(len(payload), n, d):
            raise WireError("shape", f"{len(payload)} bytes for {n} x {d} float16")
        return decode_halves(payload, n * d).reshape(n, d)

    def size_bytes(self, n: int, d: int) -> int:
        """See `Codec.size_bytes`."""
        return halves_bytes(n * d)
