"""A matrix as the product of two thin ones."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from broker.codecs.base import Codec, Matrix
from broker.codecs.coding.row_set import decode_rows, encode_rows, most_bytes
from broker.codecs.coding.row_values import WIDTHS, quantized, read_rows, rows_bytes
from broker.codecs.pq import scale_to_safe_exponent
from broker.wire.errors import WireError

MAX_RANK = 64
SPARE = 4
"""Further directions that are followed while the best ones are looked for."""
PASSES = 2
NEARLY_ALIKE = 0.1
"""Rounded directions this near to each other, relative to the others, count as one."""


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
        if self.bits not in WIDTHS:
            raise ValueError(f"bits must be 4, 8, 16 or 32, not {self.bits}")

    def encode(self, x: Matrix, rng: np.random.Generator) -> bytes:
        """See `Codec.encode`."""
        n, d = x.shape
        rows = np.flatnonzero(x.any(axis=1))
        which = encode_rows(rows, n)
        if not self._is_shorter(rows.size, d):
            return which + quantized(x[rows], self.bits).to_bytes()
        flat, exponent = scale_to_safe_exponent(x[rows])
        values = flat.reshape(rows.size, d)
        left = quantized(directions(values, self.rank, rng), self.bits)
        right = np.linalg.lstsq(left.vectors().T, values, rcond=NEARLY_ALIKE)[0].astype(np.float32)
        return which + left.to_bytes() + quantized(np.ldexp(right, exponent), self.bits).to_bytes()

    def decode(self, payload: bytes, n: int, d: int) -> Matrix:
        """See `Codec.decode`."""
        rows, rest = decode_rows(payload, n)
        k = rows.size
        if len(rest) != self._values_bytes(k, d):
            raise WireError("shape", f"{len(rest)} bytes for {k} rows of {d} in {self}")
        y = np.zeros((n, d), np.float32)
        if not self._is_shorter(k, d):
            y[rows] = read_rows(rest, k, d, self.bits).vectors()
            return y
        end = rows_bytes(self.rank, k, self.bits)
        left = read_rows(rest[:end], self.rank, k, self.bits).vectors()
        right = read_rows(rest[end:], self.rank, d, self.bits).vectors()
        with np.errstate(over="ignore", invalid="ignore"):
            y[rows] = product(left, right)
        if not np.isfinite(y).all():
            raise WireError("not-finite", "a product of factors")
        return y

    def size_bytes(self, n: int, d: int) -> int:
        """See `Codec.size_bytes`; the payload of fewer rows is shorter."""
        return most_bytes(n, self._values_bytes(n, d), self._values_bytes(n - 1, d))

    def fits(self, payload_bytes: int, n: int, d: int) -> bool:
        """See `Codec.fits`."""
        return 0 < payload_bytes <= self.size_bytes(n, d)

    def _is_shorter(self, k: int, d: int) -> bool:
        return self.rank * (k + d) < k * d

    def _values_bytes(self, k: int, d: int) -> int:
        if self._is_shorter(k, d):
            return rows_bytes(self.rank, k, self.bits) + rows_bytes(self.rank, d, self.bits)
        return rows_bytes(k, d, self.bits)


def product(left: Matrix, right: Matrix) -> Matrix:
    """Returns the sum of the products of column and row, one after the other: on all machines the same."""
    total: Matrix = left[0][:, None] * right[0]
    for column, row in zip(left[1:], right[1:], strict=True):
        total += column[:, None] * row
    return total


def directions(x: Matrix, rank: int, rng: np.random.Generator) -> Matrix:
    """Returns the r greatest left singular vectors, times the root of k: values around 1; shape (r, k).

    Subspace iteration from a random start (Halko, Martinsson, Tropp 2011, arXiv 0909.4061, algorithm 4.4).
    """
    k, d = x.shape
    basis = rng.standard_normal((d, min(rank + SPARE, k, d)), np.float32)
    for _ in range(PASSES):
        basis = np.linalg.qr(x.T @ np.linalg.qr(x @ basis)[0])[0]
    left = np.linalg.svd(x @ basis, full_matrices=False)[0]
    return np.ascontiguousarray(left[:, :rank].T * np.float32(np.sqrt(k)))
