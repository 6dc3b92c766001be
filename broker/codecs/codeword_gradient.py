"""The tensors that travel: activations up, their gradient down, heads both ways.

A gradient may be one mean for each codeword of its activations. What arrives is checked here for its
magnitude, and whatever a decoder makes of hostile bytes, its caller gets arrays or a WireError.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar, cast

import numpy as np

from broker.codecs.base import ClusteringCodec, Codec, Codewords, Matrix
from broker.codecs.coding.factors import MAX_RANK
from broker.codecs.heads.low_rank import LowRank
from broker.codecs.stochastic_int import Int4, Int8
from broker.wire.errors import WireError

T = TypeVar("T")

LARGEST_AT_CUT = 2.0**32
"""The largest magnitude of activations and their gradients that is accepted.

Squares of such values, and their products with parameters up to 2**24, can be summed 2**60 times before
float32 overflows at 2**128. Networks that learn stay many orders of magnitude below.
"""

LARGEST_PARAMETER = 2.0**24
"""The largest magnitude in a head or a change of it that is accepted.

From here on float32 cannot add 1 to a parameter. Sums of such changes, weighted by 2**31 samples, are finite.
"""


@dataclass(frozen=True, slots=True)
class CodewordMean:
    """For `gradient_down`: each codeword of the activations has one gradient, the mean over its sub-vectors.

    Both sides know the codewords already, so only the K means travel, as integers (see `Int4`, `Int8`).
    It suits heads that treat all sub-vectors alike, as convolutions do when a sub-vector has all channels of
    a pixel. The gradient of a weight is then a sum over sub-vectors: dh/dz times the weight's input there.
    Sub-vectors with the same codeword had similar inputs. So the sum hardly changes when their dh/dz are
    averaged first, even where each dh/dz differs much from the mean.

    Equation: y_i = mean of x_j over all sub-vectors j of the batch that have the codeword of i.
    Bytes and size: as of `Int4` or `Int8` for a matrix of shape (K, s), a codeword a row; of codewords that
    stand for no sub-vector, zeros. K = R L with `Pq`, L with `CodedPq`; s = d / q. With a rank the sums over
    each codeword's sub-vectors travel instead, as of `LowRank` for this matrix, in so many bits; both sides
    know the counts to divide by.

    A rank makes the gradient of long sub-vectors smaller. Gradients come out of the tail's first layer and
    depend on few numbers of a sample, so they lie near a space of few dimensions. The head learns from the
    sums: a codeword that stands for many sub-vectors counts as often. So it is the sums that are to be near.

    Attributes:
        codec: Name in scenarios and on the wire.
        bits: 4 or 8.
        rank: r, 1 to 64; 0: the means travel, and are no product.
    """

    codec: Literal["codeword_mean"] = "codeword_mean"
    bits: int = 8
    rank: int = 0

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise ValueError(f"bits must be 4 or 8, not {self.bits}")
        if not 0 <= self.rank <= MAX_RANK:
            raise ValueError(f"rank must be 0 to {MAX_RANK}, not {self.rank}")


GradientCodec = Codec | CodewordMean


_clusters: dict[type[Codec], bool] = {}
"""By class: to tell, Python looks at all members of the protocol, which takes longer than a small batch."""


def clustering(codec: Codec) -> ClusteringCodec | None:
    """Returns the codec if it has codewords, else None."""
    kind = type(codec)
    if kind not in _clusters:
        _clusters[kind] = isinstance(codec, ClusteringCodec)
    return cast("ClusteringCodec", codec) if _clusters[kind] else None


def encode_activations(
    codec: Codec, z: Matrix, rng: np.random.Generator
) -> tuple[bytes, Matrix, Codewords | None]:
    """Returns z's payload and what `decode_activations` would make of it; raises as `Codec.encode` does."""
    clusters = clustering(codec)
    if clusters is None:
        payload = codec.encode(z, rng)
        return payload, codec.decode(payload, *z.shape), None
    payload, codewords = clusters.cluster(z, rng)
    return payload, codewords.vectors(), codewords


