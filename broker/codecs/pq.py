"""Grouped product quantization, FedLite's codec (arXiv 2201.11865, section 4)."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from broker.codecs.base import PAPER_FLOAT_BITS, ClusteringCodec, Codewords, Matrix
from broker.codecs.coding.block_float16 import decode_halves, encode_halves, halves_bytes, peak
from broker.codecs.kmeans import Points, cluster, nearest
from broker.wire.bits import bits_for, pack, packed_bytes, unpack
from broker.wire.errors import WireError

MAX_SUBVECTORS = 2**20
MAX_CENTROIDS = 256
SAFE_ENERGY = (2.0**-60, 2.0**90)  # between these sums of squares, k-means neither under- nor overflows


@dataclass(frozen=True, slots=True)
class Pq(ClusteringCodec):
    """K-means codebooks of sub-vectors, estimated anew for every batch.

    Each row is cut into q sub-vectors of d / q neighbouring values; the first q / R positions form the first
    group, the next q / R the second, and so on. All sub-vectors of a group, over all n rows, are clustered
    around L centroids, and y has the nearest centroid in the place of each sub-vector. R = 1 is FedLite's
    choice, R = q vanilla product quantization, q = 1 k-means of whole rows. Activations must come channels
    last: neighbouring channels of a pixel resemble each other, neighbouring pixels of a channel less.

    Bytes: the codebook as float16 with one exponent (see `coding.block_float16`), group by group, centroid by
    centroid; then one code per sub-vector, row by row and within a row from the first position to the last,
    ceil(log2 L) bits each (order of bits: `wire.bits`). Codes refer to the codebook as it travels.
    Size: 1 + 2 R L d / q + ceil(n q ceil(log2 L) / 8).

    Attributes:
        codec: Name in scenarios and on the wire.
        subvectors: q, a divisor of d.
        groups: R, a divisor of q.
        centroids: L, 1 to 256.
    """

    codec: Literal["pq"] = "pq"
    subvectors: int = 1
    groups: int = 1
    centroids: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.subvectors <= MAX_SUBVECTORS:
            raise ValueError(f"subvectors must be 1 to {MAX_SUBVECTORS}, not {self.subvectors}")
        if self.groups < 1 or self.subvectors % self.groups:
            raise ValueError(
                f"groups must divide subvectors ({self.subvectors}), which {self.groups} does not"
            )
        if not 1 <= self.centroids <= MAX_CENTROIDS:
            raise ValueError(f"centroids must be 1 to {MAX_CENTROIDS}, not {self.centroids}")

    def cluster(self, x: Matrix, rng: np.random.Generator) -> tuple[bytes, Codewords]:
        """See `ClusteringCodec.cluster`."""
        n, d = x.shape
        self.check(d)
        values, exponent = scale_to_safe_exponent(x)
        per_group = self.subvectors // self.groups
        cut = values.reshape(n, self.groups, per_group, d // self.subvectors)
        points = Points(
            np.ascontiguousarray(cut.transpose(1, 0, 2, 3)).reshape(self.groups, n * per_group, -1)
        )
        centroids = cluster(points, self.centroids, rng)
        codebook = encode_halves(np.ldexp(centroids, exponent))
        received = decode_halves(codebook, centroids.size).reshape(centroids.shape)
        codes = nearest(points, np.ldexp(received, -exponent))
        by_sample = codes.reshape(self.groups, n, per_group).transpose(1, 0, 2)
        payload = codebook + pack(by_sample, bits_for(self.centroids))
        book = received.reshape(self.codewords_count, -1)
        return payload, Codewords(book, self._rows(by_sample).reshape(n, self.subvectors))

    @property
    def codewords_count(self) -> int:
        """See `ClusteringCodec`."""
        return self.groups * self.centroids

    def codewords(self, payload: bytes, n: int, d: int) -> Codewords:
        """See `ClusteringCodec.codewords`."""
        self.check(d)
        if not self.fits(len(payload), n, d):
            raise WireError("shape", f"{len(payload)} bytes for {n} x {d} in {self}")
        values = self.codewords_count * (d // self.subvectors)
        codebook = decode_halves(payload, values).reshape(self.codewords_count, -1)
        codes = unpack(payload[halves_bytes(values) :], bits_for(self.centroids), n * self.subvectors)
        if self.centroids & (self.centroids - 1) and int(codes.max()) >= self.centroids:
            raise WireError("range", f"code {int(codes.max())} of {self.centroids} centroids")
        return Codewords(codebook, self._rows(codes).reshape(n, self.subvectors))

    def size_bytes(self, n: int, d: int) -> int:
        """See `Codec.size_bytes`."""
        self.check(d)
        codebook = self.groups * self.centroids * (d // self.subvectors)
        return halves_bytes(codebook) + packed_bytes(n * self.subvectors, bits_for(self.centroids))

    def paper_bits(
        self,
        n: int,
        d: int,
        payload_bytes: int,  # noqa: ARG002 - see the base class
        float_bits: int = PAPER_FLOAT_BITS,
    ) -> float:
        """Returns the size in bits as the paper counts it, with codes of exactly log2(L) bits.

        float_bits * (d/q) * L * R + n * q * log2(L); uncompressed, the paper counts float_bits * n * d.
        """
        codebook = (d / self.subvectors) * self.centroids * self.groups
        return float_bits * codebook + n * self.subvectors * math.log2(self.centroids)

    def _rows(self, codes: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
        """Turns codes that count within their group into rows of all groups' codebooks, stacked."""
        if self.groups == 1:
            return codes
        first = np.arange(self.groups, dtype=np.intp)[:, None] * self.centroids
        return (codes.reshape(-1, self.groups, self.subvectors // self.groups) + first).reshape(-1)


def scale_to_safe_exponent(x: Matrix) -> tuple[Matrix, int]:
    """Returns x * 2**-e and e, chosen so that no square under- or overflows; e is 0 for ordinary values.

    Raises:
        ValueError: "not finite", see `Codec.encode`.
    """
    flat = np.ascontiguousarray(x).reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        energy = float(np.dot(flat, flat))
    if SAFE_ENERGY[0] < energy < SAFE_ENERGY[1]:
        return flat, 0
    exponent = math.frexp(peak(flat))[1]
    return np.ldexp(flat, -exponent), exponent
