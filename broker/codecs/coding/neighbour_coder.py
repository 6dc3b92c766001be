"""Entropy coding of codes that resemble their neighbours, many codes at a time.

All codes together are one natural number, a stack of bits with the lowest bit on top. A code that is likely
next to its neighbours (see `coding.neighbour_model`) takes few bits of it. The coder is that of asymmetric
numeral systems (Duda 2013, arXiv 1311.2540) with several states, here called lanes, which take their bits
from this one stack. The codes of a step are no neighbours of each other, so numpy codes them together, one a
lane. A lane begins with bits from the stack and gives them back at the end, so lanes cost nothing.

docs/protocol.md describes the bytes.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from broker.codecs.coding.neighbour_model import (
    MODELLED_BITS,
    SLOT_BITS,
    Integers,
    Model,
    Order,
    SmallCodes,
    coding_order,
)
from broker.wire.bits import bits_for, pack, packed_bytes, unpack
from broker.wire.errors import WireError

Codes = npt.NDArray[np.unsignedinteger[Any]]

MOST_CODES = 2**17
"""More codes than these are packed instead, since each takes the receiver 0.1 to 0.2 microseconds."""
SLOT_MASK = 2**SLOT_BITS - 1
STATE_BITS = 16  # a lane's state is 2**16 to 2**17 - 1
MOST_LANES = 2**12
LANES_BITS = 3  # a number of lanes has so many significant bits
DENSITIES = range(5, 256)  # lanes for 256 codes that follow
LANE_BITS = 24  # of codes for each lane, more than the 16 it begins with: some codes hold less than the mean
BYTE_LEVELS = 2**8
MISSING_SHIFT = STATE_BITS - SLOT_BITS  # a state that has lost its slots is 2**4 at least
_MISSING_BITS = STATE_BITS - MISSING_SHIFT + 1 - np.frexp(np.arange(2 ** (SLOT_BITS + 1)))[1].astype(np.int64)
"""How many bits a state lacks of 2**16, by its highest 13 bits."""
_MASKS = 2 ** np.arange(SLOT_BITS + 1) - 1


class _Block(NamedTuple):
    """Codes that are coded together, one a lane: those with numbers `first` to `end` - 1 in the order.

    `lanes` is how many lanes there are at its beginning, of which the first so many are used.
    """

    first: int
    end: int
    lanes: int
    ends_step: bool


def _blocks(ends: list[int], density: int, seed_bytes: int) -> Iterator[_Block]:
    """Cuts steps into blocks.

    Towards the end there are fewer lanes, because the bits with which they begin are those of the codes that
    follow and of the seed: a lane for 2 bytes of the seed, and `density` lanes for 256 codes.
    """
    first = 0
    for step_end in ends:
        while first < step_end:
            lanes = max(1, min(seed_bytes // 2 + ((ends[-1] - first) * density >> 8), MOST_LANES))
            rough = max(0, lanes.bit_length() - LANES_BITS)
            lanes = lanes >> rough << rough  # so that it does not change in every block
            end = min(first + lanes, step_end)
            yield _Block(first, end, lanes, end == step_end)
            first = end


def encode_codes(codes: Codes, levels: int, width: int, seed: bytes = b"") -> bytes:
    """Returns the bytes of codes and seed, of which `decode_codes` makes both again.

    Args:
        codes: shape (n, q), each below `levels`; a neighbour in another row is none.
        levels: 1 to 2**16.
        width: Codes in a line of a row, so that codes have a neighbour above; 1 where there are no lines.
        seed: Any bytes that travel along. Lanes begin with them, so that more codes are coded together.
    """
    low_bits, high_levels = _split(levels)
    low = pack(codes & codes.dtype.type((1 << low_bits) - 1), low_bits) if low_bits else b""
    if codes.size == 0 or high_levels == 1:
        return low + seed
    order = coding_order(*codes.shape, width)
    high = (codes.reshape(-1) >> low_bits).take(order.places).astype(np.int64)
    first_slots, sizes = _slots_of(high, order, high_levels)
    density = _density(sizes)
    number = _push(order.ends, first_slots, sizes, density, seed)
    return bytes([density]) + low + number.to_bytes((number.bit_length() + 7) // 8, "little")


def _split(levels: int) -> tuple[int, int]:
    """Returns how many low bits of a code are packed, and how many levels the rest has."""
    low_bits = max(0, bits_for(levels) - MODELLED_BITS)
    return low_bits, (levels - 1 >> low_bits) + 1


def _slots_of(high: Integers, order: Order, levels: int) -> tuple[Integers, Integers]:
    """Returns each code's first slot and how many it has; `high` and both in the order of coding."""
    model = Model(levels)
    classes = np.concatenate((np.zeros(1, np.int64), model.class_of.take(high)))
    contexts = classes.take(order.left) * model.classes + classes.take(order.above)
    numbers = (contexts >> SLOT_BITS) * levels + high
    nexts = numbers + 1
    lower, upper = np.empty_like(high), np.empty_like(high)
    first = 0
    for end in order.ends:
        of_step = numbers[first:end]
        model.bounds.take(of_step, out=lower[first:end], mode="clip")  # "raise" would copy `out`
        model.bounds.take(nexts[first:end], out=upper[first:end], mode="clip")
        model.count(of_step)
        model.end_step()
        first = end
    upper -= lower
    lower -= contexts
    return lower, upper


