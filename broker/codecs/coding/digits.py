"""Digits of any number of levels, 2 to 256, packed with little loss: several share a word of up to 16 bits.

Letters: Q levels; m digits a word, which has w = ceil(m log2 Q) bits. Of the m up to 16 with w at most 16
that with the fewest bits a digit is taken, the smallest such: 5 digits of 3 levels in 8 bits, 1 of 8 levels
in 3. So a digit takes at most 9 % more than log2 Q bits.

Bytes: the words, packed (see `wire.bits`); a word is the sum of its digits times Q**0, Q**1 and so on. The
last word has zeros in the place of digits that are missing.
"""

import functools

import numpy as np
import numpy.typing as npt

from broker.wire.bits import MAX_BITS, bits_for, pack, packed_bytes, unpack
from broker.wire.errors import WireError

Digits = npt.NDArray[np.uint8]


def digits_bytes(count: int, levels: int) -> int:
    """Returns the exact length of `count` digits."""
    digits, bits = _word(levels)
    return packed_bytes(-(-count // digits), bits)


def encode_digits(values: Digits, levels: int) -> bytes:
    """Encodes digits, shape (count,), each below `levels`."""
    digits, bits = _word(levels)
    rows = np.pad(values, (0, -values.size % digits)).reshape(-1, digits)
    return pack((rows * _worth(levels, digits)).sum(axis=1, dtype=np.uint16), bits)


def decode_digits(data: bytes, levels: int, count: int) -> Digits:
    """Returns the digits, shape (count,).

    Raises:
        WireError: "shape" on a wrong length, "malformed" on pad bits and pad digits that are not zero,
            "range" on words that stand for no digits.
    """
    digits, bits = _word(levels)
    words = unpack(data, bits, -(-count // digits)).astype(np.uint16)
    if words.size and int(words.max()) >= levels**digits:
        raise WireError("range", f"a word of {int(words.max())} for {digits} digits of {levels} levels")
    found: Digits = (
        (words[:, None] // _worth(levels, digits) % np.uint32(levels)).astype(np.uint8).reshape(-1)
    )
    if found[count:].any():
        raise WireError("malformed", "pad digits are not zero")
    return found[:count]


@functools.cache
def _word(levels: int) -> tuple[int, int]:
    """Returns m and w."""
    choices = [(digits, bits_for(levels**digits)) for digits in range(1, MAX_BITS + 1)]
    return min((each for each in choices if each[1] <= MAX_BITS), key=lambda each: each[1] / each[0])


def _worth(levels: int, digits: int) -> npt.NDArray[np.uint32]:
    return np.array([levels**place for place in range(digits)], np.uint32)
