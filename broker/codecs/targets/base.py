"""What every kind of targets is.

Letters: n samples; s the values of one sample's target.
"""

import math
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Values = Array | dict[str, Array]
"""Targets of n samples: an array of shape (n, ...); of several outputs one for each, by its name."""


class Targets(Protocol):
    """A kind of targets. Each is a frozen dataclass that derives from this class.

    `encode`, `decode`, `size_bytes`, `sizes`, `example` and `wire_parts` are for the kind to write. The other
    methods have an answer here that suits most kinds.
    """

    __slots__ = ()

    @property
    def sizes(self) -> set[int]:
        """Every number of classes, and of values along a dimension."""
        ...

    @property
    def has_one_class(self) -> bool:
        """Whether a sample's target is one class and nothing else. Here: it is not."""
        return False

    def encode(self, values: Any) -> bytes:
        """Encodes the targets of n samples, which must be of this kind."""
        ...

    def decode(self, data: bytes, n: int) -> Values:
        """Returns the targets of n samples: int64, or float32 where they are no integers.

        Time and memory grow with `data`, n and s alone.

        Raises:
            WireError: "shape" on a wrong length, "malformed" on pad bits that are not zero, "range" and
                "not-finite" on values that are not of this kind.
        """
        ...

    def size_bytes(self, n: int) -> int:
        """Returns the greatest length of the targets of n samples, that of their plain form."""
        ...

    def fits(self, size_bytes: int, n: int) -> bool:
        """Tells whether so many bytes can be the targets of n samples. Here: if they are not too many."""
        return size_bytes <= self.size_bytes(n)

    def example(self, n: int, rng: np.random.Generator) -> Values:
        """Returns random targets of n samples, to measure with."""
        ...

    def wire_parts(self) -> list[list[str | int]]:
        """Returns what a message says of the kind: of each output its name, kind, levels and s."""
        ...


class Output(Targets, Protocol):
    """A kind of targets that are one array."""

    __slots__ = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample's target."""
        ...

    @property
    def s(self) -> int:
        """Values of one sample's target."""
        return math.prod(self.shape)

    def decode(self, data: bytes, n: int) -> Array:
        """See Targets; an array of shape (n, *shape)."""
        ...


def check_shape(shape: tuple[int, ...]) -> None:
    """Raises ValueError if a sample's target cannot have this shape."""
    if not all(isinstance(size, int) and size >= 1 for size in shape):
        raise ValueError(f"the shape of a target must be whole numbers above 0, not {shape}")
