"""Codecs that send some of the values; the others arrive as zeros.

Letters: f the fraction that is sent; k = max(1, round(f n d)) the number of values that are sent (a half
rounds to even). They are chosen from the whole matrix, not from each row. Of all choices of k values, that of
`TopK` has the smallest error. Values travel as float16 with one exponent, see `coding.block_float16`.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from broker.codecs.base import Codec, Matrix
from broker.codecs.coding.block_float16 import decode_halves, encode_halves, halves_bytes, peak
from broker.codecs.coding.elias_fano import Positions, decode_positions, encode_positions, positions_bytes
from broker.wire.errors import WireError


@dataclass(frozen=True, slots=True)
class TopK(Codec):
    """The k values of largest magnitude: y = x there and 0 elsewhere; of equal ones the first are taken.

    Bytes: k values as float16 with one exponent, row by row; then their positions in the matrix as one row,
    see `coding.elias_fano`. Size: 1 + 2 k + the size of k positions below n d.

    Attributes:
        codec: Name in scenarios and on the wire.
        fraction: f, above 0 and below 1.
    """

    codec: Literal["topk"] = "topk"
    fraction: float = 0.01

    def __post_init__(self) -> None:
        _check_fraction(self.fraction)

    def encode(self, x: Matrix, rng: np.random.Generator) -> bytes:  # noqa: ARG002 - nothing is random here
        """See `Codec.encode`."""
        return _encode_at(np.flatnonzero(_largest(x, self.fraction)), x)

    def decode(self, payload: bytes, n: int, d: int) -> Matrix:
        """See `Codec.decode`."""
        return _decode_at(payload, n, d, self.fraction)

    def size_bytes(self, n: int, d: int) -> int:
        """See `Codec.size_bytes`."""
        return _size_at(n, d, self.fraction)


@dataclass(frozen=True, slots=True)
class RandomTopK(Codec):
    """The largest values, some of them replaced at random by others (arXiv 2305.18469).

    Values that are never among the largest would otherwise never be trained.

    Each of the k values is, with chance `randomness`, one that is not among the k largest, else one that is;
    within both sets every value is equally likely, and none is sent twice. The mean of y is not x.
    Bytes and size as of `TopK`.

    Attributes:
        codec: Name in scenarios and on the wire.
        fraction: f, above 0 and below 1.
        randomness: The paper's alpha, above 0 and below 1.
    """

    codec: Literal["random_topk"] = "random_topk"
    fraction: float = 0.01
    randomness: float = 0.1

    def __post_init__(self) -> None:
        _check_fraction(self.fraction)
        if not 0 < self.randomness < 1:
            raise ValueError(f"randomness must be above 0 and below 1, not {self.randomness}")

    def encode(self, x: Matrix, rng: np.random.Generator) -> bytes:
        """See `Codec.encode`."""
        sent = _largest(x, self.fraction)
        largest, others = np.flatnonzero(sent), np.flatnonzero(~sent)
        swaps = min(int(rng.binomial(largest.size, self.randomness)), others.size)
        sent[rng.choice(largest, swaps, replace=False)] = False
        sent[rng.choice(others, swaps, replace=False)] = True
        return _encode_at(np.flatnonzero(sent), x)

    def decode(self, payload: bytes, n: int, d: int) -> Matrix:
        """See `Codec.decode`."""
        return _decode_at(payload, n, d, self.fraction)

    def size_bytes(self, n: int, d: int) -> int:
        """See `Codec.size_bytes`."""
        return _size_at(n, d, self.fraction)


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be above 0 and below 1, not {fraction}")


def _count(total: int, fraction: float) -> int:
    return max(1, round(fraction * total))


def _largest(x: Matrix, fraction: float) -> npt.NDArray[np.bool_]:
    """Tells which values of x are the k largest, shape (n d,); of equal ones the first are taken."""
    peak(x)  # refuses what is not finite
    values = np.abs(x.reshape(-1))
    count = _count(values.size, fraction)
    least = np.partition(values, values.size - count)[values.size - count]
    chosen: npt.NDArray[np.bool_] = values > least
    chosen[np.flatnonzero(values == least)[: count - np.count_nonzero(chosen)]] = True
    return chosen


def _encode_at(positions: Positions, x: Matrix) -> bytes:
    return encode_halves(x.reshape(-1)[positions]) + encode_positions(positions, x.size)


def _decode_at(payload: bytes, n: int, d: int, fraction: float) -> Matrix:
    count = _count(n * d, fraction)
    if len(payload) != _size_at(n, d, fraction):
        raise WireError("shape", f"{len(payload)} bytes for {count} of {n} x {d} values")
    values = decode_halves(payload, count)
    positions = decode_positions(payload[halves_bytes(count) :], n * d, count)
    return _spread(values, positions, n, d)


def _size_at(n: int, d: int, fraction: float) -> int:
    count = _count(n * d, fraction)
    return halves_bytes(count) + positions_bytes(n * d, count)


def _spread(values: Matrix, positions: Positions, n: int, d: int) -> Matrix:
    y = np.zeros(n * d, np.float32)
    y[positions] = values
    return y.reshape(n, d)