def _density(sizes: Integers) -> int:
    """Returns how many lanes can begin with the bits of 256 codes."""
    mantissas, exponents = np.frexp(sizes)  # for 0.5 <= m < 1, log2 m is nearly 2 m - 2; sums are exact
    bits = (SLOT_BITS + 2) * sizes.size - int(exponents.sum()) - 2 * float(mantissas.sum())
    lanes = int(256 * bits) // (LANE_BITS * sizes.size)
    return min(max(lanes, DENSITIES[0]), DENSITIES[-1])


def _push(ends: list[int], first_slots: Integers, sizes: Integers, density: int, seed: bytes) -> int:
    """Puts codes on a seed, the last first, and returns the number."""
    number = int.from_bytes(seed, "little")
    lanes = np.empty(0, np.int64)
    lengths = SLOT_BITS + 1 - np.frexp(sizes)[1].astype(np.int64)  # bits that leave a lane, or one less
    limits = sizes << (STATE_BITS - SLOT_BITS + lengths)
    others = 2**SLOT_BITS - sizes
    leaving: list[tuple[Integers, Integers]] = []
    for block in reversed(list(_blocks(ends, density, len(seed)))):
        if block.lanes > lanes.size:
            number = _join(number, leaving)
            leaving = []
            words, number = _take_words(number, block.lanes - lanes.size)
            lanes = np.concatenate((lanes, words))
        span = slice(block.first, block.end)
        states = lanes[: block.end - block.first]
        bits = lengths[span] - (states < limits[span])
        leaving.append((states & (1 << bits) - 1, bits))
        states >>= bits
        states += states // sizes[span] * others[span]
        states += first_slots[span]
    return _put_words(_join(number, leaving), lanes)


def _join(number: int, leaving: list[tuple[Integers, Integers]]) -> int:
    """Puts bits on a number, the last ones on top; of each pair the values, and how many bits each has."""
    if not leaving:
        return number
    values, bits = (np.concatenate(each[::-1]) for each in zip(*leaving, strict=True))
    every = np.unpackbits(values.astype("<u2").view(np.uint8).reshape(-1, 2), axis=1, bitorder="little")
    chosen = every[np.arange(16) < bits[:, None]]
    return number << chosen.size | int.from_bytes(np.packbits(chosen, bitorder="little").tobytes(), "little")


def _take_words(number: int, count: int) -> tuple[Integers, int]:
    """Takes the states of `count` lanes from a number; returns them and the rest."""
    taken = number & (1 << STATE_BITS * count) - 1
    words = np.frombuffer(taken.to_bytes(2 * count, "little"), "<u2").astype(np.int64)
    return words + 2**STATE_BITS, number >> STATE_BITS * count


def _put_words(number: int, lanes: Integers) -> int:
    words = (lanes - 2**STATE_BITS).astype("<u2").tobytes()
    return number << STATE_BITS * lanes.size | int.from_bytes(words, "little")


