"""Rows that are not zero: what a batch changes of an embedding."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from broker.codecs.base import Codec, Matrix
from broker.codecs.coding.elias_fano import Positions
from broker.codecs.coding.factors import MAX_RANK
from broker.codecs.coding.row_set import decode_rows, encode_rows, most_bytes
from broker.codecs.coding.row_values import check_bits, quantized, read_rows, rows_bytes, some_rows
from broker.codecs.heads.low_rank import LowRank


@dataclass(frozen=True, slots=True)
class TouchedRows(Codec):
    """The rows that have a value other than 0; the others arrive as zeros.

    Only the rows of words that occur in a batch have a gradient, a few hundred of an embedding's thousands.
    Of a head each parameter tensor is a matrix, so its rows are those of the model. Of the other layers of
    such a head, as an LSTM, every row is touched: with a `rank` they travel as `LowRank` does.

    Equation: y = x with 32 bits; float16 with 16; else y = a i with the integer i that is nearest to x / a,
    and a scale a for each row (see `coding.row_values`). With 4 bits many small values of a row become 0: see
    `flows.error_feedback`.

    Bytes: which k rows (see `coding.row_set`), then their values (see `coding.row_values`).
    Size: about k (d b / 8 + 2 ceil(d / 256)) and at most one bit for each of the n rows; it depends on k.

    Attributes:
        codec: Name in scenarios and on the wire.
        bits: b, of a value: 4, 8, 16 or 32.
        rank: r, 1 to 64, of the products that all of a head travels as that is not an embedding; 0: as rows.
    """

    sees_shapes: ClassVar[bool] = True
    codec: Literal["touched_rows"] = "touched_rows"
    bits: int = 8
    rank: int = 0

    def __post_init__(self) -> None:
        check_bits(self.bits)
        if not 0 <= self.rank <= MAX_RANK:
            raise ValueError(f"rank must be 0 to {MAX_RANK}, not {self.rank}")

    @property
    def of_others(self) -> Codec:
        """The codec of those parts of a head that are no embeddings."""
        return LowRank(rank=self.rank, bits=self.bits) if self.rank else self

    def encode(self, x: Matrix, rng: np.random.Generator) -> bytes:  # noqa: ARG002 - nothing is random here
        """See `Codec.encode`."""
        rows = np.flatnonzero(x.any(axis=1))
        return encode_rows(rows, len(x)) + quantized(x[rows], self.bits).to_bytes()

    def decode(self, payload: bytes, n: int, d: int) -> Matrix:
        """See `Codec.decode`."""
        rows, rest = decode_rows(payload, n)
        y = np.zeros((n, d), np.float32)
        y[rows] = read_rows(rest, rows.size, d, self.bits).vectors()
        return y

    def part(self, payload: bytes, wanted: Positions, n: int, d: int) -> bytes:
        """Returns a payload of those rows in `payload` that are wanted; they arrive as they would in that.

        Args:
            payload: of a matrix of shape (n, d); nothing in it is decoded.
            wanted: numbers of rows, ascending.
            n: rows of the matrix.
            d: values of a row.
        """
        rows, rest = decode_rows(payload, n)
        chosen = np.flatnonzero(np.isin(rows, wanted, assume_unique=True))
        return encode_rows(rows[chosen], n) + some_rows(rest, rows.size, d, self.bits, chosen)

    def hollow(self, payload: bytes, n: int) -> bytes:
        """Returns a payload of the same rows of n, with zero bytes for values: its parts are as long."""
        _, rest = decode_rows(payload, n)
        return payload[: len(payload) - len(rest)] + bytes(len(rest))

    def size_bytes(self, n: int, d: int) -> int:
        """See `Codec.size_bytes`; the payload of fewer rows is shorter."""
        return most_bytes(n, rows_bytes(n, d, self.bits), rows_bytes(n - 1, d, self.bits))

    def fits(self, payload_bytes: int, n: int, d: int) -> bool:
        """See `Codec.fits`."""
        return 0 < payload_bytes <= self.size_bytes(n, d)
