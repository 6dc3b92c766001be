"""A matrix as the product of two thin ones, rounded to few bits.

Letters: a matrix of k rows and d columns is nearly U V, with U of shape (k, r) and V of shape (r, d).

Bytes: the columns of U, r rows of k values, then V, r rows of d values; both as in `coding.row_values`.
"""

import numpy as np

from broker.codecs.base import Matrix
from broker.codecs.coding.row_values import quantized, read_rows, rows_bytes
from broker.codecs.pq import scale_to_safe_exponent
from broker.wire.errors import WireError

MAX_RANK = 64
SPARE = 4
"""Further directions that are followed while the best ones are looked for."""
PASSES = 2
NEARLY_ALIKE = 0.1
"""Rounded directions this near to each other, relative to the others, count as one."""


def encode_factors(x: Matrix, rank: int, bits: int, rng: np.random.Generator) -> bytes:
    """Returns the bytes of a product near to x, shape (k, d).

    U has the directions of the r largest singular values, rounded; V is the best one for this U, and then
    rounded as well.

    Args:
        x: the matrix.
        rank: r, at most k and d.
        bits: of a value, see `coding.row_values`.
        rng: draws the start of the search for the directions.

    Raises:
        ValueError: "not finite", see `Codec.encode`.
    """
    flat, exponent = scale_to_safe_exponent(x)
    values = flat.reshape(x.shape)
    left = quantized(directions(values, rank, rng), bits)
    right = fitted(left.vectors(), values)
    return left.to_bytes() + quantized(np.ldexp(right, exponent), bits).to_bytes()


def decode_factors(data: bytes, k: int, d: int, rank: int, bits: int) -> Matrix:
    """Returns the product, a new array of shape (k, d).

    Raises:
        WireError: as `read_rows` does; "not-finite" too when the product is too large.
    """
    end = rows_bytes(rank, k, bits)
    left = read_rows(data[:end], rank, k, bits).vectors()
    right = read_rows(data[end:], rank, d, bits).vectors()
    with np.errstate(over="ignore", invalid="ignore"):
        y = product(left, right)
    if not np.isfinite(y).all():
        raise WireError("not-finite", "a product of factors")
    return y


def factors_bytes(k: int, d: int, rank: int, bits: int) -> int:
    """Returns the length of the bytes of both factors."""
    return rows_bytes(rank, k, bits) + rows_bytes(rank, d, bits)


def fitted(left: Matrix, values: Matrix) -> Matrix:
    """Returns the V, shape (r, d), whose product with the columns of U, shape (r, k), is nearest."""
    right: Matrix = np.linalg.lstsq(left.T, values, rcond=NEARLY_ALIKE)[0].astype(np.float32)
    return right


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
