"""Gradients with one mean for each sample."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from broker.codecs.base import Codec, Matrix, check_divides
from broker.codecs.heads.low_rank import LowRank
from broker.codecs.pq import MAX_SUBVECTORS


@dataclass(frozen=True, slots=True)
class SampleMean(Codec):
    """For `gradient_down`: each sample has one gradient, the mean over its sub-vectors.

    It suits heads that treat all moments of a series alike, before a tail that sees the series as a whole.
    How wrong a sample still is then says more of its gradient than what a moment was like, which is what
    `CodewordMean` goes by. It asks nothing of the activations' codec. For pictures take `CodewordMean`: there
    a gradient depends on the place.

    Equation: m_i = mean of x_ij over the q sub-vectors j of sample i, a matrix of shape (n, s), s = d / q;
    y_ij is row i of the product of rank r that is nearest to m (see `LowRank`).
    Bytes and size: as of `LowRank` for a matrix of shape (n, s), about r (n + s) b / 8.

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
        LowRank(rank=self.rank, bits=self.bits)  # refuses what is out of range

    def check(self, d: int) -> None:
        """See `Codec.check`."""
        check_divides("subvectors", self.subvectors, d)

    def encode(self, x: Matrix, rng: np.random.Generator) -> bytes:
        """See `Codec.encode`."""
        n, d = x.shape
        self.check(d)
        means = x.reshape(n, self.subvectors, -1).mean(axis=1, dtype=np.float64)
        return self._of_means.encode(means.astype(np.float32), rng)

    def decode(self, payload: bytes, n: int, d: int) -> Matrix:
        """See `Codec.decode`."""
        means = self._of_means.decode(payload, n, self._size(d))
        return np.repeat(means[:, None], self.subvectors, axis=1).reshape(n, d)

    def size_bytes(self, n: int, d: int) -> int:
        """See `Codec.size_bytes`; the payload of fewer samples that are not zero is shorter."""
        return self._of_means.size_bytes(n, self._size(d))

    def fits(self, payload_bytes: int, n: int, d: int) -> bool:
        """See `Codec.fits`."""
        return self._of_means.fits(payload_bytes, n, self._size(d))

    @property
    def _of_means(self) -> LowRank:
        return LowRank(rank=self.rank, bits=self.bits)

    def _size(self, d: int) -> int:
        self.check(d)
        return d // self.subvectors
