"""What every codec is."""

from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]

PAPER_FLOAT_BITS = 64
"""Bits of a float in the paper's accounting (arXiv 2201.11865, section 4)."""


class Codec(Protocol):
    """Turns a float32 matrix (n, d) into bytes and back.

    n is the number of samples of a batch and d the size of one activation; updates of the head are one row,
    or a matrix for each parameter tensor, see `sees_shapes`.
    A codec is a frozen dataclass that derives from this class. It has no state: everything random comes from
    the generator that `encode` is given. Its first field is `codec`; the others are its parameters, each with
    a default and of type int or float.

    `encode`, `decode` and `size_bytes` are for the codec to write. The other methods have an answer here that
    suits most codecs.
    """

    __slots__ = ()
    sees_shapes: ClassVar[bool] = False
    """Whether of a head it is given each parameter tensor as a matrix; else one row of all values."""

    @property
    def codec(self) -> str:
        """Name in scenarios and on the wire."""
        ...

    def check(self, d: int) -> None:  # noqa: ARG002 - for other codecs
        """Raises ValueError, naming the parameter, when rows of d values cannot be encoded.

        Here: every d can be.
        """
        return

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
        """Returns the length of the payload of a matrix of shape (n, d), in bytes.

        Where the length depends on the values, the greatest length.
        """
        ...

    def fits(self, payload_bytes: int, n: int, d: int) -> bool:
        """Tells whether a payload of this length can be a matrix of shape (n, d).

        Here: `size_bytes` is the only length.
        """
        return payload_bytes == self.size_bytes(n, d)

    def paper_bits(self, n: int, d: int, payload_bytes: int) -> float:  # noqa: ARG002 - for other codecs
        """Returns the size in bits of activations of shape (n, d) as the paper counts it.

        The paper counts a float as 64 bits and no header. Here, for codecs that it does not know: the bits of
        the payload.
        """
        return 8 * payload_bytes


class Codewords(NamedTuple):
    """A clustered batch: n rows of q sub-vectors, each of which has one of K codewords of s values.

    Attributes:
        book: the codewords, shape (K, s).
        codes: the number of each sub-vector's codeword, 0 to K - 1, shape (n, q).
    """

    book: Matrix
    codes: npt.NDArray[np.integer]

    def vectors(self) -> Matrix:
        """Returns the codewords in their places, shape (n, q s)."""
        return np.take(self.book, self.codes, axis=0, mode="clip").reshape(len(self.codes), -1)


def check_divides(name: str, number: int, d: int) -> None:
    """Raises ValueError when a setting of this name does not divide d; it names the nearest that do."""
    if d % number:
        below = next(q for q in range(min(number, d), 0, -1) if d % q == 0)
        above = next((q for q in range(number, d + 1) if d % q == 0), below)
        fitting = f"{below} does" if above == below else f"{below} and {above} do"
        raise ValueError(f"{name} must divide the {d} values; {number} does not, {fitting}")


@runtime_checkable
class ClusteringCodec(Codec, Protocol):
    """A codec that cuts each row into sub-vectors and sends one of a few codewords in the place of each.

    `cluster`, `codewords` and `codewords_count` are for the codec to write, and `size_bytes`; `encode` and
    `decode` follow from them.
    """

    __slots__ = ()

    @property
    def subvectors(self) -> int:
        """The q sub-vectors of a row."""
        ...

    @property
    def codewords_count(self) -> int:
        """The K codewords of a batch."""
        ...

    def cluster(self, x: Matrix, rng: np.random.Generator) -> tuple[bytes, Codewords]:
        """Returns the payload of x, shape (n, d), and the codewords that `codewords` finds in it.

        Raises:
            ValueError: see `Codec.encode`.
        """
        ...

    def codewords(self, payload: bytes, n: int, d: int) -> Codewords:
        """Returns the codewords whose `vectors` are the decoded matrix of shape (n, d).

        Raises:
            WireError: see `Codec.decode`.
        """
        ...

    def check(self, d: int) -> None:
        """Raises ValueError when `subvectors` does not divide d."""
        check_divides("subvectors", self.subvectors, d)

    def encode(self, x: Matrix, rng: np.random.Generator) -> bytes:
        """See `Codec.encode`."""
        return self.cluster(x, rng)[0]

    def decode(self, payload: bytes, n: int, d: int) -> Matrix:
        """See `Codec.decode`."""
        return self.codewords(payload, n, d).vectors()
