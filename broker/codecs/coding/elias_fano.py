"""Encodes which `count` of `total` places are taken; all choices of places have the same length in bytes.

There are two forms. The one that is shorter for these two numbers is used (if both are equal, the first):

- A bitmap: one bit for each place, 1 where it is taken. ceil(total / 8) bytes.
- Elias-Fano (Elias 1974, Fano 1971): the lowest w bits of each position, packed; then a bit string of
  count + (total - 1) div 2**w bits, in which the j-th position p (j from 0) sets bit (p div 2**w) + j.
  ceil(count w / 8) + ceil((count + (total - 1) div 2**w) / 8) bytes; w is the number of 0 to 16 that gives
  the fewest bytes, the smallest such. No form of fixed length can be shorter than log2 of the number of
  choices. With one place in ten taken, or fewer, this one is at most 0.6 bits a position longer; with one in
  four, 0.8 bits.

Bits of a byte and of packed integers are in the order of `broker.wire.bits`.
"""

import numpy as np
import numpy.typing as npt

from broker.wire.bits import MAX_BITS, pack, packed_bytes, unpack
from broker.wire.errors import WireError

Positions = npt.NDArray[np.int64]


def positions_bytes(total: int, count: int) -> int:
    """Returns the exact length of `count` encoded positions below `total`."""
    return min(packed_bytes(total, 1), _split_bytes(total, count, _low_bits(total, count)))


def encode_positions(positions: Positions, total: int) -> bytes:
    """Encodes at least one position; they must ascend and lie within 0 and total - 1."""
    count = positions.size
    if _is_bitmap(total, count):
        return _bitmap(positions, total)
    width = _low_bits(total, count)
    low = (positions & ((1 << width) - 1)).astype(np.uint16)
    high = (positions >> width) + np.arange(count)
    return pack(low, width) + _bitmap(high, _high_bits(total, count, width))


def decode_positions(data: bytes, total: int, count: int) -> Positions:
    """Returns `count` ascending positions below `total`.

    Raises:
        WireError: "shape" on a wrong length, "malformed" on pad bits that are not zero, "range" when the
            positions are not `count` different ones in ascending order.
    """
    if len(data) != positions_bytes(total, count):
        raise WireError("shape", f"{len(data)} bytes for {count} positions")
    if _is_bitmap(total, count):
        return _set_bits(data, total, count)
    width = _low_bits(total, count)
    start = packed_bytes(count, width)
    low = unpack(data[:start], width, count).astype(np.int64)
    high = _set_bits(data[start:], _high_bits(total, count, width), count) - np.arange(count)
    positions: Positions = (high << width) | low
    if positions[-1] >= total or (np.diff(positions) <= 0).any():
        raise WireError("range", f"positions that do not ascend below {total}")
    return positions


def _is_bitmap(total: int, count: int) -> bool:
    return packed_bytes(total, 1) <= _split_bytes(total, count, _low_bits(total, count))


def _low_bits(total: int, count: int) -> int:
    return min(range(MAX_BITS + 1), key=lambda width: _split_bytes(total, count, width))


def _split_bytes(total: int, count: int, width: int) -> int:
    return packed_bytes(count, width) + packed_bytes(_high_bits(total, count, width), 1)


def _high_bits(total: int, count: int, width: int) -> int:
    return count + ((total - 1) >> width)


def _bitmap(places: Positions, total: int) -> bytes:
    bits = np.zeros(total, np.uint8)
    bits[places] = 1
    return pack(bits, 1)


def _set_bits(data: bytes, total: int, count: int) -> Positions:
    places = np.flatnonzero(unpack(data, 1, total))
    if places.size != count:
        raise WireError("range", f"{places.size} positions instead of {count}")
    return places
