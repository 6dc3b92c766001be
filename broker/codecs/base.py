"""What every codec is."""

from typing import NamedTuple, Protocol

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


class Codewords(NamedTuple):
    """A clustered batch: n rows of q sub-vectors, each of which has one of K codewords of s values.

    Attributes:
        book: shape (K, s).
        codes: of each sub-vector's codeword, 0 to K - 1, shape (n, q).
    """

    book: Matrix
    codes: npt.NDArray[np.integer]

    def vectors(self) -> Matrix:
        """Returns the codewords in their places, shape (n, q s)."""
        return np.take(self.book, self.codes, axis=0, mode="clip").reshape(len(self.codes), -1)


class ClusteringCodec(Codec, Protocol):
    """A codec that has a codeword stand for each sub-vector."""

    @property
    def subvectors(self) -> int:
        """The q sub-vectors of a row."""
        ...

    @property
    def codewords_count(self) -> int:
        """The K codewords of a batch."""
        ...

    def cluster(self, x: Matrix, rng: np.random.Generator) -> tuple[bytes, Codewords]:
        """Returns what `encode` would, and what `codewords` would make of it."""
        ...

    def codewords(self, payload: bytes, n: int, d: int) -> Codewords:
        """Returns the codewords whose `vectors` are what `decode` would return; raises as it does."""
        ...