def decode_codes(
    data: bytes, shape: tuple[int, int], levels: int, width: int, seed_bytes: int = 0
) -> tuple[Codes, bytes]:
    """Returns the codes and the seed; parameters as of `encode_codes`.

    Raises:
        WireError: "malformed" when `encode_codes` makes no such bytes, "too-large" for more than MOST_CODES
            codes, "shape" when bytes are missing or left over.
    """
    n, q = shape
    if n * q > MOST_CODES:
        raise WireError("too-large", f"{n * q} entropy-coded codes; at most {MOST_CODES} are")
    low_bits, high_levels = _split(levels)
    if n * q == 0 or high_levels == 1:
        if len(data) != seed_bytes:
            raise WireError("shape", f"{len(data)} bytes after the codes; {seed_bytes} are expected")
        return np.zeros(shape, np.uint8 if levels <= BYTE_LEVELS else np.uint16), data
    end = 1 + packed_bytes(n * q, low_bits)
    low, number_bytes = unpack(data[1:end], low_bits, n * q), data[end:]
    if not 0 < len(data) <= end + 4 * n * q + 2 * seed_bytes + 4:
        raise WireError("shape", f"{len(data)} bytes for {n * q} codes")
    if data[0] not in DENSITIES or number_bytes.endswith(b"\0"):
        raise WireError("malformed", "entropy-coded bytes begin with 5 to 255 and do not end with zero")
    codes: Codes = np.zeros(n * q, np.uint8 if levels <= BYTE_LEVELS else np.uint16)
    order = coding_order(n, q, width)
    high, number = _pop(int.from_bytes(number_bytes, "little"), order, high_levels, data[0], seed_bytes)
    if number >> 8 * seed_bytes:
        raise WireError("malformed", "entropy-coded bytes of which something is left over")
    codes[order.places] = high
    codes <<= codes.dtype.type(low_bits)
    codes |= low
    if int(codes.max()) >= levels:
        raise WireError("range", f"code {int(codes.max())} of {levels}")
    return codes.reshape(shape), number.to_bytes(seed_bytes, "little")


def _pop(number: int, order: Order, levels: int, density: int, seed_bytes: int) -> tuple[SmallCodes, int]:
    """Takes codes off a number; returns them in the order of coding, and the rest."""
    model = Model(levels)
    classes = np.zeros(order.ends[-1] + 1, np.int64)
    lanes, bits = np.empty(0, np.int64), _Bits(number)
    numbers = []
    for first, end, count, ends_step in _blocks(order.ends, density, seed_bytes):
        if not lanes.size:
            lanes, number = _take_words(number, count)
            bits = _Bits(number)
        elif count < lanes.size:
            bits, lanes = _Bits(_put_words(bits.rest(), lanes[count:])), lanes[:count]
        keys = classes.take(order.left[first:end])
        keys *= model.classes
        keys += classes.take(order.above[first:end])
        states = lanes[: end - first]
        keys += states & SLOT_MASK
        found = model.bounds.searchsorted(keys, "right")
        sizes = model.bounds.take(found)
        found -= 1
        lower = model.bounds.take(found)
        sizes -= lower
        keys -= lower
        states >>= SLOT_BITS
        states *= sizes
        states += keys
        bits.refill(states)
        model.class_of.take(found, out=classes[first + 1 : end + 1], mode="clip")
        numbers.append(found)
        model.count(found)
        if ends_step:
            model.end_step()
    return model.code_of.take(np.concatenate(numbers)), _put_words(bits.rest(), lanes)


class _Bits:
    """The bits of a number, taken from the lowest on; zeros follow the highest.

    Args:
        number: of which bits are taken.
    """

    def __init__(self, number: int) -> None:
        self._bytes = number.to_bytes((number.bit_length() >> 3) + 9, "little")
        starts = len(self._bytes) - 7  # a word from each byte on
        self._words = np.ndarray((starts,), "<i8", self._bytes, strides=(1,))
        self._taken = 0

    def refill(self, states: Integers) -> None:
        """Brings states up to 2**16 and more, one after the other."""
        bits = _MISSING_BITS.take(states >> MISSING_SHIFT)
        ends = bits.cumsum()
        ends += self._taken
        self._taken = int(ends[-1])
        ends -= bits
        words = self._words.take(ends >> 3, mode="clip")  # the last word is zero
        ends &= 7
        words >>= ends
        words &= _MASKS.take(bits)
        states <<= bits
        states |= words

    def rest(self) -> int:
        """Returns what is left of the number."""
        return int.from_bytes(self._bytes, "little") >> self._taken
