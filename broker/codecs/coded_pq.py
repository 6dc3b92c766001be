"""Product quantization with a small codebook and entropy-coded codes."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from broker.codecs.base import ClusteringCodec, Codewords, Matrix
from broker.codecs.coding.block_float16 import decode_halves, encode_halves, halves_bytes
from broker.codecs.coding.factors import MAX_RANK, decode_factors, encode_factors, factors_bytes
from broker.codecs.coding.neighbour_coder import MOST_CODES, decode_codes, encode_codes
from broker.codecs.coding.neighbour_model import expected_bytes
from broker.codecs.foretold.coder import decode_foretold, encode_foretold
from broker.codecs.foretold.ranks import MOST_RANKS
from broker.codecs.kmeans import Points, cluster, nearest
from broker.codecs.pq import MAX_SUBVECTORS, scale_to_safe_exponent
from broker.wire.bits import bits_for, pack, packed_bytes, unpack
from broker.wire.errors import WireError

MAX_CENTROIDS = 256
STEP_BITS = 4
FINE_BITS = 8
MOST_STEPS = 7
SEED_BYTES = 512  # of the codebook travel with the codes, which makes coding faster
FORETOLD = b"\0"  # where entropy-coded codes begin with 5 to 255
WORTH_IT = 0.9  # entropy coding takes two to four times as long, so it must save a tenth


@dataclass(frozen=True, slots=True)
class CodedPq(ClusteringCodec):
    """FedLite's codec (`Pq` with one group) in about half the bytes.

    Neighbouring sub-vectors, such as the pixels of a feature map, resemble each other, and so do their codes.
    There are two coders for them. One takes what the centroids of the neighbours make likely (see
    `foretold.coder`); the other learns from the codes which ones are neighbours (see
    `coding.neighbour_coder`), which takes longer. Centroids resemble each other too: they are ordered by
    their length, and each travels as its difference to the one before, in steps of one seventh of the largest
    difference.

    Equation: c_0 = 0; c_k = c_(k-1) + a_k * i_k with integers i_k from -7 to 7 and a scale a_k per centroid;
    y has the nearest c_k, k = 1 to L, in the place of each sub-vector.

    With a rank r, c is the product U V of two thin matrices, U of shape (L, r) and V of shape (r, d / q).
    Many centroids of long sub-vectors then take a fraction of the bytes: channels depend on each other, so
    centroids lie near a space of few dimensions. The first third of the directions has 8 bits a value, since
    rounding errors are in proportion and most of the length lies along these; the others have 4.

    Bytes: the codebook, which is the scales a_1 to a_L (see `coding.block_float16`) and the L d / q integers,
    each as i + 7 in 4 bits, or with a rank the factors (see `coding.factors`) of 8 bits, then those of 4,
    whose products are added up; and the codes k - 1. These follow the codebook packed in ceil(log2 L) bits
    each, row by row. A shorter payload is coded: foretold, with a zero before the codebook's last 512 bytes
    and the codes after it; or entropy coded (at most 2**17 codes), with these bytes as their seed.
    Size: at most 1 + 2 L + ceil(L d / 2 q) + ceil(n q ceil(log2 L) / 8), with a rank about
    2 r (L + d / q) / 3 in the place of all before the last term; it depends on the values.

    Attributes:
        codec: Name in scenarios and on the wire.
        subvectors: q, a divisor of d.
        centroids: L, 2 to 256.
        width: Sub-vectors in a line of the feature map, so that codes have a neighbour above; 1 where there
            are no lines.
        rank: r, at most L, d / q and 64; 0: the codebook is no product.
    """

    codec: Literal["coded_pq"] = "coded_pq"
    subvectors: int = 1
    centroids: int = 2
    width: int = 1
    rank: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.subvectors <= MAX_SUBVECTORS:
            raise ValueError(f"subvectors must be 1 to {MAX_SUBVECTORS}, not {self.subvectors}")
        if not 2 <= self.centroids <= MAX_CENTROIDS:  # noqa: PLR2004 - one centroid has no codes
            raise ValueError(f"centroids must be 2 to {MAX_CENTROIDS}, not {self.centroids}")
        if not 1 <= self.width <= self.subvectors:
            raise ValueError(f"width must be 1 to subvectors ({self.subvectors}), not {self.width}")
        if not 0 <= self.rank <= min(MAX_RANK, self.centroids):
            raise ValueError(f"rank must be 0 to {min(MAX_RANK, self.centroids)}, not {self.rank}")

    def check(self, d: int) -> None:
        """See `ClusteringCodec.check`; a sub-vector must also have at least `rank` values."""
        ClusteringCodec.check(self, d)
        if d // self.subvectors < self.rank:
            raise ValueError(
                f"rank must be at most the {d // self.subvectors} values of a sub-vector, not {self.rank}"
            )

    def cluster(self, x: Matrix, rng: np.random.Generator) -> tuple[bytes, Codewords]:
        """See `ClusteringCodec.cluster`."""
        n, d = x.shape
        self.check(d)
        values, exponent = scale_to_safe_exponent(x)
        points = Points(values.reshape(1, n * self.subvectors, d // self.subvectors))
        book = self._encode_book(np.ldexp(cluster(points, self.centroids, rng)[0], exponent), rng)
        received = self._decode_book(book, d // self.subvectors)
        codes = nearest(points, np.ldexp(received, -exponent)[None])
        codes = codes.reshape(n, self.subvectors)
        return self._join(book, received, codes), Codewords(received, codes)

    @property
    def codewords_count(self) -> int:
        """See `ClusteringCodec`."""
        return self.centroids

    def codewords(self, payload: bytes, n: int, d: int) -> Codewords:
        """See `ClusteringCodec.codewords`."""
        self.check(d)
        if not self.fits(len(payload), n, d):
            raise WireError("shape", f"{len(payload)} bytes for {n} x {d} in {self}")
        size = d // self.subvectors
        shape, book_bytes = (n, self.subvectors), self._book_bytes(size)
        if len(payload) < self.size_bytes(n, d):
            return self._coded(payload, shape, size)
        codes = unpack(payload[book_bytes:], bits_for(self.centroids), n * self.subvectors).reshape(shape)
        if int(codes.max()) >= self.centroids:
            raise WireError("range", f"code {int(codes.max())} of {self.centroids} centroids")
        return Codewords(self._decode_book(payload[:book_bytes], size), codes)

    def _coded(self, payload: bytes, shape: tuple[int, int], size: int) -> Codewords:
        """Reads a payload whose codes are not packed."""
        book_bytes = self._book_bytes(size)
        seed_bytes = min(book_bytes, SEED_BYTES)
        plain, coded = payload[: book_bytes - seed_bytes], payload[book_bytes - seed_bytes :]
        if not coded.startswith(FORETOLD):
            codes, seed = decode_codes(coded, shape, self.centroids, self.width, seed_bytes)
            return Codewords(self._decode_book(plain + seed, size), codes)
        end = len(FORETOLD) + seed_bytes
        if len(coded) <= end:
            raise WireError("shape", f"{len(payload)} bytes for {shape[0]} x {shape[1]} foretold codes")
        book = self._decode_book(plain + coded[len(FORETOLD) : end], size)
        return Codewords(book, decode_foretold(coded[end:], shape, self.width, book))

    def size_bytes(self, n: int, d: int) -> int:
        """See `Codec.size_bytes`; a payload may be shorter."""
        self.check(d)
        return self._book_bytes(d // self.subvectors) + self._packed_bytes(n)

    def fits(self, payload_bytes: int, n: int, d: int) -> bool:
        """See `Codec.fits`; codes that are not packed make a payload shorter."""
        return payload_bytes <= self.size_bytes(n, d)

    def _join(self, book: bytes, received: Matrix, codes: npt.NDArray[np.uint8]) -> bytes:
        """Returns the payload of a codebook, which the receiver has as `received`, and codes."""
        plain, seed = book[:-SEED_BYTES], book[-SEED_BYTES:]
        shortest, coded = self._packed_bytes(len(codes)), b""
        if 0 < codes.size <= MOST_RANKS:
            foretold = encode_foretold(codes, self.width, received)
            if len(FORETOLD) + len(foretold) < shortest:
                shortest, coded = len(FORETOLD) + len(foretold), FORETOLD + seed + foretold
        if (
            codes.size <= MOST_CODES
            and expected_bytes(codes, self.centroids, self.width) < WORTH_IT * shortest
        ):
            entropy_coded = encode_codes(codes, self.centroids, self.width, seed)
            if len(entropy_coded) - len(seed) < shortest:
                coded = entropy_coded
        return plain + coded if coded else book + pack(codes, bits_for(self.centroids))

    def _packed_bytes(self, n: int) -> int:
        return packed_bytes(n * self.subvectors, bits_for(self.centroids))

    def _encode_book(self, centroids: Matrix, rng: np.random.Generator) -> bytes:
        """Returns the bytes of centroids of shape (L, s), ordered by their length."""
        ordered = centroids[np.argsort(np.einsum("ls,ls->l", centroids, centroids), kind="stable")]
        if not self.rank:
            return _encode_steps(ordered)
        book, left = b"", ordered
        for rank, bits in self._factors():
            book += (factors := encode_factors(left, rank, bits, rng))
            left = left - decode_factors(factors, len(left), left.shape[1], rank, bits)
        return book

    def _decode_book(self, book: bytes, size: int) -> Matrix:
        """Returns centroids of shape (L, s)."""
        if not self.rank:
            return _decode_steps(book, self.centroids, size)
        centroids = np.zeros((self.centroids, size), np.float32)
        for rank, bits in self._factors():
            end = factors_bytes(self.centroids, size, rank, bits)
            factors, book = book[:end], book[end:]
            with np.errstate(over="ignore"):
                centroids += decode_factors(factors, self.centroids, size, rank, bits)
        if not np.isfinite(centroids).all():
            raise WireError("not-finite", "a sum of products")
        return centroids

    def _book_bytes(self, size: int) -> int:
        if self.rank:
            return sum(factors_bytes(self.centroids, size, *each) for each in self._factors())
        return halves_bytes(self.centroids) + packed_bytes(self.centroids * size, STEP_BITS)

    def _factors(self) -> list[tuple[int, int]]:
        """Returns rank and bits of each product that the codebook is the sum of."""
        fine = -(-self.rank // 3)
        both = [(fine, FINE_BITS), (self.rank - fine, STEP_BITS)]
        return [(rank, bits) for rank, bits in both if rank]


def _encode_steps(ordered: Matrix) -> bytes:
    """Returns the bytes of centroids of shape (L, s), each as its difference to the one before."""
    wanted = np.abs(np.diff(ordered, axis=0, prepend=np.float32(0))).max(axis=1)
    error = np.float32(0)
    for k in range(
        len(wanted)
    ):  # a difference also makes up for the error of the one before, up to half a step
        wanted[k] = error = (wanted[k] + error / 2) / MOST_STEPS
    scales = encode_halves(wanted, upwards=True)
    steps = np.zeros(ordered.shape, np.int8)
    reached = np.zeros(ordered.shape[1], np.float32)
    for k, scale in enumerate(decode_halves(scales, len(ordered))):
        if scale > 0:
            steps[k] = np.clip(np.rint((ordered[k] - reached) / scale), -MOST_STEPS, MOST_STEPS)
        reached = reached + steps[k] * scale
    return scales + pack((steps + MOST_STEPS).astype(np.uint8), STEP_BITS)


def _decode_steps(book: bytes, count: int, size: int) -> Matrix:
    """Returns centroids of shape (L, s)."""
    scales = decode_halves(book, count)
    steps = unpack(book[halves_bytes(count) :], STEP_BITS, count * size).astype(np.int8) - MOST_STEPS
    if int(steps.max()) > MOST_STEPS:
        raise WireError("range", f"a difference of {int(steps.max())} steps")
    with np.errstate(over="ignore"):
        centroids = np.cumsum(steps.reshape(count, size) * scales[:, None], axis=0, dtype=np.float32)
    if not np.isfinite(centroids).all():
        raise WireError("not-finite", "a sum of differences")
    return centroids
