"""Rows that are not zero: what a batch changes of an embedding."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from broker.codecs.base import Codec, Matrix
from broker.codecs.coding.elias_fano import Positions
from broker.codecs.coding.row_set import decode_rows, encode_rows, most_bytes
from broker.codecs.coding.row_values import WIDTHS, RowValues, quantized, read_rows, rows_bytes


@dataclass(frozen=True, slots=True)
class TouchedRows(Codec):
    """The rows that have a value other than 0; the others arrive as zeros.

    Only the rows of words that occur in a batch have a gradient, a few hundred of an embedding's thousands.
    Of a head each parameter tensor is a matrix, so its rows are those of the model.

    Equation: y = x with 32 bits; float16 with 16; else y = a i with the integer i that x / a is rounded to at
    random, so that the mean of y is x, and a scale a for each row (see `coding.row_values`).

    Bytes: which k rows (see `coding.row_set`), then their values (see `coding.row_values`).
    Size: about k (d b / 8 + 2 ceil(d / 256)) and at most one bit for each of the n rows; it depends on k.

    Attributes:
        codec: Name in scenarios and on the wire.
        bits: b, of a value: 4, 8, 16 or 32.
    """

    sees_shapes: ClassVar[bool] = True
    codec: Literal["touched_rows"] = "touched_rows"
    bits: int = 8

    def __post_init__(self) -> None:
        if self.bits not in WIDTHS:
            raise ValueError(f"bits must be 4, 8, 16 or 32, not {self.bits}")

    def encode(self, x: Matrix, rng: np.random.Generator) -> bytes:
        """See `Codec.encode`."""
        rows = np.flatnonzero(x.any(axis=1))
        return self.join(rows, quantized(x[rows], self.bits, rng), len(x))

    def join(self, rows: Positions, values: RowValues, n: int) -> bytes:
        """Returns the payload of some rows of a matrix of n; their values may be zeros, too."""
        return encode_rows(rows, n) + values.to_bytes()

    def rows(self, payload: bytes, n: int, d: int) -> tuple[Positions, Matrix]:
        """Returns which rows of a matrix of shape (n, d) were sent, shape (k,), and their values, (k, d).

        Raises:
            WireError: see `Codec.decode`.
        """
        rows, rest = decode_rows(payload, n)
        return rows, read_rows(rest, rows.size, d, self.bits).vectors()

    def decode(self, payload: bytes, n: int, d: int) -> Matrix:
        """See `Codec.decode`."""
        rows, values = self.rows(payload, n, d)
        y = np.zeros((n, d), np.float32)
        y[rows] = values
        return y

    def size_bytes(self, n: int, d: int) -> int:
        """See `Codec.size_bytes`; the payload of fewer rows is shorter."""
        return most_bytes(n, rows_bytes(n, d, self.bits), rows_bytes(n - 1, d, self.bits))

    def fits(self, payload_bytes: int, n: int, d: int) -> bool:
        """See `Codec.fits`."""
        return 0 < payload_bytes <= self.size_bytes(n, d)
