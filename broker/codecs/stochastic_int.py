"""Small integers with stochastic rounding: on average, what arrives is what was sent.

Letters: b bits, m the largest integer, w the step between neighbouring integers, k blocks of 256 consecutive
values.

int8 and int4 use all integers from -m to m (w = 1), so zeros arrive as zeros. Of two bits that would leave a
quarter of the codes unused, so int2 uses the odd integers -3, -1, 1, 3 (w = 2).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from broker.codecs.base import Codec, Matrix
from broker.codecs.coding.block_float16 import LIMIT, decode_halves, encode_halves, halves_bytes, peak
from broker.wire.bits import pack, packed_bytes, unpack
from broker.wire.errors import WireError

BLOCK_VALUES = 256
NOISE_STEPS = np.float32(2**16)
SMALLEST_SCALE = np.float32(2**-126)  # a block of zeros has it too, so that 1 / scale is finite
LARGEST_SCALE = np.nextafter(np.float32(LIMIT), np.float32(0))  # the largest value that encode_halves takes
HEADROOM = np.float32(
    1 + 2**-20
)  # scales are so much larger, or a rounding error of x / scale could exceed m


class _Integers(Codec):
    """Symmetric integers in `bits` bits with a scale per block of 256 values.

    A block's scale is a = peak / m or 2**-126 if that is more, rounded up to float16 (all scales share one
    exponent, see `coding.block_float16`). Each value is sent as code = floor((x / a + m) / w + u), with u
    uniform on [0, 1) in steps of 2**-16, and y = a * (w code - m). So |y - x| <= w a; the mean of y is x
    within w a 2**-15.

    Bytes: exponent of the scales; k scales in float16; n d codes, row by row, of b bits each (order of bits:
    `wire.bits`). Blocks run across rows; the last may be short.
    Size: 1 + 2 k + ceil(n d b / 8), where k = ceil(n d / 256).
    """

    __slots__ = ()
    bits: ClassVar[int]
    largest: ClassVar[int]
    step: ClassVar[int]

    def encode(self, x: Matrix, rng: np.random.Generator) -> bytes:
        """See `Codec.encode`."""
        peak(x)  # refuses what is not finite
        blocks = _blocks(x)
        values = np.abs(blocks)
        wanted = values.max(axis=1) * (HEADROOM / np.float32(self.largest))
        scales = encode_halves(np.clip(wanted, SMALLEST_SCALE, LARGEST_SCALE), upwards=True)
        np.multiply(blocks, (1 / self.step) / decode_halves(scales, len(blocks))[:, None], out=values)
        values += np.float32(self.largest / self.step)
        values += _noise(values.size, rng).reshape(values.shape)
        codes = values.reshape(-1)[: x.size].astype(np.uint8)  # positive, so this cuts off the fraction
        return scales + pack(codes, self.bits)

    def decode(self, payload: bytes, n: int, d: int) -> Matrix:
        """See `Codec.decode`."""
        if not self.fits(len(payload), n, d):
            raise WireError("shape", f"{len(payload)} bytes for {n} x {d} integers of {self.bits} bits")
        blocks = _block_count(n * d)
        scales = decode_halves(payload, blocks)
        codes = unpack(payload[halves_bytes(blocks) :], self.bits, n * d)
        if int(codes.max()) * self.step > 2 * self.largest:
            raise WireError("range", f"code {int(codes.max())} beyond the largest integer {self.largest}")
        values = np.zeros(blocks * BLOCK_VALUES, np.float32)
        np.multiply(codes, np.float32(self.step), out=values[: n * d], dtype=np.float32)
        values[: n * d] -= np.float32(self.largest)
        with np.errstate(over="ignore"):
            values.reshape(blocks, BLOCK_VALUES)[:] *= scales[:, None]
        if not np.isfinite(values).all():
            raise WireError("not-finite", "a scale is too large")
        return values[: n * d].reshape(n, d)

    def size_bytes(self, n: int, d: int) -> int:
        """See `Codec.size_bytes`."""
        return halves_bytes(_block_count(n * d)) + packed_bytes(n * d, self.bits)


@dataclass(frozen=True, slots=True)
class Int8(_Integers):
    """Integers from -127 to 127; equation, bytes and size as in the base class with b = 8."""

    bits: ClassVar[int] = 8
    largest: ClassVar[int] = 127
    step: ClassVar[int] = 1
    codec: Literal["int8"] = "int8"


@dataclass(frozen=True, slots=True)
class Int4(_Integers):
    """Integers from -7 to 7; equation, bytes and size as in the base class with b = 4."""

    bits: ClassVar[int] = 4
    largest: ClassVar[int] = 7
    step: ClassVar[int] = 1
    codec: Literal["int4"] = "int4"


@dataclass(frozen=True, slots=True)
class Int2(_Integers):
    """The integers -3, -1, 1, 3; equation, bytes and size as in the base class with b = 2."""

    bits: ClassVar[int] = 2
    largest: ClassVar[int] = 3
    step: ClassVar[int] = 2
    codec: Literal["int2"] = "int2"


def _block_count(values: int) -> int:
    return -(-values // BLOCK_VALUES)


def _blocks(x: Matrix) -> Matrix:
    """Returns x as (k, 256), with zeros at the end."""
    flat = x.reshape(-1)
    missing = -flat.size % BLOCK_VALUES
    return (np.pad(flat, (0, missing)) if missing else flat).reshape(-1, BLOCK_VALUES)


def _noise(count: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Returns uniform multiples of 2**-16 in [0, 1): four out of one draw of the generator."""
    words = rng.integers(0, 2**64 - 1, -(-count // 4), np.uint64, endpoint=True).astype("<u8", copy=False)
    noise: npt.NDArray[np.float32] = np.divide(words.view("<u2")[:count], NOISE_STEPS, dtype=np.float32)
    return noise
