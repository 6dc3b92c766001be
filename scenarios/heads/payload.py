"""A head, or a change of it, as bytes: parameters under the flow's codec, then statistics as float32.

Statistics are few, and a codec that loses a little of a variance may make it negative. So they are sent
exactly.

A codec that sees shapes is given each parameter tensor as a matrix, see broker.codecs.heads.matrices.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from broker.codecs import Codec, Float32, TouchedRows, decode_update
from broker.codecs.heads.matrices import Matrices, Shape, decode_row_sets

EXACT = Float32()
Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class HeadCodec:
    """Encodes a vector of P parameters and S statistics.

    Args:
        codec: of the parameters.
        statistics: S.
        shapes: of the parameter tensors that are sent, P values together; without any they are one row.
    """

    codec: Codec
    statistics: int = 0
    shapes: tuple[Shape, ...] = ()

    def encode(self, vector: Vector, rng: np.random.Generator) -> bytes:
        """Give the payload of a vector, shape (P + S,); ValueError if it is not finite."""
        parameters = vector.size - self.statistics
        payload = self._codec.encode(vector[None, :parameters], rng) if parameters else b""
        return payload + (EXACT.encode(vector[None, parameters:], rng) if self.statistics else b"")

    def decode(self, payload: bytes, parameters: int) -> Vector:
        """Give the vector of a payload, shape (P + S,); raises as `decode_update` does."""
        end = max(len(payload) - EXACT.size_bytes(1, self.statistics), 0)
        parts = [(self._codec, payload[:end], parameters), (EXACT, payload[end:], self.statistics)]
        found = [decode_update(codec, part, size) for codec, part, size in parts if size or part]
        return found[0] if len(found) == 1 else np.concatenate([np.empty(0, np.float32), *found])

    def size_bytes(self, parameters: int) -> int:
        """Give the length of a payload; see Codec.size_bytes."""
        own = self._codec.size_bytes(1, parameters) if parameters else 0
        return own + EXACT.size_bytes(1, self.statistics)

    def fits(self, payload_bytes: int, parameters: int) -> bool:
        """Say whether a payload may have this length."""
        own = payload_bytes - EXACT.size_bytes(1, self.statistics)
        return self._codec.fits(own, 1, parameters) if parameters else own == 0

    def part(self, payload: bytes, rows: bytes) -> bytes:
        """Give the payload for a device that needs only some rows, see Hello.rows; statistics come whole."""
        if not rows or not isinstance(self.codec, TouchedRows):
            return payload
        end = len(payload) - EXACT.size_bytes(1, self.statistics)
        wanted = decode_row_sets(rows, self.shapes)
        return Matrices(self.codec, self.shapes).part(payload[:end], wanted) + payload[end:]

    def hollow(self, payload: bytes) -> bytes:
        """Give a payload with zero bytes for all values; each `part` is as long as that of this one."""
        if not isinstance(self.codec, TouchedRows):
            return bytes(len(payload))
        own = len(payload) - EXACT.size_bytes(1, self.statistics)
        return Matrices(self.codec, self.shapes).hollow(payload[:own]) + bytes(len(payload) - own)

    @property
    def _codec(self) -> Codec:
        return Matrices(self.codec, self.shapes) if self.codec.sees_shapes and self.shapes else self.codec
