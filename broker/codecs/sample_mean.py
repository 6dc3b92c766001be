"""Gradients with one mean for each sample, as a product that is right on average."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from broker.codecs.base import Codec, Matrix, check_divides
from broker.codecs.coding.drawn_factors import drawn_bytes, encode_drawn
from broker.codecs.coding.factors import MAX_RANK, decode_factors
from broker.codecs.coding.row_values import check_bits
from broker.codecs.pq import MAX_SUBVECTORS
from broker.wire.errors import WireError


@dataclass(frozen=True, slots=True)
class SampleMean(Codec):
    """For `gradient_down`: each sample has one gradient, the mean over its sub-vectors.

    It suits heads that treat all moments of a series alike, before a tail that sees the series as a whole.
    Whether a sample is right or wrong then says more of its gradient than the moment does. It asks nothing of
    the activations' codec. For pictures take `CodewordMean`: there a gradient depends on the place.

    Equation: m_i = mean of x_ij over the q sub-vectors j of sample i, a matrix of shape (n, s), s = d / q;
    y_ij = (U V)_i. U, shape (n, r), and V, shape (r, s), are r directions of m. The first ones are always
    sent. Of the others some are drawn, more often the longer they are, and sent longer by as much as they are
    drawn seldom (Wang et al. 2018, arXiv 1806.04090, section 3). U and V are rounded at random. So y is m on
    average, and what one step leaves out others make up for; the best product of rank r would leave out
    the same directions in every step.

    Bytes: the columns of U, r rows of n values, then V, r rows of s values (see `coding.row_values`); with
    fewer than r samples, or values, as many directions as there are.
    Size: about r (n + s) b / 8.

    Attributes:
        codec: Name in scenarios and on the wire.
        subvectors: q, a divisor of d.
        rank: r, 1 to 64.
        bits: b, of a value: 4, 8, 16 or 32.
    """

    codec: Literal["sample_mean"] = "sample_mean"
    subvectors: int = 1
    rank: int = 4
    bits: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.subvectors <= MAX_SUBVECTORS:
            raise ValueError(f"subvectors must be 1 to {MAX_SUBVECTORS}, not {self.subvectors}")
        if not 1 <= self.rank <= MAX_RANK:
            raise ValueError(f"rank must be 1 to {MAX_RANK}, not {self.rank}")
        check_bits(self.bits)

    def check(self, d: int) -> None:
        """See `Codec.check`."""
        check_divides("subvectors", self.subvectors, d)

    def encode(self, x: Matrix, rng: np.random.Generator) -> bytes:
        """See `Codec.encode`."""
        n, d = x.shape
        self.check(d)
        means = x.reshape(n, self.subvectors, -1).mean(axis=1, dtype=np.float64).astype(np.float32)
        return encode_drawn(means, self.rank, self.bits, rng)

    def decode(self, payload: bytes, n: int, d: int) -> Matrix:
        """See `Codec.decode`."""
        size = self._size(d)
        if len(payload) != self.size_bytes(n, d):
            raise WireError("shape", f"{len(payload)} bytes for {n} x {d} in {self}")
        means = decode_factors(payload, n, size, min(self.rank, n, size), self.bits)
        return np.repeat(means[:, None], self.subvectors, axis=1).reshape(n, d)

    def size_bytes(self, n: int, d: int) -> int:
        """See `Codec.size_bytes`."""
        return drawn_bytes(n, self._size(d), self.rank, self.bits)

    def _size(self, d: int) -> int:
        self.check(d)
        return d // self.subvectors
