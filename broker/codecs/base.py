"""What every codec is."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]


class Codec(Protocol):
    """Turns a float32 matrix (n, d) into bytes and back.

    n is the number of samples of a batch and d the size of one activation; updates of the head are one row.
    Codecs are frozen dataclasses without state: everything random comes from the generator they are given.
    """

    @property
    def codec(self) -> str:
        """Name in scenarios and on the wire."""
        ...

    def check(self, d: int) -> None:
        """Raises ValueError, naming the parameter, when rows of d values cannot be encoded."""
        ...

    def encode(self, x: Matrix, rng: np.random.Generator) -> bytes:
        """Encodes x, shape (n, d).

        Raises:
            ValueError: "not finite" on NaN and infinities (and, for lossy codecs, on magnitudes of 2**127
                and more, which the receiver could not represent).
        """
        ...

    def decode(self, payload: bytes, n: int, d: int) -> Matrix:
        """Returns a new array of shape (n, d).

        Raises:
            WireError: "shape" on a wrong length, "not-finite" on NaN and infinities, "range" on codes that
                stand for nothing, "malformed" on pad bits that are not zero.
        """
        ...

    def size_bytes(self, n: int, d: int) -> int:
        """Length of the payload of every matrix of shape (n, d); of `CodedPq`, the greatest length."""
        ...
