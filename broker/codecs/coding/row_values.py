"""The values of rows, each row by itself: a row has the same bytes and values whatever rows come with it.

So a receiver that has some of the rows already can be sent the others, and has what others have.

Letters: k rows of c values, b bits a value, blocks of up to 256 consecutive values that never cross rows.

- b = 4, 8: integers from -m to m = 2**(b-1) - 1. A block's scale is a = peak / m, rounded up to float16 (all
  scales share one exponent, see `coding.block_float16`); y = a (code - m), the nearest to x. Bytes: the
  scales, row by row; the codes, row by row, packed.
- b = 16: `block_float16`. b = 32: float32, little-endian.

That all scales, or all float16 values, share an exponent changes none of them when some of the rows are sent
later: the exponent of the fewer rows is at most that of all, and smaller exponents only add precision.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from broker.codecs.base import Matrix
from broker.codecs.coding.block_float16 import decode_halves, encode_halves, halves_bytes, peak
from broker.wire.bits import pack, packed_bytes, unpack
from broker.wire.errors import WireError

WIDTHS = (4, 8, 16, 32)
"""The bits that a value may have."""
BLOCK_VALUES = 256
HALF, FULL = 16, 32


def check_bits(bits: int) -> None:
    """Raises ValueError when a value may not have so many bits."""
    if bits not in WIDTHS:
        raise ValueError(f"bits must be 4, 8, 16 or 32, not {bits}")


class RowValues(NamedTuple):
    """Rows as their receiver will have them.

    Attributes:
        bits: b.
        values: with 16 and 32 bits the values, float32; else the codes, uint8; shape (k, c).
        scales: of each row's blocks, float32, shape (k, blocks); without blocks for values that are floats.
    """

    bits: int
    values: npt.NDArray[np.generic]
    scales: Matrix

    def take(self, rows: npt.NDArray[np.int64]) -> "RowValues":
        """Returns some of the rows."""
        return self._replace(values=self.values[rows], scales=self.scales[rows])

    def to_bytes(self) -> bytes:
        """Returns the bytes of all rows."""
        if not self.values.size:
            return b""
        if self.bits == FULL:
            return self.values.astype("<f4", copy=False).tobytes()
        if self.bits == HALF:
            return encode_halves(self.values.astype(np.float32, copy=False))
        return encode_halves(self.scales, upwards=True) + pack(
            self.values.astype(np.uint8, copy=False), self.bits
        )

    def vectors(self) -> Matrix:
        """Returns the rows, a new array of shape (k, c).

        Raises:
            WireError: "not-finite" when a scale is too large.
        """
        if self.bits >= HALF or not self.values.size:
            return self.values.astype(np.float32)
        count, width = self.values.shape
        y = self.values.astype(np.float32)
        y -= np.float32(_largest(self.bits))
        with np.errstate(over="ignore"):
            y *= np.repeat(self.scales, BLOCK_VALUES, axis=1)[:, :width]
        if not np.isfinite(y).all():
            raise WireError("not-finite", "a scale is too large")
        return y.reshape(count, width)


def quantized(x: Matrix, bits: int) -> RowValues:
    """Returns rows of shape (k, c) in b bits a value, rounded to the nearest.

    Args:
        x: the rows.
        bits: one of WIDTHS.

    Raises:
        ValueError: "not finite", see `Codec.encode`.
    """
    none = np.empty((len(x), 0), np.float32)
    if not x.size:
        return RowValues(bits, np.zeros(x.shape, np.float32 if bits >= HALF else np.uint8), none)
    if bits == FULL:
        if not np.isfinite(x).all():
            raise ValueError("not finite: a value is NaN or infinite")
        return RowValues(bits, x, none)
    peak(x)  # refuses what is not finite
    if bits == HALF:
        return RowValues(bits, decode_halves(encode_halves(x), x.size).reshape(x.shape), none)
    count, width = x.shape
    blocks = np.pad(np.abs(x), ((0, 0), (0, -width % BLOCK_VALUES))).reshape(count, -1, BLOCK_VALUES)
    largest = _largest(bits)
    wanted = blocks.max(axis=2) / np.float32(largest)
    scales = decode_halves(encode_halves(wanted, upwards=True), wanted.size).reshape(wanted.shape)
    steps = np.repeat(scales, BLOCK_VALUES, axis=1)[:, :width]
    codes = np.divide(x, steps, out=np.zeros_like(x), where=steps > 0)
    codes += np.float32(largest + 0.5)
    return RowValues(bits, np.clip(codes, 0, 2 * largest).astype(np.uint8), scales)


def read_rows(data: bytes, count: int, width: int, bits: int) -> RowValues:
    """Returns k rows of c values.

    Raises:
        WireError: "shape" on a wrong length, "not-finite" on NaN and infinities, "range" on codes that stand
            for nothing, "malformed" on pad bits that are not zero.
    """
    if len(data) != rows_bytes(count, width, bits):
        raise WireError("shape", f"{len(data)} bytes for {count} rows of {width} values of {bits} bits")
    none = np.empty((count, 0), np.float32)
    if not count * width:
        return quantized(np.zeros((count, width), np.float32), bits)
    if bits == FULL:
        values = np.frombuffer(data, "<f4").astype(np.float32)
        if not np.isfinite(values).all():
            raise WireError("not-finite", "a float32 value")
        return RowValues(bits, values.reshape(count, width), none)
    if bits == HALF:
        return RowValues(bits, decode_halves(data, count * width).reshape(count, width), none)
    scales = decode_halves(data, count * _blocks(width))
    codes = unpack(data[halves_bytes(scales.size) :], bits, count * width)
    if int(codes.max()) > 2 * _largest(bits):
        raise WireError("range", f"code {int(codes.max())} beyond the largest integer {_largest(bits)}")
    return RowValues(bits, codes.reshape(count, width), scales.reshape(count, -1))


def some_rows(data: bytes, count: int, width: int, bits: int, chosen: npt.NDArray[np.int64]) -> bytes:
    """Returns what `to_bytes` gives of some of the k rows in `data`: their values stay what they are."""
    if not chosen.size or not width:
        return b""
    if bits == FULL:
        return np.frombuffer(data, "<f4").reshape(count, width)[chosen].tobytes()
    head = width if bits == HALF else _blocks(width)  # float16 numbers of a row
    halves = np.frombuffer(data, "<f2", count * head, offset=1).reshape(count, head)
    kept = data[:1] + halves[chosen].tobytes()
    if bits == HALF:
        return kept
    packed = data[halves_bytes(halves.size) :]
    if width * bits % 8:
        codes = unpack(packed, bits, count * width).reshape(count, width)
        return kept + pack(codes[chosen], bits)
    return kept + np.frombuffer(packed, np.uint8).reshape(count, -1)[chosen].tobytes()


def rows_bytes(count: int, width: int, bits: int) -> int:
    """Returns the length of k rows of c values in b bits, in bytes."""
    if not count * width:
        return 0
    if bits == FULL:
        return 4 * count * width
    if bits == HALF:
        return halves_bytes(count * width)
    return halves_bytes(count * _blocks(width)) + packed_bytes(count * width, bits)


def _largest(bits: int) -> int:
    return (1 << (bits - 1)) - 1


def _blocks(width: int) -> int:
    return -(-width // BLOCK_VALUES)
