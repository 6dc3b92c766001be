"""A matrix as a product of two thin ones that is right on average: its directions are drawn.

The best product of rank r leaves out the same directions again and again, and training misses them. Here what
is left out is drawn anew each time (Wang et al. 2018, ATOMO, arXiv 1806.04090, section 3).

Bytes: as of `coding.factors`, with the rank that fits the matrix.
"""

import numpy as np
import numpy.typing as npt

from broker.codecs.base import Matrix
from broker.codecs.coding.factors import factors_bytes
from broker.codecs.coding.row_values import quantized
from broker.codecs.pq import scale_to_safe_exponent

Floats = npt.NDArray[np.float64]


def encode_drawn(x: Matrix, rank: int, bits: int, rng: np.random.Generator) -> bytes:
    """Returns the bytes of a product whose mean over draws is x, shape (k, d).

    Args:
        x: the matrix.
        rank: directions that are sent, at most k and d of them.
        bits: of a value, see `coding.row_values`; with 4 and 8 rounded at random.
        rng: draws directions and roundings.

    Raises:
        ValueError: "not finite", see `Codec.encode`.
    """
    flat, exponent = scale_to_safe_exponent(x)
    left, sizes, right = np.linalg.svd(flat.reshape(x.shape).astype(np.float64), full_matrices=False)
    rank = min(rank, len(sizes))
    chances = shares(sizes, rank)
    drawn = draw(chances, rng)
    lengths = np.sqrt(sizes[drawn] / chances[drawn])
    factors = np.zeros((rank, len(x))), np.zeros((rank, x.shape[1]))
    for factor, of_all in zip(factors, (left.T, right), strict=True):
        factor[: len(drawn)] = of_all[drawn] * lengths[:, None]
    up, down = exponent - exponent // 2, exponent // 2
    return b"".join(
        quantized(np.ldexp(factor, each).astype(np.float32), bits, rng).to_bytes()
        for factor, each in zip(factors, (up, down), strict=True)
    )


def shares(sizes: Floats, count: int) -> Floats:
    """Returns the chance of each direction: in proportion to its size, at most 1, together `count`.

    So they sum up to the fewest that the variance of the product needs. Directions of no size have none.

    Args:
        sizes: singular values, falling, not negative.
        count: of directions that are to be drawn, at most as many as there are sizes.
    """
    found = np.zeros(len(sizes))
    positive = int(np.count_nonzero(sizes > sizes[0] * np.finfo(np.float32).eps))
    if positive <= count:
        found[:positive] = 1
        return found
    sure = 0
    while sizes[sure] * (count - sure) > sizes[sure:positive].sum():
        sure += 1
    found[:sure] = 1
    found[sure:positive] = sizes[sure:positive] * (count - sure) / sizes[sure:positive].sum()
    return found


def draw(chances: Floats, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Returns which are drawn, each with its chance: as many as the chances sum up to, a whole number.

    Systematic sampling: chances are laid end to end, and those are drawn in which a ruler's marks fall.
    """
    ends = np.cumsum(chances)
    ends[-1] = np.rint(ends[-1])
    return np.flatnonzero(np.diff(np.floor(ends + rng.random()), prepend=0) > 0)


def drawn_bytes(k: int, d: int, rank: int, bits: int) -> int:
    """Returns the length of the bytes of a matrix of shape (k, d)."""
    return factors_bytes(k, d, min(rank, k, d), bits)
