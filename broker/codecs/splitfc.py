"""Columns that differ between samples, quantized; the others dropped (arXiv 2307.10805)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from broker.codecs.base import Codec, Matrix
from broker.codecs.coding.block_float16 import decode_halves, encode_halves, halves_bytes, peak
from broker.codecs.coding.elias_fano import decode_positions, encode_positions, positions_bytes
from broker.wire.bits import pack, packed_bytes, unpack
from broker.wire.errors import WireError

MAX_BITS = 8


@dataclass(frozen=True, slots=True)
class SplitFc(Codec):
    """SplitFC's idea, without its search for the best number of levels of each column.

    Of the d columns (features) the k = max(1, round(keep * d)) with the largest standard deviation over the
    n rows are sent, of equal ones the first; y is 0 in the others. A sent column with minimum m and range r
    has y = m + r i / (2**bits - 1), with the nearest integer i.

    The paper drops columns at random, those with small deviations more often, and scales the others up. With
    few columns left, that is mostly noise.

    Bytes: the k minima as float16 with one exponent (see `coding.block_float16`); the k ranges likewise,
    rounded up; the positions of the columns (see `coding.elias_fano`); the n k integers, row by row
    (order of bits: `wire.bits`). Size: 2 (1 + 2 k) + the size of k positions below d + ceil(n k bits / 8).

    Attributes:
        codec: Name in scenarios and on the wire.
        keep: Fraction of the columns, above 0 and at most 1.
        bits: 1 to 8.
    """

    codec: Literal["splitfc"] = "splitfc"
    keep: float = 0.1
    bits: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep must be above 0 and at most 1, not {self.keep}")
        if not 1 <= self.bits <= MAX_BITS:
            raise ValueError(f"bits must be 1 to {MAX_BITS}, not {self.bits}")

    def encode(self, x: Matrix, rng: np.random.Generator) -> bytes:  # noqa: ARG002 - nothing is random here
        """See `Codec.encode`; magnitudes must be below 2**126, since ranges are twice that."""
        if peak(x) >= 2.0**126:
            raise ValueError("not finite: a value of magnitude 2**126 or more")
        kept = np.sort(np.argsort(-x.std(axis=0, dtype=np.float64), kind="stable")[: self._kept(x.shape[1])])
        columns = x[:, kept]
        minima = encode_halves(columns.min(axis=0))
        bases = decode_halves(minima, kept.size)
        ranges = encode_halves(np.maximum(columns.max(axis=0) - bases, 0), upwards=True)
        widths = decode_halves(ranges, kept.size).astype(np.float64)
        most = 2**self.bits - 1
        steps = np.divide(most, widths, out=np.zeros_like(widths), where=widths > 0)
        codes = np.clip(np.rint((columns - bases) * steps), 0, most).astype(np.uint8)
        return minima + ranges + encode_positions(kept, x.shape[1]) + pack(codes, self.bits)

    def decode(self, payload: bytes, n: int, d: int) -> Matrix:
        """See `Codec.decode`."""
        if not self.fits(len(payload), n, d):
            raise WireError("shape", f"{len(payload)} bytes for {n} x {d} in {self}")
        count = self._kept(d)
        start, places = halves_bytes(count), positions_bytes(d, count)
        bases, widths = decode_halves(payload, count), decode_halves(payload[start:], count)
        kept = decode_positions(payload[2 * start : 2 * start + places], d, count)
        codes = unpack(payload[2 * start + places :], self.bits, n * count).reshape(n, count)
        y = np.zeros((n, d), np.float32)
        with np.errstate(over="ignore"):
            y[:, kept] = bases + codes * (widths / np.float32(2**self.bits - 1))
        if not np.isfinite(y).all():
            raise WireError("not-finite", "a minimum and a range")
        return y

    def size_bytes(self, n: int, d: int) -> int:
        """See `Codec.size_bytes`."""
        count = self._kept(d)
        return 2 * halves_bytes(count) + positions_bytes(d, count) + packed_bytes(n * count, self.bits)

    def _kept(self, d: int) -> int:
        return max(1, round(self.keep * d))