def decode_activations(codec: Codec, payload: bytes, n: int, d: int) -> tuple[Matrix, Codewords | None]:
    """Returns z~, shape (n, d), and its codewords if there are any.

    Raises:
        WireError: as `Codec.decode` does; "range" for a magnitude above LARGEST_AT_CUT.
    """
    clusters = clustering(codec)
    if clusters is None:
        return _bounded(_guarded(lambda: codec.decode(payload, n, d)), LARGEST_AT_CUT), None
    codewords = _guarded(lambda: clusters.codewords(payload, n, d))
    _bounded(codewords.book, LARGEST_AT_CUT)
    return codewords.vectors(), codewords


def decode_update(codec: Codec, payload: bytes, size: int) -> Matrix:
    """Returns a head, or a change of it, shape (size,); the twin of `decode_activations` for these two flows.

    Raises:
        WireError: as `Codec.decode` does; "range" for a magnitude above LARGEST_PARAMETER.
    """
    return _bounded(_guarded(lambda: codec.decode(payload, 1, size)), LARGEST_PARAMETER).reshape(size)


def encode_gradient(
    codec: GradientCodec, gradient: Matrix, codewords: Codewords | None, rng: np.random.Generator
) -> bytes:
    """Encodes dh/dz~, shape (n, d), of activations with these codewords; raises as `Codec.encode` does."""
    if isinstance(codec, CodewordMean):
        sums, counts = _sums(gradient, _known(codewords))
        return _of_means(codec).encode(sums if codec.rank else sums / counts, rng)
    return codec.encode(gradient, rng)


def decode_gradient(
    codec: GradientCodec, payload: bytes, codewords: Codewords | None, n: int, d: int
) -> Matrix:
    """Returns dh/dz~, shape (n, d), of activations with these codewords.

    Raises:
        WireError: as `Codec.decode` does; "range" for a magnitude above LARGEST_AT_CUT.
    """
    if isinstance(codec, CodewordMean):
        book, codes = _known(codewords)
        means = _guarded(lambda: _of_means(codec).decode(payload, *book.shape))
        if codec.rank:
            means /= _counts(_known(codewords))
        return Codewords(_bounded(means, LARGEST_AT_CUT), codes).vectors()
    return _bounded(_guarded(lambda: codec.decode(payload, n, d)), LARGEST_AT_CUT)


def gradient_bytes(codec: GradientCodec, activations: Codec, n: int, d: int) -> int:
    """Returns the length of a gradient of shape (n, d); see `Codec.size_bytes`."""
    if isinstance(codec, CodewordMean):
        clusters = clustering(activations)
        assert clusters is not None
        return _of_means(codec).size_bytes(clusters.codewords_count, d // clusters.subvectors)
    return codec.size_bytes(n, d)


def _guarded(decode: Callable[[], T]) -> T:
    """Returns what a decoder gives; an exception that it did not mean to raise is a WireError, too."""
    try:
        return decode()
    except WireError:
        raise
    except Exception as error:
        raise WireError("malformed", f"{type(error).__name__}: {error}") from error


def _bounded(values: Matrix, largest: float) -> Matrix:
    """Returns the values if none has a magnitude above `largest`; NaN counts as one."""
    peak = max(float(values.max(initial=0)), -float(values.min(initial=0)))
    if not peak <= largest:
        raise WireError("range", f"a value of magnitude {peak:.3g}, at most {largest:.3g} is accepted")
    return values


def _of_means(codec: CodewordMean) -> Codec:
    if codec.rank:
        return LowRank(rank=codec.rank, bits=codec.bits)
    return Int8() if codec.bits == 8 else Int4()  # noqa: PLR2004


def _known(codewords: Codewords | None) -> Codewords:
    assert codewords is not None, "codeword_mean goes with activations that have codewords"
    return codewords


def _counts(codewords: Codewords) -> Matrix:
    """Returns how many sub-vectors each codeword stands for, shape (K, 1); 1 for none."""
    counts = np.bincount(codewords.codes.reshape(-1), minlength=len(codewords.book))
    return np.maximum(counts, 1).astype(np.float32)[:, None]


def _sums(gradient: Matrix, codewords: Codewords) -> tuple[Matrix, Matrix]:
    """Returns the sum over each codeword's sub-vectors, shape (K, s), and their counts; see `_counts`."""
    codes = codewords.codes.reshape(-1)
    order = np.argsort(codes, kind="stable")
    used, starts = np.unique(codes[order], return_index=True)
    sums = np.zeros_like(codewords.book)
    sums[used] = np.add.reduceat(gradient.reshape(codes.size, -1)[order], starts, axis=0)
    return sums, _counts(codewords)
