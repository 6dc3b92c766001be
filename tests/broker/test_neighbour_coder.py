"""Entropy-coded codes: what is written is read, by numpy and by a reader of one code at a time."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.codecs.coding import neighbour_coder
from broker.codecs.coding.neighbour_coder import MOST_CODES, MOST_LANES, decode_codes, encode_codes
from broker.codecs.coding.neighbour_model import SLOT_BITS, Model, coding_order
from broker.wire.errors import WireError

Codes = npt.NDArray[np.unsignedinteger[Any]]
LEVELS = [1, 2, 3, 15, 16, 17, 64, 65, 255, 256, 257, 1000, 65_535, 65_536]


@st.composite
def coded(draw: st.DrawFn) -> tuple[Codes, int, int, bytes]:
    """Give codes, levels, width and seed: noise, rare exceptions, all alike, or what is drawn."""
    levels = draw(st.sampled_from(LEVELS) | st.integers(1, 2**16))
    n, q = draw(st.integers(0, 12)), draw(st.integers(1, 300))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    codes = rng.integers(0, levels, (n, q))
    rare = draw(st.sampled_from([0.0, 0.01, 0.3, 1.0]))
    codes = np.where(rng.random((n, q)) < rare, codes, draw(st.integers(0, levels - 1)))
    for place, code in draw(
        st.dictionaries(st.integers(0, 50), st.integers(0, levels - 1), max_size=5)
    ).items():
        codes.reshape(-1)[place : place + 1] = code
    kind = np.uint8 if levels <= 2**8 else np.uint16
    return codes.astype(kind), levels, draw(st.integers(1, 310)), draw(st.binary(max_size=40))


def plainly(  # noqa: C901 - as one reads it
    data: bytes, shape: tuple[int, int], levels: int, width: int, seed_bytes: int
) -> tuple[Codes, bytes]:
    """Read codes of at most 64 levels one by one, as docs/protocol.md tells it."""
    n, q = shape
    width = q if width == 1 else min(width, q)
    tiles_a_line, tiles_a_row = -(-width // 64), -(-width // 64) * -(-q // (16 * width))
    steps: dict[int, list[int]] = {}
    for at in range(n * q):
        row, (line, column) = at // q, divmod(at % q, width)
        tile = row * tiles_a_row + line // 16 * tiles_a_line + column // 64
        steps.setdefault(line % 16 + column % 64 + min(tile // 4, 8), []).append(at)
    shift = max(0, (levels - 1).bit_length() - 4)
    counts: dict[tuple[int, int], list[int]] = {}
    slots: dict[tuple[int, int], list[int]] = {}
    number, codes, lanes = int.from_bytes(data[1:], "little"), [0] * (n * q), list[int]()
    left_over, used, learnt, fresh = n * q, 0, 0, list[tuple[tuple[int, int], int]]()

    def class_of(at: int, distance: int, *, is_there: bool) -> int:
        return codes[at - distance] >> shift if is_there else 0

    def share_out(context: tuple[int, int]) -> None:
        row = counts.setdefault(
            context,
            [
                1 + 8 * ((code >> shift == context[0]) + (code >> shift == context[1]))
                for code in range(levels)
            ],
        )
        slots[context] = [sum(row[:code]) * (4096 - levels) // sum(row) + code for code in range(levels + 1)]

    for _, places in sorted(steps.items()):
        for first in range(len(places)):
            if first == 0 or used == len(lanes):
                used, wanted = 0, max(1, min(seed_bytes // 2 + left_over * data[0] // 256, 4096))
                rough = max(0, wanted.bit_length() - 3)
                wanted = wanted >> rough << rough
                while len(lanes) > wanted:
                    number = number << 16 | lanes.pop() - 65536
                while len(lanes) < wanted and left_over == n * q:
                    lanes.append(65536 + number % 65536)
                    number >>= 16
            at = places[first]
            line, column = divmod(at % q, width)
            before = class_of(at, 1, is_there=column % 64 > 0)
            above = before if width == q else class_of(at, width, is_there=line % 16 > 0)
            if (before, above) not in slots:
                share_out((before, above))
            bounds, slot = slots[before, above], lanes[used] % 4096
            code = max(each for each in range(levels) if bounds[each] <= slot)
            lanes[used] = (bounds[code + 1] - bounds[code]) * (lanes[used] >> 12) + slot - bounds[code]
            while lanes[used] < 65536:
                missing = 17 - lanes[used].bit_length()
                lanes[used] = lanes[used] << missing | number % 2**missing
                number >>= missing
            codes[at] = code
            fresh.append(((before, above), code))
            used, left_over = used + 1, left_over - 1
        if 4 * len(fresh) >= learnt:
            for context, code in fresh:
                counts[context][code] += 8
            for context in {context for context, _ in fresh}:
                share_out(context)
            learnt, fresh = learnt + len(fresh), []
    while lanes:
        number = number << 16 | lanes.pop() - 65536
    return np.array(codes, np.uint8).reshape(shape), number.to_bytes(seed_bytes, "little")


@given(coded())
def test_codes_and_seed_survive(given_codes: tuple[Codes, int, int, bytes]) -> None:
    codes, levels, width, seed = given_codes
    back, seed_back = decode_codes(
        encode_codes(codes, levels, width, seed), codes.shape, levels, width, len(seed)
    )
    np.testing.assert_array_equal(back, codes)
    assert back.dtype == codes.dtype
    assert seed_back == seed


@given(st.integers(1, 9), st.integers(1, 150), st.integers(1, 160), st.integers(2, 64), st.binary(max_size=9))
def test_the_protocol_read_one_by_one_gives_the_same(
    n: int, q: int, width: int, levels: int, seed: bytes
) -> None:
    rng = np.random.default_rng(n * q)
    codes = np.minimum(rng.geometric(0.5, (n, q)) - 1, levels - 1).astype(np.uint8)
    back, seed_back = plainly(encode_codes(codes, levels, width, seed), (n, q), levels, width, len(seed))
    np.testing.assert_array_equal(back, codes)
    assert seed_back == seed


@given(coded(), st.data())
def test_changed_bytes_are_refused_or_the_only_ones_of_what_they_say(
    given_codes: tuple[Codes, int, int, bytes], data: st.DataObject
) -> None:
    codes, levels, width, seed = given_codes
    changed = bytearray(encode_codes(codes, levels, width, seed))
    for place in data.draw(st.lists(st.integers(0, max(0, len(changed) - 1)), max_size=3)):
        changed[place : place + 1] = data.draw(st.binary(max_size=2))
    try:
        read, seed_read = decode_codes(bytes(changed), codes.shape, levels, width, len(seed))
    except WireError:
        return
    assert int(read.max(initial=0)) < levels
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbour_coder, "_density", lambda _: changed[0])
        assert encode_codes(read, levels, width, seed_read) == bytes(changed)


@given(st.binary(max_size=200), st.integers(1, 6), st.integers(1, 40), st.integers(0, 9))
def test_arbitrary_bytes_raise_nothing_but_wire_errors(data: bytes, n: int, q: int, seed_bytes: int) -> None:
    for levels in (1, 3, 64, 1000):
        try:
            codes, seed = decode_codes(data, (n, q), levels, 5, seed_bytes)
        except WireError:
            continue
        assert (codes.shape, len(seed)) == ((n, q), seed_bytes)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "shape"),
        (b"\x20" + b"\xff" * 100, "shape"),
        (b"\x04\x01", "malformed"),
        (b"\x20\x01\x00", "malformed"),
        (b"\x20" + b"\xff" * 20, "malformed"),
    ],
    ids=["nothing", "too long", "too few lanes", "a zero at the end", "something left over"],
)
def test_what_nobody_writes_is_refused_by_name(data: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        decode_codes(data, (1, 10), 3, 1)


def test_low_bits_that_make_a_code_too_large_are_refused() -> None:
    data = bytearray(encode_codes(np.array([[64]], np.uint8), 65, 1))
    data[1] |= 1
    with pytest.raises(WireError, match="range"):
        decode_codes(bytes(data), (1, 1), 65, 1)


# work


def test_more_codes_than_most_are_refused_before_any_work() -> None:
    with pytest.raises(WireError, match="too-large"):
        decode_codes(b"\x20", (1, MOST_CODES + 1), 2, 1)


@settings(max_examples=20)
@given(
    st.integers(1, MOST_CODES), st.integers(1, MOST_CODES), st.integers(1, MOST_CODES), st.integers(0, 600)
)
def test_few_steps_of_work_whatever_a_stranger_writes(n: int, q: int, width: int, seed_bytes: int) -> None:
    ends = coding_order(min(n, max(1, MOST_CODES // q)), q, width).ends
    blocks = list(neighbour_coder._blocks(ends, neighbour_coder.DENSITIES[0], seed_bytes))
    assert len(ends) <= 16 + 64 + 8
    assert len(blocks) <= 32 + len(ends) + 550  # of 4,096 lanes, and 51 ln(4096) and some with fewer
    assert all(block.end - block.first <= block.lanes <= MOST_LANES for block in blocks)


@pytest.mark.parametrize(
    ("n", "q", "width"),
    [(1, 2**16, 1), (1, 2**16, 2), (1, 2**16, 300), (2**16, 1, 1), (300, 200, 9), (1, 1, 1)],
)
def test_every_code_comes_once_and_after_its_neighbours(n: int, q: int, width: int) -> None:
    order = coding_order(n, q, width)
    np.testing.assert_array_equal(np.sort(order.places), np.arange(n * q))
    assert order.ends[-1] == n * q
    assert len(order.ends) <= 16 + 64 + 8
    first = 0
    for end in order.ends:
        for neighbour in (order.left, order.above):
            assert int(neighbour[first:end].max()) <= first  # counted from 1
        first = end


def test_slots_are_shared_out_completely_and_each_code_has_one() -> None:
    model = Model(64)
    for _ in range(40):
        model.count(np.full(10_000, 77 * 64 + 5, np.int32))
        model.end_step()
    bounds = model.bounds.astype(np.int64)
    assert (np.diff(bounds) >= 1).all()
    np.testing.assert_array_equal(bounds[::64], np.arange(257) << SLOT_BITS)
    assert bounds[77 * 64 + 6] - bounds[77 * 64 + 5] > 4000


# bytes


def test_codes_cost_what_their_neighbours_leave_open() -> None:
    rng = np.random.default_rng(0)
    lines = np.tile(rng.integers(0, 4, 40), (1, 50)).astype(np.uint8)
    alike, unlike = (len(encode_codes(lines, 4, width)) for width in (40, 1))
    assert alike < 0.5 * unlike
    noise = rng.integers(0, 4, (1, 4000)).astype(np.uint8)
    assert noise.size / 4 <= len(encode_codes(noise, 4, 1)) < 1.06 * noise.size / 4


def test_rare_codes_cost_no_more_than_two_bytes_for_50_codes_and_a_seed_its_length() -> None:
    codes = np.zeros((20, 144), np.uint8)
    alone, seeded = (len(encode_codes(codes, 2, 12, bytes([7] * size))) for size in (0, 100))
    assert alone <= 1 + 2 * codes.size // 50
    assert seeded <= alone + 100


def test_the_bytes_of_codes() -> None:
    # One code. Its counts are 17 and 1, so that of 4,096 slots code 0 has 3,867 and code 1 the 229 others.
    # Its lane ends as 65,536. Code 0 finds it as 4096 * 16 + 3,664, since 3867 * 16 + 3664 = 65536. Code 1
    # finds it as 4096 * 17 + 3867 + 203, since 229 * 17 + 203 = 4096, from which 4 bits more make 65,536.
    for code, density, state in ((0, 5, 4096 * 16 + 3664), (1, 44, 4096 * 17 + 4070)):
        data = bytes([density]) + (state - 65536).to_bytes(2, "little")
        assert encode_codes(np.array([[code]], np.uint8), 2, 1) == data
        assert decode_codes(data, (1, 1), 2, 1)[0] == code


@pytest.mark.parametrize(
    ("codes", "levels", "width", "seed", "data"),
    [
        ([[0, 0, 1, 2, 2, 1]], 3, 2, b"ab", "2013342779"),
        ([[0, 1, 2, 3, 4] * 4] * 2, 5, 4, b"seed", "1fe0874289595ed0df2b609978884cda9e5b84e704"),
        ([[1000, 3, 70]], 1001, 1, b"", "4a3806e4bf9401"),
    ],
)
def test_golden_bytes(codes: list[list[int]], levels: int, width: int, seed: bytes, data: str) -> None:
    assert encode_codes(np.array(codes, np.uint16), levels, width, seed).hex() == data
