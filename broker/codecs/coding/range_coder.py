"""Adaptive range coding of codes that resemble their neighbours.

All codes together travel as one number in [0, 1) (Martin 1979, "Range encoding"). Each code narrows the
interval in which the number lies to a part of it. The more often the code occurred next to the same
neighbours before, the wider is its part, and a wide part costs few bits. Only the number travels, since
sender and receiver count occurrences alike, in integers.

Model: the neighbours of code i are the codes i - 1 and i - width; before the start they are 0. For each pair
of neighbours every code begins with a count of 1 and gains 3 when it occurs; a count above 2**14 has all
counts of the pair halved, rounding up.

Bytes: the number's binary digits, first the most significant byte; the receiver adds zeros without end.
"""

import numpy as np
import numpy.typing as npt

from broker.wire.errors import WireError

MAX_LEVELS = 64
MOST_CODES = 2**18
"""More codes than these are packed instead, since each takes the receiver about a microsecond."""
BLOCK = 8
GAIN = 3
HIGHEST_COUNT = 2**14
SPAN_BITS = 32  # bits of the interval's greatest width
SETTLED_BITS = 24  # in an interval narrower than 2**24, the first byte is settled but for a carry
LOW_MASK = 2**SPAN_BITS - 1
BYTE_MASK = 2**8 - 1


class _Rows(dict[int, list[int]]):
    """A row of counts for each pair of neighbours: one count for each code, and at the end their sum."""

    def __init__(self, levels: int) -> None:
        self._new = [1] * levels + [levels]

    def __missing__(self, pair: int) -> list[int]:
        row = self[pair] = self._new.copy()
        return row


class _Blocks(dict[int, list[int]]):
    """For each pair of neighbours the sums of BLOCK counts each; by them the receiver finds a code sooner."""

    def __init__(self, levels: int) -> None:
        self._new = _sums_of_blocks([1] * levels + [levels])

    def __missing__(self, pair: int) -> list[int]:
        sums = self[pair] = self._new.copy()
        return sums


def _sums_of_blocks(row: list[int]) -> list[int]:
    return [sum(row[first : min(first + BLOCK, len(row) - 1)]) for first in range(0, len(row) - 1, BLOCK)]


def _halve(row: list[int]) -> None:
    counts = [(count + 1) // 2 for count in row[:-1]]
    row[:] = [*counts, sum(counts)]


def encode_codes(codes: npt.NDArray[np.uint8], levels: int, width: int) -> bytes:
    """Returns the bytes of `codes`, taken in C order.

    Args:
        codes: Any shape, each below `levels`.
        levels: 1 to 64.
        width: Distance to the second neighbour, 1 (there is none) or more.
    """
    flat = codes.reshape(-1)
    padded: npt.NDArray[np.intp] = np.concatenate((np.zeros(width, np.intp), flat))
    neighbours = padded[width - 1 : -1] + levels * padded[:-width]
    rows = _Rows(levels)
    settled = bytearray()
    low, span = 0, 2**SPAN_BITS
    for code, pair in zip(flat.tolist(), neighbours.tolist(), strict=True):
        row = rows[pair]
        unit, count = span // row[-1], row[code]
        low += unit * sum(row[:code])
        span = unit * count
        row[code] = count + GAIN
        row[-1] += GAIN
        if count + GAIN > HIGHEST_COUNT:
            _halve(row)
        if low > LOW_MASK:
            low &= LOW_MASK
            _carry(settled)
        while span < 2**SETTLED_BITS:
            settled.append(low >> SETTLED_BITS)
            low = low << 8 & LOW_MASK
            span <<= 8
    last = low + span - 1 >> SETTLED_BITS  # one byte is enough to point into an interval this wide
    if last > BYTE_MASK:
        _carry(settled)
    settled.append(last & BYTE_MASK)
    return bytes(settled).rstrip(b"\0")


def _carry(settled: bytearray) -> None:
    """Adds one to a number in big-endian bytes that has room for it."""
    place = len(settled) - 1
    while settled[place] == BYTE_MASK:
        settled[place] = 0
        place -= 1
    settled[place] += 1


def decode_codes(data: bytes, count: int, levels: int, width: int) -> npt.NDArray[np.uint8]:
    """Returns `count` codes, each below `levels`; parameters as of `encode_codes`.

    Raises:
        WireError: "malformed" when the number lies in no code's part of the interval, "too-large" for more
            than MOST_CODES codes.
    """
    if count > MOST_CODES:
        raise WireError("too-large", f"{count} range-coded codes; at most {MOST_CODES} are")
    rows, blocks = _Rows(levels), _Blocks(levels)
    codes = [0] * width  # the neighbours of the first codes
    stream = iter(data)
    offset, span = int.from_bytes(bytes(next(stream, 0) for _ in range(4))), 2**SPAN_BITS
    for _ in range(count):
        pair = codes[-1] + levels * codes[-width]
        row, sums = rows[pair], blocks[pair]
        unit = span // row[-1]
        place = offset // unit
        if place >= row[-1]:
            raise WireError("malformed", "range-coded bytes that stand for no code")
        block = before = 0
        while before + sums[block] <= place:
            before += sums[block]
            block += 1
        code = BLOCK * block
        while before + row[code] <= place:
            before += row[code]
            code += 1
        offset -= unit * before
        span = unit * row[code]
        row[code] += GAIN
        row[-1] += GAIN
        sums[block] += GAIN
        if row[code] > HIGHEST_COUNT:
            _halve(row)
            sums[:] = _sums_of_blocks(row)
        while span < 2**SETTLED_BITS:
            offset = offset << 8 | next(stream, 0)
            span <<= 8
        codes.append(code)
    return np.array(codes[width:], np.uint8)
