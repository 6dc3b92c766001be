"""Small numbers, called ranks, in several groups, as Golomb-Rice codes; most of them are zero.

In each group the ranks that are not zero are told by how many zeros come before them; behind the last one
there are only zeros. Neither length nor order of the groups must be known to read them.

Letters: N ranks in all; of M of them that are not zero, the gap is the number of zeros before, and the rest
the rank less one. A number x in a Rice code with k bits is x div 2**k as so many zeros and a one, and the
lower k bits of x (Rice, Plaunt 1971; Golomb 1966).

Bytes: one byte, in which bit g tells that group g has ranks that are not zero; how many, for each of these
groups, packed; their k of gaps, plus 8 times their k of rests, packed; then a bit string: for each rank that
is not zero the lower bits of its gap, then of its rest; then the zeros and ones of all gaps, and then of all
rests. Groups come in turn, and so do bits (see `broker.wire.bits`). Where no rank can be above 1, rests are
left out.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from broker.wire.bits import bits_for, packed_bytes
from broker.wire.errors import WireError

Integers = npt.NDArray[np.int64]
Ranks = npt.NDArray[np.uint8]

MOST_GROUPS = 8
ORDER_BITS = 3
MOST_RANKS = 2**16 - 1
WORD_OCTETS = 3  # 2 * 7 bits lie in so many, wherever they begin


class Read(NamedTuple):
    """Ranks that were read.

    Attributes:
        ranks: shape (8 N,), those of group g from g N on; zeros behind the last one.
        least: shape (8,), how many ranks of each group there must be at least.
    """

    ranks: Ranks
    least: Integers


def encode_ranks(ranks: Ranks, groups: Ranks, most: int) -> bytes:
    """Returns the bytes of ranks, shape (N,), each at most `most`, in these groups, each below 8."""
    by_group = groups.argsort(kind="stable")
    sorted_ranks = ranks.take(by_group)
    places = (sorted_ranks > 0).nonzero()[0]
    group = groups.take(by_group.take(places))
    lengths = np.bincount(groups, minlength=MOST_GROUPS)
    counts = np.bincount(group, minlength=MOST_GROUPS)
    used = counts > 0
    behind = np.zeros_like(places)
    behind[1:] = places[:-1] + 1
    gaps = places - np.maximum(behind, (lengths.cumsum() - lengths).take(group))
    orders = _orders(group, gaps, counts)
    low_bits = orders.take(group)
    low, high = _split(gaps, low_bits)
    if most > 1:
        rests = sorted_ranks.take(places).astype(np.int64) - 1
        rest_orders = _orders(group, rests, counts)
        rest_bits = rest_orders.take(group)
        rest_low, rest_high = _split(rests, rest_bits)
        low |= rest_low << low_bits
        low_bits = low_bits + rest_bits
        high = np.concatenate((high, rest_high))
        orders = orders | rest_orders << ORDER_BITS
    head = _packed(used.tolist(), 1) + _packed(counts[used].tolist(), bits_for(ranks.size + 1))
    return head + _packed(orders[used].tolist(), _order_bits(most)) + _bits(low, low_bits, high)


def _order_bits(most: int) -> int:
    return ORDER_BITS * (2 if most > 1 else 1)


def _packed(values: list[int], bits: int) -> bytes:
    """Returns what `broker.wire.bits.pack` does; for few values, this is quicker."""
    number = sum(value << bits * place for place, value in enumerate(values))
    return number.to_bytes(packed_bytes(len(values), bits), "little")


def _unpacked(data: bytes, bits: int, count: int) -> list[int]:
    """Returns what `broker.wire.bits.unpack` does."""
    if len(data) != packed_bytes(count, bits):
        raise WireError("shape", f"{count} values of {bits} bits in {len(data)} bytes")
    number = int.from_bytes(data, "little")
    if number >> bits * count:
        raise WireError("malformed", "pad bits are not zero")
    return [number >> bits * place & (1 << bits) - 1 for place in range(count)]


def _orders(group: Ranks, values: Integers, counts: Integers) -> Integers:
    """Returns the k of each group that makes its values short, if they are geometrically distributed.

    k bits are best for means from 2.08 2**(k - 1) - 0.46 on, up to rounding (Kiely 2004, "Selecting the
    Golomb parameter in Rice coding", IPN Progress Report 42-159, equation 9).
    """
    sums = np.bincount(group, values, MOST_GROUPS)
    _, orders = np.frexp((sums + 0.46 * counts) / (2.08 * np.maximum(counts, 1)))
    return np.clip(orders, 0, 2**ORDER_BITS - 1).astype(np.int64)


def _split(values: Integers, bits: Integers) -> tuple[Integers, Integers]:
    """Returns the lowest bits of each value, and the rest of it."""
    high = values >> bits
    return values - (high << bits), high


def _bits(low: Integers, low_bits: Integers, high: Integers) -> bytes:
    """Returns the lowest bits of each of `low`, then so many zeros and a one for each of `high`."""
    ends = low_bits.cumsum()
    end = int(ends[-1]) if ends.size else 0
    ones = (high + 1).cumsum()
    ones += (end & 7) - 1
    bits = np.zeros(int(ones[-1]) + 1 if ones.size else 0, np.uint8)
    bits[ones] = 1
    octets = np.zeros((end >> 3) + max((bits.size + 7) >> 3, WORD_OCTETS), np.uint8)
    ends -= low_bits
    words = low << (ends & 7)
    ends >>= 3
    for octet in range(WORD_OCTETS):  # no two words have a bit in common, so their sum is their union
        np.add.at(octets[octet:], ends, (words >> 8 * octet).astype(np.uint8))
    octets[end >> 3 :][: (bits.size + 7) >> 3] |= np.packbits(bits, bitorder="little")
    return octets[: (end >> 3) + ((bits.size + 7) >> 3)].tobytes()


def decode_ranks(data: bytes, count: int, most: int) -> Read:
    """Returns the ranks of which `encode_ranks` made the bytes; N is `count`, at most MOST_RANKS.

    Time and memory grow with N and with the bytes.

    Raises:
        WireError: "shape" when bytes are missing or left over, "malformed" on pad bits that are not zero,
            "range" on a rank above `most` or behind the last place.
    """
    used = np.array(
        [group for group, is_used in enumerate(_unpacked(data[:1], 1, MOST_GROUPS)) if is_used], np.int64
    )
    starts = 1 + packed_bytes(used.size, bits_for(count + 1))
    end = starts + packed_bytes(used.size, _order_bits(most))
    counts = np.array(_unpacked(data[1:starts], bits_for(count + 1), used.size), np.int64)
    orders = np.array(_unpacked(data[starts:end], _order_bits(most), used.size), np.int64)
    total = int(counts.sum())
    if total > count:
        raise WireError("range", f"{total} ranks that are not zero, of {count}")
    gap_bits = (orders & 2**ORDER_BITS - 1).repeat(counts)
    rest_bits = (orders >> ORDER_BITS).repeat(counts)
    low, high = _read_bits(data[end:], gap_bits + rest_bits, total * (2 if most > 1 else 1))
    gaps = high[:total] << gap_bits
    gaps += low & ((1 << gap_bits) - 1)
    ranks = np.ones(total, np.int64)
    if most > 1:
        ranks += (high[total:] << rest_bits) + (low >> gap_bits)
    steps = np.concatenate(([0], (gaps + 1).cumsum()))
    lasts = counts.cumsum()
    places = steps[1:] - 1 - steps.take(lasts - counts).repeat(counts)
    if int(places.max(initial=0)) >= count or int(ranks.max(initial=0)) > most:
        raise WireError("range", f"ranks above {most}, or more than {count}")
    read = Read(np.zeros(MOST_GROUPS * count, np.uint8), np.zeros(MOST_GROUPS, np.int64))
    read.ranks[places + (used * count).repeat(counts)] = ranks
    has_some = counts > 0
    read.least[used[has_some]] = places.take(lasts[has_some] - 1) + 1
    return read


def _read_bits(data: bytes, low_bits: Integers, ones: int) -> tuple[Integers, Integers]:
    """Returns the numbers of so many bits, and how many zeros come before each of the ones that follow."""
    ends = low_bits.cumsum()
    end = int(ends[-1]) if ends.size else 0
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[end:]
    places = bits.view(np.bool_).nonzero()[0][:ones]
    used = int(places[-1]) + 1 if ones and places.size == ones else 0
    if places.size < ones or len(data) != packed_bytes(end + used, 1):
        raise WireError("shape", f"{len(data)} bytes for {low_bits.size} ranks")
    if bits[used:].any():
        raise WireError("malformed", "pad bits are not zero")
    high = places.copy()
    high[1:] -= places[:-1] + 1
    words = np.ndarray((len(data) + 1,), "<i8", data + bytes(8), strides=(1,))  # one from each byte on
    ends -= low_bits
    low = words.take(ends >> 3)
    low >>= ends & 7
    low &= (1 << low_bits) - 1
    return low, high
