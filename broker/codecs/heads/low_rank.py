"""A matrix as the product of two thin ones."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from broker.codecs.base import Codec, Matrix
from broker.codecs.coding.factors import MAX_RANK, decode_factors, encode_factors, factors_bytes
from broker.codecs.coding.row_set import decode_rows, encode_rows, most_bytes
from broker.codecs.coding.row_values import check_bits, quantized, read_rows, rows_bytes
from broker.wire.errors import WireError


@dataclass(frozen=True, slots=True)
class LowRank(Codec):
    """The best product of two thin matrices, each of r columns (PowerSGD: Vogels et al. 2019, 1905.13727).

    A layer's gradient is a sum of products, one for each sample (and place), of what comes in and what comes
    back. Few of them matter, so a gradient of hundreds of rows is near to one of rank 2. Of a head each
    parameter tensor is a matrix with a row for each output channel, or each word of an embedding; where two
    thin matrices have no fewer values, as of a bias, the values themselves are sent. Rows that are zero
    are left out.

    Equation: y = U V with U, shape (k, r), and V, shape (r, d), of the k rows that are not zero. U has the
    directions of the r largest singular values, found by subspace iteration and rounded to the nearest; V is
    the best one for this U, and then rounded as well. What is lost is not zero on average: see
    `flows.error_feedback`.

    Bytes: which k rows (see `coding.row_set`); if r (k + d) < k d, then U as r rows of k values (its columns)
    and V as r rows of d; else k rows of d values (see `coding.row_values`).
    Size: about r (k + d) b / 8; it depends on k.

    Attributes:
        codec: Name in scenarios and on the wire.
        rank: r, 1 to 64.
        bits: b, of a value: 4, 8, 16 or 32.
    """

    sees_shapes: ClassVar[bool] = True
    codec: Literal["low_rank"] = "low_rank"
    rank: int = 2
    bits: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= MAX_RANK:
            raise ValueError(f"rank must be 1 to {MAX_RANK}, not {self.rank}")
        check_bits(self.bits)

    def encode(self, x: Matrix, rng: np.random.Generator) -> bytes:
        """See `Codec.encode`."""
        n, d = x.shape
        rows = np.flatnonzero(x.any(axis=1))
        which = encode_rows(rows, n)
        if not self._is_shorter(rows.size, d):
            return which + quantized(x[rows], self.bits).to_bytes()
        return which + encode_factors(x[rows], self.rank, self.bits, rng)

    def decode(self, payload: bytes, n: int, d: int) -> Matrix:
        """See `Codec.decode`."""
        rows, rest = decode_rows(payload, n)
        k = rows.size
        if len(rest) != self._values_bytes(k, d):
            raise WireError("shape", f"{len(rest)} bytes for {k} rows of {d} in {self}")
        y = np.zeros((n, d), np.float32)
        if self._is_shorter(k, d):
            y[rows] = decode_factors(rest, k, d, self.rank, self.bits)
        else:
            y[rows] = read_rows(rest, k, d, self.bits).vectors()
        return y

    def size_bytes(self, n: int, d: int) -> int:
        """See `Codec.size_bytes`; longest with all rows, all but one, or the most that travel as values."""
        as_values = self.rank * d // (d - self.rank) if d > self.rank else n
        of_some = max(self._values_bytes(k, d) for k in (n - 1, min(as_values, n - 1)))
        return most_bytes(n, self._values_bytes(n, d), of_some)

    def fits(self, payload_bytes: int, n: int, d: int) -> bool:
        """See `Codec.fits`."""
        return 0 < payload_bytes <= self.size_bytes(n, d)

    def _is_shorter(self, k: int, d: int) -> bool:
        return self.rank * (k + d) < k * d

    def _values_bytes(self, k: int, d: int) -> int:
        if self._is_shorter(k, d):
            return factors_bytes(k, d, self.rank, self.bits)
        return rows_bytes(k, d, self.bits)
