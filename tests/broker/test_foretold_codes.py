"""Foretold codes: what is written is read, by numpy and by a reader of one code at a time."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from broker.codecs.base import Matrix
from broker.codecs.foretold.closeness import closeness
from broker.codecs.foretold.coder import decode_foretold, encode_foretold
from broker.codecs.foretold.order import outwards
from broker.codecs.foretold.ranks import MOST_RANKS, decode_ranks, encode_ranks
from broker.wire.errors import WireError

Codes = npt.NDArray[np.uint8]
RAMP = np.arange(16, dtype=np.float32)[:, None]
MOST_STEPS = 17  # in tiles of at most 16 lines of 16, or one of 32


@st.composite
def coded(draw: st.DrawFn) -> tuple[Codes, int, Matrix]:
    """Give codes, width and codewords: noise, walks, rare exceptions or all alike."""
    count, size = draw(st.sampled_from([2, 3, 8, 9, 64, 256]) | st.integers(2, 256)), draw(st.integers(1, 12))
    n, q = draw(st.integers(1, 5)), draw(st.integers(1, 100))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    codewords = rng.standard_normal((count, size)) * draw(st.sampled_from([0.0, 1e-38, 1e-20, 1.0, 1e36]))
    if draw(st.booleans()):  # some are equal
        codewords = codewords[rng.integers(0, count, count)]
    codes = rng.integers(0, count, (n, q))
    if draw(st.booleans()):
        codes = rng.integers(-1, 2, (n, q)).cumsum(axis=1) % count
    rare = draw(st.sampled_from([0.0, 0.02, 0.3, 1.0]))
    codes = np.where(rng.random((n, q)) < rare, codes, draw(st.integers(0, count - 1)))
    divisors = [each for each in range(1, q + 1) if q % each == 0]
    width = draw(st.sampled_from(divisors) | st.integers(1, 210))
    return codes.astype(np.uint8), width, codewords.astype(np.float32)


def plainly(data: bytes, shape: tuple[int, int], width: int, codewords: Matrix) -> Codes:  # noqa: C901, PLR0915
    """Read codes one by one, as docs/protocol.md tells it."""
    (n, q), (count, size) = shape, codewords.shape
    bits = "".join(f"{octet:08b}"[::-1] for octet in data)

    def take(number: int) -> int:
        nonlocal bits
        value, bits = int(bits[:number][::-1] or "0", 2), bits[number:]
        return value

    def take_all(number: int, widths: int) -> list[int]:
        nonlocal bits
        values = [take(widths) for _ in range(number)]
        bits = bits[-number * widths % 8 :]
        return values

    def zeros() -> int:
        nonlocal bits
        found = bits.index("1")
        bits = bits[found + 1 :]
        return found

    used = [group for group in range(8) if take(1)]
    counts = take_all(len(used), (n * q).bit_length())
    orders = take_all(len(used), 6 if count > 2 else 3)
    of_gap = [order % 8 for order, often in zip(orders, counts, strict=True) for _ in range(often)]
    of_rest = [order // 8 for order, often in zip(orders, counts, strict=True) for _ in range(often)]
    lows = [(take(gap), take(rest)) for gap, rest in zip(of_gap, of_rest, strict=True)]
    gaps = [(zeros() << k) + low for k, (low, _) in zip(of_gap, lows, strict=True)]
    rests = [(zeros() << k) + low for k, (_, low) in zip(of_rest, lows, strict=True)] if count > 2 else []
    assert set(bits) <= {"0"}
    assert len(bits) < 8
    ranks: dict[int, list[int]] = {group: [] for group in range(8)}
    at = 0
    for group, often in zip(used, counts, strict=True):
        for number in range(at, at + often):
            ranks[group] += [0] * gaps[number] + [1 + (rests[number] if rests else 0)]
        at += often

    largest = float(np.abs(codewords).max())
    most = 2.0 ** (11 - -(-(size - 1).bit_length() // 2))
    scale = np.float32(most / largest if largest > 1e-30 else 0)
    whole = [[round(float(value)) for value in codeword * scale] for codeword in codewords]
    squares = [[sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) // 4 for b in whole] for a in whole]
    middle = min(range(count), key=lambda each: (sum(squares[each]), each))

    def from_middle(place: int, length: int, most_of_tile: int) -> int:
        tiles = -(-length // most_of_tile)
        tile = max(each for each in range(tiles) if each * length // tiles <= place)
        return place - (tile * length // tiles + (tile + 1) * length // tiles) // 2

    width = q if width == 1 or q % width else width
    lines = q // width
    codes = [[0] * q for _ in range(n)]
    placed = []
    for place in range(q):
        down = from_middle(place // width, lines, 16)
        right = from_middle(place % width, width, 16 if lines > 1 else 32)
        placed.append((abs(down) + abs(right), place, down, right))
    for step in sorted({each[0] for each in placed}):
        for row in codes:
            for _, place, down, right in (each for each in placed if each[0] == step):
                inwards, upwards = (right > 0) - (right < 0), ((down > 0) - (down < 0)) * width
                if down == right == 0:
                    guess, group = middle, 6
                else:
                    if down and right:
                        three = place - inwards, place - upwards, place - inwards - upwards
                    else:
                        one = inwards + upwards
                        three = place - one, place - one, place - one * min(abs(down + right), 2)
                    a, b, c = (row[each] for each in three)
                    guess = min(
                        range(count), key=lambda w: (squares[a][w] + squares[b][w] - squares[c][w], w)
                    )
                    group = 2 * ((a == c) + (b == c)) + (guess == 0)
                rank = ranks[group].pop(0) if ranks[group] else 0
                row[place] = sorted(range(count), key=lambda w: (squares[guess][w], w))[rank]
    assert not any(ranks.values())
    return np.array(codes, np.uint8)


@settings(max_examples=50)
@given(coded())
def test_codes_survive(given_codes: tuple[Codes, int, Matrix]) -> None:
    codes, width, codewords = given_codes
    back = decode_foretold(encode_foretold(codes, width, codewords), codes.shape, width, codewords)
    np.testing.assert_array_equal(back, codes)
    assert back.dtype == codes.dtype


@example(2, 40, 20, 5, 3, True)
@example(1, 38, 2, 9, 2, True)
@example(1, 60, 1, 3, 2, True)
@settings(max_examples=25)
@given(
    st.integers(1, 3),
    st.integers(1, 60),
    st.integers(1, 64),
    st.integers(2, 12),
    st.integers(1, 5),
    st.booleans(),
)
def test_the_protocol_read_one_by_one_gives_the_same(
    n: int, q: int, width: int, count: int, size: int, walks: bool
) -> None:
    rng = np.random.default_rng(n * q)
    codewords = rng.standard_normal((count, size)).astype(np.float32)
    codes = rng.integers(0, count, (n, q))
    if walks:
        codes = (rng.random((n, q)) < 0.2).cumsum(axis=1) % count
    data = encode_foretold(codes.astype(np.uint8), width, codewords)
    np.testing.assert_array_equal(plainly(data, (n, q), width, codewords), codes)


@settings(max_examples=50)
@given(coded(), st.data())
def test_changed_bytes_are_refused_or_read_as_other_codes(
    given_codes: tuple[Codes, int, Matrix], data: st.DataObject
) -> None:
    codes, width, codewords = given_codes
    changed = bytearray(encode_foretold(codes, width, codewords))
    for place in data.draw(st.lists(st.integers(0, max(0, len(changed) - 1)), max_size=3)):
        changed[place : place + 1] = data.draw(st.binary(max_size=2))
    try:
        read = decode_foretold(bytes(changed), codes.shape, width, codewords)
    except WireError:
        return
    assert read.shape == codes.shape
    assert int(read.max()) < len(codewords)
    again = encode_foretold(read, width, codewords)
    np.testing.assert_array_equal(decode_foretold(again, codes.shape, width, codewords), read)


@given(st.binary(max_size=200), st.integers(0, 6), st.integers(1, 40), st.sampled_from([2, 3, 16, 200]))
def test_arbitrary_bytes_raise_nothing_but_wire_errors(data: bytes, n: int, q: int, count: int) -> None:
    codewords = np.random.default_rng(0).standard_normal((count, 2)).astype(np.float32)
    try:
        codes = decode_foretold(data, (n, q), 5, codewords)
    except WireError:
        return
    assert codes.shape == (n, q)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "shape"),
        (b"\x80", "shape"),
        (b"\x01\x0b\x00\x00", "range"),
        (b"\x00\x00", "shape"),
        (b"\x01\x01\x00\x00", "shape"),
        (b"\x40\x01\x00\x0b", "malformed"),
        (b"\x01\x01\x00\x03\x00", "shape"),
        (b"\x01\x01\x00\x11", "range"),
        (b"\x01\x01\x06\xca", "range"),
        (b"\x80\x01\x00\x03", "malformed"),
    ],
    ids=[
        "nothing",
        "a group of which nothing comes",
        "more ranks than codes",
        "bytes where no rank is",
        "no end",
        "a bit behind the end",
        "a byte behind the end",
        "a rank that no codeword has",
        "a place behind the last",
        "a rank of a group that has none",
    ],
)
def test_what_nobody_writes_is_refused_by_name(data: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        decode_foretold(data, (1, 10), 1, RAMP[:3])


# work


@pytest.mark.parametrize("total", [0, MOST_RANKS + 1])
def test_more_codes_than_most_are_refused_before_any_work(total: int) -> None:
    with pytest.raises(WireError, match="too-large"):
        decode_foretold(b"\x00", (total, 1), 1, RAMP)


@settings(max_examples=30)
@given(st.integers(1, MOST_RANKS), st.integers(1, MOST_RANKS), st.integers(1, MOST_RANKS))
def test_few_steps_whatever_a_stranger_writes(n: int, q: int, width: int) -> None:
    assert len(outwards(min(n, max(1, MOST_RANKS // q)), q, width).ends) <= MOST_STEPS


@pytest.mark.parametrize(
    ("n", "q", "width"),
    [
        (1, 2**16 - 1, 1),
        (3, 2 * 5000, 2),
        (2, 77 * 40, 77),
        (500, 1, 1),
        (30, 200, 9),
        (20, 144, 12),
        (1, 1, 1),
    ],
)
def test_every_code_comes_once_and_after_its_neighbours(n: int, q: int, width: int) -> None:
    order = outwards(n, q, width)
    np.testing.assert_array_equal(np.sort(order.places), np.arange(n * q))
    assert order.ends[-1] == n * q
    first = order.ends[0]
    for end in order.ends[1:]:
        for neighbour in order.neighbours:
            assert int(neighbour[first:end].max()) < first
            assert (order.places[neighbour[first:end]] // q == order.places[first:end] // q).all()
        first = end


# what both sides must compute alike


@given(st.integers(1, 3000), st.integers(0, 100), st.sampled_from([1e-29, 1.0, 1e38]))
def test_distances_are_those_of_whole_numbers_in_any_order(size: int, seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    codewords = (np.sign(rng.standard_normal((5, size))) * scale).astype(np.float32)
    codewords[0] *= rng.random(size).astype(np.float32)
    shuffled = codewords[:, rng.permutation(size)]
    np.testing.assert_array_equal(closeness(codewords).squares, closeness(shuffled).squares)
    most = 2.0 ** (11 - -(-(size - 1).bit_length() // 2))
    whole = np.rint(codewords * np.float32(most / np.abs(codewords).max())).astype(np.int64)
    np.testing.assert_array_equal(
        closeness(codewords).squares, ((whole[:, None] - whole) ** 2).sum(axis=2) // 4
    )


@pytest.mark.parametrize("count", [2, 8, 9, 256])
def test_guesses_are_nearest_to_beside_plus_above_minus_across(count: int) -> None:
    rng = np.random.default_rng(0)
    codewords = rng.integers(-1000, 1000, (count, 1)).astype(np.float32)
    codewords[0] = 1024
    beside, above, across = rng.integers(0, count, (3, 500))
    guesses, _ = closeness(codewords).guesses_and_groups(beside, above, across)
    aims = codewords[beside] + codewords[above] - codewords[across]
    off = np.abs(aims - codewords[guesses])[:, 0]
    np.testing.assert_allclose(off, np.abs(aims - codewords[:, 0]).min(axis=1), atol=2)


# bytes


def test_an_even_slope_costs_little_where_lines_are_known() -> None:
    slope = (np.arange(6)[:, None] + np.arange(6)).reshape(1, 36).repeat(20, axis=0).astype(np.uint8)
    assert len(encode_foretold(slope, 6, RAMP)) < 45
    assert len(encode_foretold(slope, 1, RAMP)) > 100


def test_ranks_cost_hardly_more_than_their_entropy() -> None:
    rng = np.random.default_rng(0)
    for likely in (0.6, 0.9, 0.99):
        ranks = np.minimum(rng.geometric(likely, 10_000) - 1, 15).astype(np.uint8)
        shares = np.bincount(ranks) / ranks.size
        entropy = -(shares[shares > 0] * np.log2(shares[shares > 0])).sum() * ranks.size / 8
        data = encode_ranks(ranks, np.zeros(ranks.size, np.uint8), 15)
        assert len(data) < 1.15 * entropy + 6
        np.testing.assert_array_equal(decode_ranks(data, ranks.size, 15).ranks[: ranks.size], ranks)


def test_the_bytes_of_ranks() -> None:
    # Two of the ranks are not zero: the gaps are 2 and 3, the rests 0 and 2. Their means are 2.5 and 1, so
    # that gaps have k = 1, rests k = 0. Bytes: group 0 alone; 2 ranks; k = 1 + 8 * 0. Bits: of the gaps the
    # lowest, 0 and 1; of both a zero and a one; of the rests a one, and two zeros and a one.
    ranks = np.array([0, 0, 1, 0, 0, 0, 3, 0], np.uint8)
    data = encode_ranks(ranks, np.zeros(8, np.uint8), 3)
    assert data == bytes([1, 2, 1, 0b01101010, 0b00000010])
    read = decode_ranks(data, 8, 3)
    np.testing.assert_array_equal(read.ranks[:8], ranks)
    assert read.least.tolist() == [7, 0, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("codes", "width", "codewords", "data"),
    [
        ([[0, 1, 2, 2, 1, 0]], 1, RAMP[:3], "500a0000be"),
        ([[0, 1, 2, 1, 2, 3, 2, 3, 9]] * 2, 3, RAMP, "5102091980010089feafebaa"),
        ([[1, 1, 0, 0]], 2, RAMP[:2], "20010001"),
    ],
)
def test_golden_bytes(codes: list[list[int]], width: int, codewords: Matrix, data: str) -> None:
    assert encode_foretold(np.array(codes, np.uint8), width, codewords).hex() == data
