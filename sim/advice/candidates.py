"""Which codecs are worth a try at a cut, by its size and layout."""

from collections.abc import Iterator
from itertools import product

from broker.codecs import Codec, CodedPq, CodewordMean, Float16, Float32, GradientCodec, Int2, Int4, Int8, Pq
from broker.codecs.pq import MAX_CENTROIDS, MAX_SUBVECTORS

SIZES = (2, 4, 8, 16, 32, 64)
"""Lengths of a sub-vector, d / q, as far as d has divisors near them."""
CENTROIDS = (2, 4, 8, 16, 32)
MANY_CENTROIDS = (64, 128, 256)
"""Tried with a codebook that is a product of thin matrices, of each of RANKS; else it is too large."""
RANKS = (8, 16)
MEANS_RANK = 4
"""Of the means of more than FEW_CODEWORDS codewords."""
FEW_CODEWORDS = 16
GROUPS = 8
"""Of several groups, so many are tried: one for each eighth of the positions; and one for each position."""
LEAST_POINTS = 4
"""Sub-vectors that a centroid must stand for on average, so that its place in the codebook is worth it."""


def codecs_at_cut(cut_shape: tuple[int, ...], d: int, n: int) -> list[Codec]:
    """Give the codecs to measure on activations of n samples of d values, and on their gradients.

    Args:
        cut_shape: of one sample, channels last.
        d: its values.
        n: samples of a batch.
    """
    plain: list[Codec] = [Float32(), Float16(), Int8(), Int4(), Int2()]
    return plain + [codec for codec in _clustering(cut_shape, d, n) if _is_worth_it(codec, n, d)]


def means_of(activations: Codec) -> list[GradientCodec]:
    """Give the codecs of gradients that go with this one of the activations alone, if it has codewords."""
    if not isinstance(activations, Pq | CodedPq):
        return []
    ranks = (0, MEANS_RANK) if activations.codewords_count > FEW_CODEWORDS else (0,)
    return [CodewordMean(bits=bits, rank=rank) for bits in (8, 4) for rank in ranks]


def _clustering(cut_shape: tuple[int, ...], d: int, n: int) -> Iterator[Codec]:
    for size in sizes_of(d):
        subvectors = d // size
        if subvectors > MAX_SUBVECTORS:
            continue
        for centroids in CENTROIDS:
            for groups in _groups(subvectors):
                if n * subvectors >= LEAST_POINTS * centroids * groups and centroids <= MAX_CENTROIDS:
                    yield Pq(subvectors=subvectors, groups=groups, centroids=centroids)
            if n * subvectors >= LEAST_POINTS * centroids:
                yield CodedPq(subvectors=subvectors, centroids=centroids, width=width_of(cut_shape, size))
        for centroids, rank in product(MANY_CENTROIDS, RANKS):
            is_smaller = rank * (centroids + size) < centroids * size
            if is_smaller and n * subvectors >= LEAST_POINTS * centroids:
                yield CodedPq(
                    subvectors=subvectors, centroids=centroids, width=width_of(cut_shape, size), rank=rank
                )


def sizes_of(d: int) -> list[int]:
    """Give the divisors of d that are nearest to SIZES, each once, from small to large; none of 1."""
    divisors = [size for size in range(2, min(d, 2 * SIZES[-1]) + 1) if d % size == 0]
    return sorted(
        {min(divisors, key=lambda size: (abs(size - wanted), size)) for wanted in SIZES if divisors}
    )


def _groups(subvectors: int) -> list[int]:
    """Give how many groups to try: one, one for each position, and something in between."""
    between = [groups for groups in range(2, GROUPS + 1) if subvectors % groups == 0]
    return sorted({1, max(between, default=1), subvectors})


def width_of(cut_shape: tuple[int, ...], size: int) -> int:
    """Give the sub-vectors in a line of the feature map; 1 where there are no lines."""
    if len(cut_shape) < 3:  # noqa: PLR2004  height, width, channels
        return 1
    line = cut_shape[-2] * cut_shape[-1]
    return line // size if line % size == 0 else 1


def _is_worth_it(codec: Codec, n: int, d: int) -> bool:
    """Say whether a codec takes fewer bytes than eight bits a value do."""
    return codec.size_bytes(n, d) < Int8().size_bytes(n, d)
