"""In which order codes are read: from the middle of each tile outwards.

So that all codes at the same distance from their tile's middle are read together, whatever the rows: twelve
lines of twelve codes take 13 steps, which would be 23 from a corner.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

LINES, COLUMNS = 16, 16  # of a tile, at most
COLUMNS_IF_ONE_LINE = 32


class Order(NamedTuple):
    """In which order codes are read.

    Attributes:
        places: shape (n q,), where each code stands in the matrix.
        neighbours: shape (3, n q), the ones beside, above and across of each code as numbers in this order;
            shape (2, n q), beside and across, where there is just one line, so that the one above is the one
            beside. Codes of the first step have none, and zeros here.
        ends: where steps end. All codes of a step come after their neighbours.
    """

    places: Integers
    neighbours: Integers
    ends: list[int]

    def of_neighbours(self, values: Integers, first: int, end: int) -> tuple[Integers, Integers, Integers]:
        """Returns the values beside, above and across of the codes `first` to `end` - 1.

        Above is the very array beside where there is just one line.
        """
        beside, *above, across = values.take(self.neighbours[:, first:end])
        return beside, *(above or (beside,)), across


@lru_cache(maxsize=8)
def outwards(n: int, q: int, width: int) -> Order:
    """Returns the order of n rows of q codes in lines of `width`; of q, where that does not divide q."""
    if width == 1 or q % width:
        width = q
    lines = q // width
    line, column = np.divmod(np.arange(q), width)
    down = _from_the_middle(lines, LINES)[line]
    right = _from_the_middle(width, COLUMNS if lines > 1 else COLUMNS_IF_ONE_LINE)[column]
    step = np.abs(down) + np.abs(right)
    inwards, upwards = np.sign(right), width * np.sign(down)
    here = np.arange(q)
    beside, above, across = here - inwards, here - upwards, here - inwards - upwards
    on_line, on_column = down == 0, right == 0  # of the tile's middle: there are neighbours on one side only
    above[on_line], beside[on_column] = beside[on_line], above[on_column]
    across[on_line] = (here - inwards * np.minimum(np.abs(right), 2))[on_line]
    across[on_column] = (here - upwards * np.minimum(np.abs(down), 2))[on_column]
    places = np.argsort(np.tile(step, n), kind="stable")
    number = np.empty(n * q, np.int64)
    number[places] = np.arange(n * q)
    rows = q * np.arange(n)[:, None]

    def in_order(neighbours: Integers) -> Integers:
        numbers: Integers = number[(neighbours + rows).reshape(-1)[places]]
        numbers[: ends[0]] = 0
        return numbers

    ends = (n * np.bincount(step)).cumsum().tolist() if n * q else []
    neighbours = (beside, above, across) if lines > 1 else (beside, across)
    return Order(places, np.stack([in_order(each) for each in neighbours]), ends)


def _from_the_middle(length: int, most: int) -> Integers:
    """Returns how far each place is behind the middle of its tile; tiles are as even as can be."""
    tiles = -(-length // most)
    starts = np.arange(tiles + 1) * length // tiles
    middles = (starts[:-1] + starts[1:]) // 2
    return np.arange(length) - middles.repeat(np.diff(starts))
