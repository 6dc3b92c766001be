"""Encodes any number of places among `total`: short when few are taken, or when they lie together.

The places ascend, so each is the one before plus a gap; the gaps, less one, have exponential Golomb codes
(Teuhola 1978) of an order k from 0 to 7, the one that gives the fewest bytes for these places (of equal ones
the lowest). Bytes:

- The number 8 count + k as LEB128: seven bits a byte, the lowest first; bit 7 is set in all bytes but the
  last.
- A bit string in the order of `broker.wire.bits`: of each gap g as x = g - 1 + 2**k, which has k + e + 1
  bits, first the e of all places, each as e zeros and a one; then the k + e lower bits of all x, the lowest
  first. Unused bits of the last byte are zero.

Example: the places 1, 2 and 9 are the gaps 2, 1 and 7. With k = 0, x = 2, 1, 7 and e = 1, 0, 2. The bytes are
0x18 (3 places, k = 0) and the bits 01 1 001 0 11, that is 0xA6 0x01.
"""

import numpy as np
import numpy.typing as npt

from broker.wire.errors import WireError

Positions = npt.NDArray[np.int64]

ORDERS = 8
GROUP_BITS = 7  # of a byte in LEB128
MOST_NUMBER_BYTES = 6


def encode_number(number: int) -> bytes:
    """Returns a number of 0 to 2**42 - 1 as LEB128."""
    groups = bytearray()
    while True:
        number, low = number >> GROUP_BITS, number & 0x7F
        groups.append(low | (0x80 if number else 0))
        if not number:
            return bytes(groups)


def decode_number(data: bytes) -> tuple[int, bytes]:
    """Returns the number at the beginning, and what follows it.

    Raises:
        WireError: "malformed" when there is none, or it has more than six bytes.
    """
    number = 0
    for place, byte in enumerate(data[:MOST_NUMBER_BYTES]):
        number |= (byte & 0x7F) << (GROUP_BITS * place)
        if byte < 0x80:  # noqa: PLR2004 - the mark of a last byte
            return number, data[place + 1 :]
    raise WireError("malformed", "a number without an end")


def encode_places(places: Positions) -> bytes:
    """Encodes places, shape (count,), which must ascend and be at least 0."""
    gaps = np.diff(places, prepend=-1) - 1
    extras = [_extra(gaps + (1 << order), order) for order in range(ORDERS)]
    order = min(range(ORDERS), key=lambda k: int(2 * extras[k].sum()) + k * gaps.size)
    values, extra = gaps + (1 << order), extras[order]
    ends = np.cumsum(extra + 1)
    low_starts, lengths = _starts(extra + order), extra + order
    unary_bits = int(ends[-1]) if gaps.size else 0
    bits = np.zeros(unary_bits + int(lengths.sum()), np.uint8)
    bits[ends - 1] = 1
    for bit in range(int(lengths.max(initial=0))):
        having = np.flatnonzero(lengths > bit)
        bits[unary_bits + low_starts[having] + bit] = (values[having] >> bit) & 1
    return encode_number(gaps.size * ORDERS + order) + np.packbits(bits, bitorder="little").tobytes()


def decode_places(data: bytes, total: int) -> tuple[Positions, bytes]:
    """Returns ascending places below `total`, shape (count,), and the bytes that follow theirs.

    Time and memory grow with the bytes of `data` alone.

    Raises:
        WireError: "shape" when bytes are missing, "malformed" on pad bits that are not zero, "range" on
            places that are not below `total`.
    """
    number, rest = decode_number(data)
    count, order = divmod(number, ORDERS)
    if count > min(total, 8 * len(rest)):
        raise WireError("shape", f"{count} places below {total} in {len(rest)} bytes")
    bits = np.unpackbits(np.frombuffer(rest, np.uint8), bitorder="little")
    ends = np.flatnonzero(bits)[:count]
    extra = np.diff(ends, prepend=-1) - 1
    lengths = extra + order
    unary_bits = int(ends[-1]) + 1 if ends.size else 0
    used = unary_bits + int(lengths.sum())
    used_bytes = (used + 7) // 8
    if ends.size != count or used > bits.size:
        raise WireError("shape", f"{len(rest)} bytes for {count} places")
    if bits[used : 8 * used_bytes].any():
        raise WireError("malformed", "pad bits are not zero")
    if int(lengths.max(initial=0)) > total.bit_length() + 1:
        raise WireError("range", f"places that are not below {total}")
    values = np.left_shift(np.int64(1), lengths)
    starts = unary_bits + _starts(lengths)
    for bit in range(int(lengths.max(initial=0))):
        having = np.flatnonzero(lengths > bit)
        values[having] |= bits[starts[having] + bit].astype(np.int64) << bit
    gaps = values - (1 << order) + 1
    if float(gaps.sum(dtype=np.float64)) > total:
        raise WireError("range", f"places that are not below {total}")
    return np.cumsum(gaps) - 1, rest[used_bytes:]


def _extra(values: Positions, order: int) -> Positions:
    """Returns how many bits each value has beyond the `order` + 1 of the smallest ones."""
    return np.frexp(values.astype(np.float64))[1].astype(np.int64) - 1 - order


def _starts(lengths: Positions) -> Positions:
    """Returns where each of several bit strings begins when they lie one after the other."""
    return np.cumsum(lengths) - lengths
