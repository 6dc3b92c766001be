"""How near codewords are to each other, and which one the neighbours of a code make likely.

Sender and receiver must agree on every bit of that, on any machines. So codewords are rounded to integers, so
small that all sums of products below are whole numbers under 2**24: float32 has them exactly, in whatever
order a matrix product adds them up.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from broker.codecs.base import Matrix

Integers = npt.NDArray[np.int64]
Groups = npt.NDArray[np.uint8]

SQUARE_BITS = 22  # of the sum of a codeword's squares
NUMBER_BITS = 8  # of a codeword's number
SMALLEST = 1e-30  # where no value is above it, all codewords count as equal
GROUPS = 7
"""Ranks are coded in groups: of codes in the middle of a tile (6), and for the others twice how many of its
two inner neighbours have the same code as the one across, plus 1 if the guess is codeword 0."""
IN_THE_MIDDLE = 6
TABLED = 8  # up to so many codewords, guesses are looked up
SCORES_AT_ONCE = 2**15  # so that they stay in the processor's cache


@dataclass(frozen=True)
class Closeness:
    """Distances between codewords.

    Attributes:
        squares: shape (L, L), int32, squared distances of the rounded codewords, a quarter of them.
        nearest: shape (L, L), the numbers of all codewords, the nearest to the row's one first.
        middle: the codeword with the smallest sum of `squares`.
    """

    squares: npt.NDArray[np.int32]
    nearest: npt.NDArray[np.uint8]
    middle: int

    @cached_property
    def twice(self) -> npt.NDArray[np.int32]:
        """Twice `squares`."""
        return self.squares * np.int32(2)

    def guesses(self, beside: Integers, above: Integers, across: Integers) -> Integers:
        """Returns the codewords nearest to beside + above - across; all arguments and the result are alike.

        If the values of a map change evenly, this is the value at the code: what lies across is as far from
        the one neighbour as the other neighbour is from the code. Distances tell which codeword is nearest:
        |a + b - c - w|^2 is |a - w|^2 + |b - w|^2 - |c - w|^2, and something that is the same for all w.
        """
        piece = max(1, SCORES_AT_ONCE // len(self.squares))
        if len(beside) <= piece:
            return self._guesses(beside, above, across)
        parts = [slice(start, start + piece) for start in range(0, len(beside), piece)]
        if beside is above:
            return np.concatenate([self._guesses(beside[i], None, across[i]) for i in parts])
        return np.concatenate([self._guesses(beside[i], above[i], across[i]) for i in parts])

    def _guesses(self, beside: Integers, above: Integers | None, across: Integers) -> Integers:
        if above is None or above is beside:
            scores = self.twice.take(beside, axis=0)
        else:
            scores = self.squares.take(beside, axis=0)
            scores += self.squares.take(above, axis=0)
        scores -= self.squares.take(across, axis=0)
        guesses: Integers = scores.argmin(axis=1)
        return guesses

    def guesses_and_groups(
        self, beside: Integers, above: Integers, across: Integers
    ) -> tuple[Integers, Groups]:
        """Returns `guesses`, and the group of each code's rank."""
        count = len(self.squares)
        if count > TABLED:
            guesses = self.guesses(beside, above, across)
            return guesses, groups_of(beside, above, across, guesses)
        guesses, groups = self._table
        three = beside * count
        three += above
        three *= count
        three += across
        return guesses.take(three), groups.take(three)

    @cached_property
    def _table(self) -> tuple[Integers, Groups]:
        count = len(self.squares)
        beside, above, across = np.indices((count, count, count)).reshape(3, -1)
        guesses = self.guesses(beside, above, across)
        return guesses, groups_of(beside, above, across, guesses)


def groups_of(beside: Integers, above: Integers, across: Integers, guesses: Integers) -> Groups:
    """Returns the group of each code that is not in the middle of its tile."""
    groups: Groups = (beside == across).view(np.uint8)
    groups += groups if beside is above else (above == across).view(np.uint8)
    groups += groups
    groups += (guesses == 0).view(np.uint8)
    return groups


def closeness(codewords: Matrix) -> Closeness:
    """Returns the distances between codewords, shape (L, s), which are finite; L is at most 256."""
    count, size = codewords.shape
    largest = float(np.abs(codewords).max())
    most = 2.0 ** (SQUARE_BITS // 2 - -(-(size - 1).bit_length() // 2))  # its square times s has 22 bits
    scale = np.float32(most / largest if largest > SMALLEST else 0)
    rounded = np.rint(codewords * scale)
    products = (rounded @ rounded.T).astype(np.int32)
    own = products.diagonal()
    squares = (own[:, None] + own - 2 * products) >> 2
    keys = squares << NUMBER_BITS
    keys |= np.arange(count, dtype=np.int32)  # so that all differ, and any way to sort gives the same
    keys.sort(axis=1)
    nearest = keys.astype(np.uint8)  # the numbers, in the lowest bits
    return Closeness(squares, nearest, int(squares.sum(axis=1).argmin()))
