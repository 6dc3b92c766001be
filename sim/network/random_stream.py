"""Random numbers for a run's network, drawn in blocks: one by one they would cost ten times as much."""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

BLOCK = 1024


class RandomStream:
    """A stream of standard normal and one of uniform numbers.

    The network's devices share it. Virtual time is deterministic, so who draws which number is so too.

    Args:
        rng: where they come from.

    Attributes:
        normal: gives the next standard normal number.
        uniform: gives the next number in [0, 1).
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.normal = _one_by_one(rng.standard_normal).__next__
        self.uniform = _one_by_one(rng.random).__next__


def _one_by_one(block: Callable[[int], npt.NDArray[np.float64]]) -> Iterator[float]:
    while True:
        yield from block(BLOCK).tolist()
