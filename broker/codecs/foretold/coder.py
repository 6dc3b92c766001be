"""Codes of a feature map or a series in few bytes, where codewords of neighbours foretell them.

Codes are read from the middle of a tile outwards. By then three neighbours of a code are known, and the
codeword nearest to beside + above - across is the guess (the gradient of LOCO-I, Weinberger, Seroussi,
Sapiro 2000, with vectors for numbers). Instead of the code its rank is sent: 0 for the guess itself, 1 for
the codeword nearest to the guess, and so on. So nothing about the codes needs to be learnt from them, and
ranks have few bits from the first one on.

Ranks are coded in few groups, see `closeness.GROUPS`: the better the neighbours agree, the more often the
guess is right. As groups do not depend on each other, a receiver reads the bits of all ranks at once, and
then, in a step for each distance from the middle, makes codes of them.

docs/protocol.md describes the bytes.
"""

import numpy as np
import numpy.typing as npt

from broker.codecs.base import Matrix
from broker.codecs.foretold.closeness import IN_THE_MIDDLE, closeness
from broker.codecs.foretold.order import outwards
from broker.codecs.foretold.ranks import MOST_GROUPS, MOST_RANKS, decode_ranks, encode_ranks
from broker.wire.errors import WireError

Codes = npt.NDArray[np.uint8]


def encode_foretold(codes: Codes, width: int, codewords: Matrix) -> bytes:
    """Returns the bytes of codes, of which `decode_foretold` makes them again.

    Args:
        codes: shape (n, q), 1 to MOST_RANKS of them, each below L.
        width: Codes in a line of a row, so that codes have a neighbour above; 1 where there are no lines.
        codewords: shape (L, s), as the receiver has them; 2 to 256.
    """
    order, close = outwards(*codes.shape, width), closeness(codewords)
    count, first = len(codewords), order.ends[0]
    known = codes.reshape(-1).take(order.places).astype(np.int64)
    guesses = np.full(known.size, close.middle)
    groups = np.full(known.size, IN_THE_MIDDLE, np.uint8)
    guesses[first:], groups[first:] = close.guesses_and_groups(*order.of_neighbours(known, first, known.size))
    rank_of = np.empty(count * count, np.uint8)
    rank_of[close.nearest + count * np.arange(count)[:, None]] = np.arange(count, dtype=np.uint8)
    guesses *= count
    guesses += known
    return encode_ranks(rank_of.take(guesses), groups, count - 1)


def decode_foretold(data: bytes, shape: tuple[int, int], width: int, codewords: Matrix) -> Codes:
    """Returns the codes; parameters as of `encode_foretold`.

    Raises:
        WireError: "too-large" for no codes or more than MOST_RANKS, "malformed" when ranks are left over, and
            as `decode_ranks` does.
    """
    total, count = shape[0] * shape[1], len(codewords)
    if not 0 < total <= MOST_RANKS:
        raise WireError("too-large", f"{total} foretold codes; 1 to {MOST_RANKS} can be")
    ranks, least = decode_ranks(data, total, count - 1)
    order, close = outwards(*shape, width), closeness(codewords)
    nearest = close.nearest.reshape(-1)
    first = order.ends[0]
    known = np.empty(total, np.int64)
    groups_at = total * np.arange(MOST_GROUPS)
    known[:first] = close.nearest[close.middle].take(ranks[groups_at[IN_THE_MIDDLE] :][:first])
    groups_at[IN_THE_MIDDLE] += first
    numbers = np.arange(total)
    for end in order.ends[1:]:
        beside, above, across = order.of_neighbours(known, first, end)
        guesses, groups = close.guesses_and_groups(beside, above, across)
        by_group = groups.argsort(kind="stable")
        lengths = np.bincount(groups, minlength=MOST_GROUPS)
        ahead = groups_at - lengths.cumsum()
        ahead += lengths
        groups_at += lengths
        at = ahead.repeat(lengths)
        at += numbers[: end - first]
        of_step = np.empty(end - first, np.uint8)
        of_step[by_group] = ranks.take(at)
        guesses *= count
        guesses += of_step
        known[first:end] = nearest.take(guesses)
        first = end
    if (groups_at - total * np.arange(MOST_GROUPS) < least).any():
        raise WireError("malformed", "ranks of which some are left over")
    codes = np.empty(total, np.uint8)
    codes[order.places] = known
    return codes.reshape(shape)
