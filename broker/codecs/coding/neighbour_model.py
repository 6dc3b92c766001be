"""How likely a code is next to its neighbours, and in which order codes are coded.

For each pair of neighbours, the code before and the code above, sender and receiver count alike which codes
occurred, and share out 2**12 slots among the codes accordingly. All of that is done in integers. Where floats
are divided below, both are integers below 2**53 and their quotient is below 2**13, so that cutting off its
fraction is exact.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from broker.wire.bits import bits_for

Integers = npt.NDArray[np.int64]  # all of one type, so that numpy converts nothing
SmallCodes = npt.NDArray[np.uint8]

BITS = 8  # of a byte
MODELLED_BITS = 6  # of a code; the bits below are packed as they are
SLOT_BITS = 12
CLASS_BITS = 4  # neighbours that have these highest bits in common count as the same
GAIN = 8.0  # what an occurrence counts, and likeness to a neighbour
LEARNING = 4  # slots are shared out anew when a quarter more codes have been counted
TILE_LINES, TILE_COLUMNS = 16, 64
TILES_A_STEP, LATEST_START = 4, 8


class Order(NamedTuple):
    """In which order codes are coded.

    Attributes:
        places: shape (n q,), where each code stands in the matrix.
        left, above: the neighbours of each code as numbers in this order, counted from 1; 0 stands for none.
        ends: where steps end.
    """

    places: Integers
    left: Integers
    above: Integers
    ends: list[int]


@lru_cache(maxsize=8)
def coding_order(n: int, q: int, width: int) -> Order:
    """Returns the order of n rows of q codes; no code is in the same step as its neighbours, or before."""
    width = q if width == 1 else min(width, q)
    steps = _steps(n, q, width)
    places = np.argsort(steps, kind="stable")
    number = np.zeros(n * q + 1, np.int64)
    number[places] = np.arange(1, n * q + 1)
    place = np.arange(q)
    first = q * np.arange(n)[:, None]
    has_left = place % width % TILE_COLUMNS > 0
    has_above = place // width % TILE_LINES > 0
    left = number[np.where(has_left, place - 1 + first, n * q).reshape(-1)[places]]
    if width == q:
        above = left
    else:
        above = number[np.where(has_above, place - width + first, n * q).reshape(-1)[places]]
    return Order(places, left, above, np.unique(np.bincount(steps).cumsum()).tolist())


def _steps(n: int, q: int, width: int) -> SmallCodes:
    """Returns the step of each code, shape (n q,)."""
    place = np.arange(q)
    line, column = place // width, place % width
    tiles_a_line, tiles_high = -(-width // TILE_COLUMNS), -(-q // (width * TILE_LINES))
    tile = line // TILE_LINES * tiles_a_line + column // TILE_COLUMNS
    tiles = tile + tiles_a_line * tiles_high * np.arange(n)[:, None]
    starts: SmallCodes = np.minimum(tiles // TILES_A_STEP, LATEST_START).astype(np.uint8)
    starts += (line % TILE_LINES + column % TILE_COLUMNS).astype(np.uint8)
    return starts.reshape(-1)


class Model:
    """Shares out the slots of each context among the codes. A context is a pair of neighbours' classes.

    Attributes:
        bounds: shape (contexts * levels + 1,). Number context * levels + code has the first slot of the code,
            plus 2**12 * context; the number after it tells where its slots end.
        code_of, class_of: the code of each number; its class as a neighbour, times 2**12.
        classes: how many classes there are.
    """

    def __init__(self, levels: int) -> None:
        self.levels = levels
        self.classes, self.code_of, self.class_of, counts, bounds = _beginning(levels)
        self.bounds = bounds.copy()
        self._counts = counts.copy()
        self._ends = self.bounds[1:].reshape(counts.shape)
        self._numbers: list[Integers] = []
        self._learnt = self._fresh = 0

    def count(self, numbers: Integers) -> None:
        """Takes note of the codes that occurred, in their contexts."""
        self._numbers.append(numbers)
        self._fresh += numbers.size

    def end_step(self) -> None:
        """Shares out slots anew, if many codes have been counted since it was done last."""
        if self._fresh * LEARNING < self._learnt:
            return
        fresh = np.concatenate(self._numbers)
        np.add.at(self._counts.reshape(-1), fresh, GAIN)
        contexts = np.bincount(fresh // self.levels).nonzero()[0]
        self._ends[contexts] = _shared_out(self._counts[contexts]) + (contexts << SLOT_BITS)[:, None]
        self._learnt, self._fresh, self._numbers = self._learnt + self._fresh, 0, []


@lru_cache(maxsize=8)
def _beginning(levels: int) -> tuple[int, SmallCodes, Integers, npt.NDArray[np.float64], Integers]:
    """Returns what a model begins with: the number of classes, codes, classes, counts and bounds."""
    shift = max(0, bits_for(levels) - CLASS_BITS)
    classes = (levels - 1 >> shift) + 1
    like = (np.arange(classes)[:, None] == np.arange(levels) >> shift).astype(np.float64)
    counts = (1 + GAIN * (like[:, None] + like[None])).reshape(-1, levels)
    code_of = np.tile(np.arange(levels, dtype=np.uint8), classes**2)
    bounds = np.zeros(counts.size + 1, np.int64)
    bounds[1:] = (_shared_out(counts) + (np.arange(classes**2) << SLOT_BITS)[:, None]).reshape(-1)
    return classes, code_of, (code_of >> shift).astype(np.int64) << SLOT_BITS, counts, bounds


def _shared_out(counts: npt.NDArray[np.float64]) -> Integers:
    """Returns where each code's slots end: every code has one, and of the others its share by counts.

    Both have shape (contexts, levels).
    """
    levels = counts.shape[1]
    sums = counts.cumsum(axis=1)
    ends: Integers = (sums * (2**SLOT_BITS - levels) / sums[:, -1:]).astype(np.int64)
    ends += np.arange(1, levels + 1)
    return ends


def expected_bytes(codes: npt.NDArray[np.unsignedinteger[Any]], levels: int, width: int) -> float:
    """Returns about how many bytes coding takes: that of codes whose counts are known at once.

    The order in which occurrences are counted does not change their product, so that a sum over counts is
    enough. With more than 16 levels only the neighbour before is looked at.

    Args:
        codes: shape (n, q), each below `levels`.
        levels: 2 to 256.
        width: as of `coding.neighbour_coder.encode_codes`.
    """
    low_bits = max(0, bits_for(levels) - MODELLED_BITS)
    high, levels = codes >> low_bits, (levels - 1 >> low_bits) + 1
    has_above = 1 < width < codes.shape[1] and levels <= 1 << CLASS_BITS
    shift, likeness = _likeness(levels, has_above)
    numbers = np.zeros(codes.shape, np.uint16)  # below 2**12
    numbers[:, 1:] = high[:, :-1] >> shift
    if has_above:
        numbers *= levels
        numbers[:, width:] += high[:, :-width]
    numbers *= levels
    numbers += high
    counts = np.bincount(numbers.reshape(-1), minlength=likeness.size)
    occurring = counts.nonzero()[0]
    often, alike = counts.take(occurring), likeness.take(occurring)
    bits = _bits_of_counts(levels + 2 * GAIN, codes.size).take(counts.reshape(-1, levels).sum(axis=1)).sum()
    for each in range(3):
        bits -= _bits_of_counts(1 + each * GAIN, codes.size).take(often[alike == each]).sum()
    return float(bits + low_bits * codes.size) / BITS


@lru_cache(maxsize=8)
def _likeness(levels: int, has_above: bool) -> tuple[int, SmallCodes]:
    """Returns by how many bits codes are shifted to be classes, and of how many neighbours' class a code is.

    The latter for all codes in all contexts, a context being a class or two.
    """
    shift = max(0, bits_for(levels) - CLASS_BITS)
    like = (np.arange((levels - 1 >> shift) + 1)[:, None] == np.arange(levels) >> shift).astype(np.uint8)
    return shift, (like[:, None] + like[None] if has_above else 2 * like).reshape(-1)


@lru_cache(maxsize=32)
def _bits_of_counts(begun: float, most: int) -> npt.NDArray[np.float64]:
    """Returns log2 of the product of the counts that a code has had when it occurs for the k-th time, by k.

    In units of GAIN; the first count is `begun`.
    """
    logarithms = np.log2(np.arange(most) + begun / GAIN)
    return np.concatenate((np.zeros(1), logarithms.cumsum()))
