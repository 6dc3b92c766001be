"""A head's parameters as matrices, for codecs that see their shapes.

A parameter tensor has a row for each value of its first dimension: an output, an output channel, a word of an
embedding; a tensor of one dimension is one row. The payloads of the matrices follow one another; before each
but the last stands its length, as LEB128. A codec may have another one for all that is not an embedding.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from broker.codecs.base import Codec, Matrix
from broker.codecs.coding.elias_fano import Positions
from broker.codecs.coding.places import decode_number, encode_number
from broker.codecs.coding.row_set import decode_rows
from broker.codecs.heads.touched_rows import TouchedRows
from broker.wire.errors import WireError


class Shape(NamedTuple):
    """A parameter tensor as a matrix.

    Attributes:
        rows: n.
        columns: d.
        embedding: its rows are looked up one by one, so a batch touches only some of them.
    """

    rows: int
    columns: int
    embedding: bool = False

    @property
    def values(self) -> int:
        """How many there are."""
        return self.rows * self.columns


def matrix_shape(dimensions: Sequence[int], *, embedding: bool = False) -> Shape:
    """Returns the shape of a parameter tensor as a matrix."""
    rows = dimensions[0] if len(dimensions) > 1 else 1
    return Shape(rows, math.prod(dimensions) // rows, embedding)


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
        ends = np.cumsum([shape.values for shape in self.shapes])[:-1]
        parts = zip(np.split(x.reshape(-1), ends), self.shapes, strict=True)
        return _joined([self._of(shape).encode(part.reshape(shape[:2]), rng) for part, shape in parts])

    def decode(self, payload: bytes, n: int, d: int) -> Matrix:
        """See `Codec.decode`."""
        found: list[Matrix] = []
        for shape in self.shapes[:-1]:
            size, payload = decode_number(payload)
            codec = self._of(shape)
            if size > len(payload) or not codec.fits(size, *shape[:2]):
                raise WireError("shape", f"{size} bytes of {len(payload)} for {shape[:2]} in {codec}")
            found.append(codec.decode(payload[:size], *shape[:2]))
            payload = payload[size:]
        found.append(self._of(self.shapes[-1]).decode(payload, *self.shapes[-1][:2]))
        return np.concatenate([matrix.reshape(-1) for matrix in found]).reshape(n, d)

    def part(self, payload: bytes, wanted: Sequence[Positions]) -> bytes:
        """Returns a payload of the rows that are wanted of each matrix; of products there are all."""
        parts = zip(wanted, self._each(payload), strict=True)
        return _joined(
            [
                codec.part(own, rows, *shape[:2]) if isinstance(codec, TouchedRows) else own
                for rows, (codec, shape, own) in parts
            ]
        )

    def hollow(self, payload: bytes) -> bytes:
        """Returns a payload with zero bytes for all values; each `part` is as long as of this one."""
        return _joined(
            [
                codec.hollow(own, shape.rows) if isinstance(codec, TouchedRows) else bytes(len(own))
                for codec, shape, own in self._each(payload)
            ]
        )

    def _each(self, payload: bytes) -> Iterator[tuple[Codec, Shape, bytes]]:
        """Yields codec, shape and payload of each matrix."""
        for shape in self.shapes[:-1]:
            size, payload = decode_number(payload)
            yield self._of(shape), shape, payload[:size]
            payload = payload[size:]
        yield self._of(self.shapes[-1]), self.shapes[-1], payload

    def size_bytes(self, n: int, d: int) -> int:  # noqa: ARG002 - the shapes say it
        """See `Codec.size_bytes`."""
        sizes = [self._of(shape).size_bytes(*shape[:2]) for shape in self.shapes]
        return sum(sizes) + sum(len(encode_number(size)) for size in sizes[:-1])

    def fits(self, payload_bytes: int, n: int, d: int) -> bool:
        """See `Codec.fits`; what each matrix has is looked at by `decode`."""
        return len(self.shapes) <= payload_bytes <= self.size_bytes(n, d)

    def _of(self, shape: Shape) -> Codec:
        codec = self.of_each
        return codec.of_others if isinstance(codec, TouchedRows) and not shape.embedding else codec


def decode_row_sets(data: bytes, shapes: Sequence[Shape]) -> list[Positions]:
    """Returns the numbers of the rows that are wanted of each matrix.

    Raises:
        WireError: as in `decode_rows`; "shape" when bytes are left over.
    """
    found: list[Positions] = []
    for shape in shapes:
        wanted, data = decode_rows(data, shape.rows)
        found.append(wanted)
    if data:
        raise WireError("shape", f"{len(data)} bytes after the rows of {len(shapes)} matrices")
    return found


def _joined(payloads: Sequence[bytes]) -> bytes:
    *others, last = payloads
    return b"".join(encode_number(len(payload)) + payload for payload in others) + last
