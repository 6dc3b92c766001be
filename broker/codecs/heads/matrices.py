"""A head's parameters as matrices, for codecs that see their shapes.

A parameter tensor has a row for each value of its first dimension: an output, an output channel, a word of an
embedding; a tensor of one dimension is one row. The payloads of the matrices follow one another; before each
but the last stands its length, as LEB128.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from broker.codecs.base import Codec, Matrix
from broker.codecs.coding.elias_fano import Positions
from broker.codecs.coding.places import decode_number, encode_number
from broker.codecs.coding.row_set import decode_rows
from broker.codecs.heads.touched_rows import TouchedRows
from broker.wire.errors import WireError

Shape = tuple[int, int]
"""Rows and columns of a parameter tensor as a matrix."""


def matrix_shape(dimensions: Sequence[int]) -> Shape:
    """Returns the shape of a parameter tensor as a matrix."""
    rows = dimensions[0] if len(dimensions) > 1 else 1
    return rows, math.prod(dimensions) // rows


@dataclass(frozen=True, slots=True)
class Matrices(Codec):
    """Encodes a row of P values as several matrices, one after the other.

    Args:
        of_each: of each matrix.
        shapes: of the matrices, P values together; at least one.
    """

    of_each: Codec
    shapes: tuple[Shape, ...]

    @property
    def codec(self) -> str:
        """See `Codec.codec`."""
        return self.of_each.codec

    def encode(self, x: Matrix, rng: np.random.Generator) -> bytes:
        """See `Codec.encode`."""
        ends = np.cumsum([rows * columns for rows, columns in self.shapes])[:-1]
        parts = zip(np.split(x.reshape(-1), ends), self.shapes, strict=True)
        return _joined([self.of_each.encode(part.reshape(shape), rng) for part, shape in parts])

    def decode(self, payload: bytes, n: int, d: int) -> Matrix:
        """See `Codec.decode`."""
        found: list[Matrix] = []
        for shape in self.shapes[:-1]:
            size, payload = decode_number(payload)
            if size > len(payload) or not self.of_each.fits(size, *shape):
                raise WireError("shape", f"{size} bytes of {len(payload)} for {shape} in {self.of_each}")
            found.append(self.of_each.decode(payload[:size], *shape))
            payload = payload[size:]
        found.append(self.of_each.decode(payload, *self.shapes[-1]))
        return np.concatenate([matrix.reshape(-1) for matrix in found]).reshape(n, d)

    def part(self, payload: bytes, wanted: Sequence[Positions]) -> bytes:
        """Returns a payload of the rows that are wanted of each matrix; of a codec that sends rows."""
        assert isinstance(self.of_each, TouchedRows)
        parts: list[bytes] = []
        for number, (rows, (n, d)) in enumerate(zip(wanted, self.shapes, strict=True)):
            last = number + 1 == len(self.shapes)
            size, payload = (len(payload), payload) if last else decode_number(payload)
            parts.append(self.of_each.part(payload[:size], rows, n, d))
            payload = payload[size:]
        return _joined(parts)

    def size_bytes(self, n: int, d: int) -> int:  # noqa: ARG002 - the shapes say it
        """See `Codec.size_bytes`."""
        sizes = [self.of_each.size_bytes(*shape) for shape in self.shapes]
        return sum(sizes) + sum(len(encode_number(size)) for size in sizes[:-1])

    def fits(self, payload_bytes: int, n: int, d: int) -> bool:
        """See `Codec.fits`; what each matrix has is looked at by `decode`."""
        return len(self.shapes) <= payload_bytes <= self.size_bytes(n, d)


def decode_row_sets(data: bytes, shapes: Sequence[Shape]) -> list[Positions]:
    """Returns the numbers of the rows that are wanted of each matrix.

    Raises:
        WireError: as in `decode_rows`; "shape" when bytes are left over.
    """
    found: list[Positions] = []
    for rows, _ in shapes:
        wanted, data = decode_rows(data, rows)
        found.append(wanted)
    if data:
        raise WireError("shape", f"{len(data)} bytes after the rows of {len(shapes)} matrices")
    return found


def _joined(payloads: Sequence[bytes]) -> bytes:
    *others, last = payloads
    return b"".join(encode_number(len(payload)) + payload for payload in others) + last
