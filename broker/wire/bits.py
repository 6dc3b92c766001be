"""Unsigned integers of 1 to 16 bits, packed without gaps.

Bit order (part of the wire format): the least significant bit comes first. Value i occupies the bits
i * bits to (i + 1) * bits - 1 of the stream, its own least significant bit first; bit k of the stream is bit
k % 8 of byte k // 8, bit 0 of a byte being the one worth 1. So 16-bit values are little-endian words, and of
two 4-bit values in a byte the first is the lower half. Unused bits of the last byte are zero.

Example: the 3-bit values 1, 2, 3 are the stream 100 010 110, that is the bytes 0xD1 0x00.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from broker.wire.errors import WireError

Codes = npt.NDArray[np.unsignedinteger[Any]]

MAX_BITS = 16


def bits_for(levels: int) -> int:
    """Returns ceil(log2(levels)), the bits that tell `levels` values apart; 0 for one level."""
    return (levels - 1).bit_length()


def packed_bytes(count: int, bits: int) -> int:
    """Returns ceil(count * bits / 8), the exact length of `count` packed values."""
    return (count * bits + 7) // 8


def pack(values: Codes, bits: int) -> bytes:
    """Packs values, taken in C order, into `packed_bytes(values.size, bits)` bytes.

    Args:
        values: Any shape, each below 2**bits.
        bits: 0 to 16; 0 bits are for values that are all zero and need no bytes.

    Raises:
        ValueError: A value does not fit into `bits`, or `bits` is out of range.
    """
    _check_width(bits)
    flat = values.reshape(-1)
    if flat.size and int(flat.max()) >> bits:
        raise ValueError(f"a value of {int(flat.max())} does not fit into {bits} bits")
    if bits in (8, 16):
        return flat.astype(f"<u{bits // 8}", copy=False).tobytes()
    if bits == 1:
        return np.packbits(flat, bitorder="little").tobytes()
    if bits in (2, 4):
        return _join_in_bytes(flat, bits)
    join = _join_in_words if bits < 8 else _join_bits  # noqa: PLR2004 - a byte
    return join(flat, bits)[: packed_bytes(flat.size, bits)]


def unpack(data: bytes, bits: int, count: int) -> Codes:
    """Unpacks what `pack` made; whether the values make sense is for the caller to check.

    Returns:
        A new array of shape (count,), dtype uint8 up to 8 bits, uint16 above.

    Raises:
        WireError: "shape" when `data` does not have the exact length, "malformed" when pad bits are not zero.
        ValueError: `bits` is out of range.
    """
    _check_width(bits)
    if len(data) != packed_bytes(count, bits):
        raise WireError("shape", f"{count} values of {bits} bits in {len(data)} bytes")
    used = count * bits % 8
    if used and data[-1] >> used:
        raise WireError("malformed", "pad bits are not zero")
    if bits == 0:
        return np.zeros(count, np.uint8)
    if bits in (8, 16):
        return np.frombuffer(data, f"<u{bits // 8}").astype(f"u{bits // 8}")
    raw = np.frombuffer(data, np.uint8)
    if bits == 1:
        return np.unpackbits(raw, count=count, bitorder="little")
    if bits in (2, 4):
        return _split_bytes(raw, bits)[:count]
    return (_split_words if bits < 8 else _split_bits)(raw, bits)[:count]  # noqa: PLR2004 - a byte


def _join_in_bytes(values: Codes, bits: int) -> bytes:
    """Joins values of 2 or 4 bits: whole ones fill a byte."""
    columns = _grouped(values, 8 // bits)
    joined = columns[:, 0].astype(np.uint8)
    for place in range(1, 8 // bits):
        joined |= columns[:, place].astype(np.uint8, copy=False) << (place * bits)
    return joined.tobytes()


def _split_bytes(raw: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    values = np.empty((raw.size, 8 // bits), np.uint8)
    for place in range(8 // bits):
        np.bitwise_and(raw >> (place * bits), (1 << bits) - 1, out=values[:, place])
    return values.reshape(-1)


def _join_in_words(values: Codes, bits: int) -> bytes:
    """Joins values of less than 8 bits: eight of them fill `bits` bytes of a 64-bit word."""
    shifted = _grouped(values, 8).astype("<u8") << _shifts(bits)
    words: npt.NDArray[np.uint64] = np.bitwise_or.reduce(shifted, axis=1)
    return words.view(np.uint8).reshape(-1, 8)[:, :bits].tobytes()


def _split_words(raw: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    words = np.zeros((-(-raw.size // bits), 8), np.uint8)
    words[:, :bits] = _grouped(raw, bits)
    values = (words.view("<u8") >> _shifts(bits)) & np.uint64((1 << bits) - 1)
    return values.astype(np.uint8).reshape(-1)


def _shifts(bits: int) -> npt.NDArray[np.uint64]:
    return (np.arange(8) * bits).astype(np.uint64)


def _join_bits(values: Codes, bits: int) -> bytes:
    """Joins values of 9 to 15 bits, one bit after the other."""
    streams = np.unpackbits(values.astype("<u2").view(np.uint8).reshape(-1, 2), axis=1, bitorder="little")
    return np.packbits(streams[:, :bits], bitorder="little").tobytes()


def _split_bits(raw: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint16]:
    stream = np.unpackbits(raw, bitorder="little")
    streams = stream[: stream.size // bits * bits].reshape(-1, bits)
    return np.packbits(streams, axis=1, bitorder="little").view("<u2")[:, 0].astype(np.uint16)


def _grouped(values: Codes, size: int) -> Codes:
    """Returns rows of `size` values, with zeros at the end."""
    missing = -values.size % size
    return (np.pad(values, (0, missing)) if missing else values).reshape(-1, size)


def _check_width(bits: int) -> None:
    if not 0 <= bits <= MAX_BITS:
        raise ValueError(f"values have 0 to {MAX_BITS} bits, not {bits}")
