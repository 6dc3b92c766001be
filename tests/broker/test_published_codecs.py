"""Other people's codecs: what each promises, and what all of them do with what they are given."""

import hashlib
import struct

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.codecs import C3, Codec, SplitFc, codec_from_wire, codec_to_wire
from broker.codecs.coding.column_levels import decode_columns, encode_columns, least_bytes, levels_of
from broker.codecs.coding.digits import decode_digits, digits_bytes, encode_digits
from broker.wire.errors import WireError

Array = npt.NDArray[np.float32]
SEEDS = st.integers(0, 2**32 - 1)
KINDS: list[tuple[Codec, int]] = [  # with the values of a unit, of which a row has one or several
    (C3(ratio=1, bits=32), 1),
    (C3(ratio=4, bits=16, keys=7), 1),
    (C3(ratio=16, bits=4), 1),
    (SplitFc(keep=0.3, value_bits=1.5), 1),
    (SplitFc(keep=0.5, value_bits=3.0), 1),
    (SplitFc(keep=1.0, value_bits=12.0, random=0), 1),
]
SCALES = [0.0, 2.0**-149, 1e-40, 1e-6, 1.0, 1e20]


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def matrix(n: int, d: int, seed: int = 0, scale: float = 1.0) -> Array:
    return (generator(seed).standard_normal((n, d)) * scale).astype(np.float32)


def through(codec: Codec, x: Array, seed: int = 0) -> Array:
    return codec.decode(codec.encode(x, generator(seed)), *x.shape)


def error_of(codec: Codec, x: Array) -> float:
    return float(np.square(through(codec, x) - x).sum() / np.square(x).sum())


# all of them


@settings(deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    n=st.integers(1, 30),
    units=st.integers(1, 12),
    scale=st.sampled_from(SCALES),
    seed=SEEDS,
)
def test_shape_greatest_size_and_determinism(
    kind: tuple[Codec, int], n: int, units: int, scale: float, seed: int
) -> None:
    codec, d = kind[0], units * kind[1]
    x = matrix(n, d, seed, scale)
    before = x.copy()
    payload = codec.encode(x, generator(seed))
    assert codec.encode(x, generator(seed)) == payload
    np.testing.assert_array_equal(x, before)
    assert codec.fits(len(payload), n, d)
    assert len(payload) <= codec.size_bytes(n, d)
    assert not codec.fits(codec.size_bytes(n, d) + 1, n, d)
    y = codec.decode(payload, n, d)
    assert y.shape == x.shape
    assert y.dtype == np.float32
    assert y.flags.writeable
    assert np.isfinite(y).all()


@pytest.mark.parametrize(("codec", "unit"), KINDS)
def test_arrays_that_are_not_contiguous_encode_like_their_copies(codec: Codec, unit: int) -> None:
    x = matrix(8 * unit, 9)[::2].T
    assert codec.encode(x, generator()) == codec.encode(x.copy(), generator())


@pytest.mark.parametrize(("codec", "unit"), KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.0**127])
def test_what_the_receiver_could_not_represent_is_not_encoded(codec: Codec, unit: int, value: float) -> None:
    x = matrix(5, 2 * unit)
    x[3, 1] = value
    with pytest.raises(ValueError, match="not finite"):
        codec.encode(x, generator())


@pytest.mark.parametrize(("codec", "unit"), KINDS)
def test_truncated_and_overlong_payloads_are_refused(codec: Codec, unit: int) -> None:
    payload = codec.encode(matrix(12, 60 * unit), generator())
    for wrong in (b"", payload[:1], payload[:-1], payload + b"\0"):
        with pytest.raises(WireError):
            codec.decode(wrong, 12, 60 * unit)


@settings(deadline=None)
@given(kind=st.sampled_from(KINDS), n=st.integers(1, 5), units=st.integers(1, 6), data=st.data())
def test_hostile_bytes_raise_nothing_but_wire_errors(
    kind: tuple[Codec, int], n: int, units: int, data: st.DataObject
) -> None:
    codec, d = kind[0], units * kind[1]
    size = codec.size_bytes(n, d)
    if data.draw(st.booleans()):
        payload = bytearray(codec.encode(matrix(n, d), generator()))
        for _ in range(data.draw(st.integers(1, 4))):
            payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
        hostile = bytes(payload)
    else:
        hostile = data.draw(st.one_of(st.binary(min_size=size, max_size=size), st.binary(max_size=size + 4)))
    try:
        y = codec.decode(hostile, n, d)
    except WireError:
        return
    assert y.shape == (n, d)
    assert np.isfinite(y).all()


@pytest.mark.parametrize("codec", [codec for codec, _ in KINDS])
def test_codecs_survive_as_lists(codec: Codec) -> None:
    assert codec_from_wire(codec_to_wire(codec)) == codec


@pytest.mark.parametrize(
    "parts",
    [
        ["c3", 0, 16, 0],
        ["c3", 257, 16, 0],
        ["c3", 16, 15, 0],
        ["c3", 16, 16, -1],
        ["c3", 16, 16, 2**32],
        ["splitfc", 0.0, 0.4, 1],
        ["splitfc", 1.1, 0.4, 1],
        ["splitfc", 0.5, 0.0, 1],
        ["splitfc", 0.5, 16.5, 1],
        ["splitfc", 0.5, 0.4, 2],
    ],
)
def test_impossible_parameters_are_refused(parts: list[object]) -> None:
    with pytest.raises(WireError, match="range"):
        codec_from_wire(parts)


# c3


def test_rows_that_are_bound_come_out_as_the_formula_says() -> None:
    x, d = matrix(3, 5), 5
    expected = np.zeros((3, d))
    for first in (0, 2):  # R = 2: rows 0 and 1, then row 2 alone
        rows = list(range(first, min(first + 2, 3)))
        keys = [key_by_hand(9, row - first, d) for row in rows]
        means = [float(x[row].mean()) for row in rows]
        bound = zip(keys, rows, means, strict=True)
        terms = [(u, v, k[u] * (x[i][v] - mean)) for k, i, mean in bound for u in range(d) for v in range(d)]
        total = [sum(term for u, v, term in terms if (u + v) % d == t) for t in range(d)]
        for key, row, mean in zip(keys, rows, means, strict=True):
            expected[row] = [mean + sum(key[u] * total[(t + u) % d] for u in range(d)) for t in range(d)]
    np.testing.assert_allclose(through(C3(ratio=2, bits=32, keys=9), x), expected, atol=2e-3)


def key_by_hand(keys: int, j: int, d: int) -> npt.NDArray[np.float64]:
    drawn = hashlib.shake_128(struct.pack("<II", keys, j)).digest(4 * (d + d % 2))
    uniform = [(a + 0.5) / 2**32 for (a,) in struct.iter_unpack("<I", drawn)]
    values: list[float] = []
    for u, v in zip(uniform[::2], uniform[1::2], strict=True):
        length = np.sqrt(-2 * np.log(u))
        values += [length * np.cos(2 * np.pi * v), length * np.sin(2 * np.pi * v)]
    return np.array(values[:d]) / float(np.linalg.norm(values[:d]))


@pytest.mark.parametrize("ratio", [1, 4, 16])
def test_the_noise_is_as_many_times_the_rows_as_are_bound_together(ratio: int) -> None:
    x = matrix(16, 2000)
    assert error_of(C3(ratio=ratio, bits=32), x) == pytest.approx(ratio, rel=0.1)


def test_the_mean_over_keys_is_what_was_sent() -> None:
    x = matrix(4, 50) + 3
    mean = np.mean([through(C3(ratio=4, bits=32, keys=keys), x) for keys in range(1500)], axis=0)
    assert np.square(mean - x).mean() < 2.5 * 4 / 1500


@settings(deadline=None, max_examples=30)
@given(n=st.integers(1, 9), d=st.integers(2, 40), ratio=st.integers(1, 6), seed=SEEDS)
def test_a_gradient_in_the_same_codec_is_that_of_the_chain_rule(
    n: int, d: int, ratio: int, seed: int
) -> None:
    codec = C3(ratio=ratio, bits=32, keys=3)
    x, g = matrix(n, d, seed), matrix(n, d, seed + 1)
    x, g = x - x.mean(axis=1, keepdims=True), g - g.mean(axis=1, keepdims=True)
    assert np.vdot(through(codec, x), g) == pytest.approx(np.vdot(x, through(codec, g)), abs=1e-2 * d)


def test_a_sixteenth_of_the_rows_travels() -> None:
    assert C3(ratio=16, bits=32).size_bytes(64, 2048) == 1 + 2 * 64 + 4 * 4 * 2048


# splitfc


def unlike(n: int, d: int, seed: int = 0) -> Array:
    """Columns with deviations from nearly nothing to several."""
    x: Array = matrix(n, d, seed) * (4 * generator(seed + 1).random(d, np.float32) ** 3)
    return x


def test_without_chance_the_columns_that_deviate_most_stay() -> None:
    x = np.tile(np.float32(5), (4, 10))
    x[:, 3] = [0, 1, 2, 3]
    x[:, 7] = [9, -9, 9, -9]
    y = through(SplitFc(keep=0.2, value_bits=16.0, random=0), x)
    np.testing.assert_allclose(y[:, [3, 7]], x[:, [3, 7]], atol=0.1)
    assert not np.delete(y, [3, 7], axis=1).any()


@settings(deadline=None, max_examples=6)
@given(keep=st.sampled_from([0.05, 0.2, 0.7]), seed=SEEDS)
def test_as_many_columns_stay_on_average_as_was_said_and_the_widest_ones_most_often(
    keep: float, seed: int
) -> None:
    x = unlike(6, 200, seed)
    codec = SplitFc(keep=keep, value_bits=16.0)
    stayed = np.mean([through(codec, x, seed + draw).any(axis=0) for draw in range(30)], axis=0)
    assert abs(stayed.sum() - keep * 200) < 0.2 * keep * 200 + 3
    order = np.argsort(x.std(axis=0))
    assert stayed[order[-100:]].sum() > stayed[order[:100]].sum()


def test_the_mean_over_draws_is_what_was_sent() -> None:
    x = unlike(3, 12)
    codec, draws = SplitFc(keep=0.4, value_bits=16.0), 500
    each = np.array([through(codec, x, draw) for draw in range(draws)])
    error = np.abs(each.mean(axis=0) - x)
    assert (error < 5 * each.std(axis=0) / np.sqrt(draws) + 0.05 * np.abs(x).max()).all()
    assert np.square(error).sum() < 0.05 * np.square(x).sum()


@settings(deadline=None)
@given(n=st.integers(2, 25), k=st.integers(1, 40), seed=SEEDS, scale=st.sampled_from([1e-20, 1.0, 1e20]))
def test_values_of_columns_in_full_err_by_half_a_step_and_what_the_grid_takes(
    n: int, k: int, seed: int, scale: float
) -> None:
    columns = unlike(n, k, seed).T * np.float32(scale)
    y = decode_columns(encode_columns(columns, 10 * n * k + 100), k, n)  # in full: all with 256 levels
    grid = (columns.max() - columns.min()) / 255
    step = (columns.max(axis=1) - columns.min(axis=1) + 2 * grid) / 255
    assert (np.abs(y - columns) <= (0.5 * step + 2e-3 * np.abs(columns).max())[:, None]).all()


@settings(deadline=None)
@given(n=st.integers(1, 25), k=st.integers(1, 40), spare=st.integers(0, 400), seed=SEEDS)
def test_columns_never_take_more_than_they_may_and_more_bytes_never_hurt_much(
    n: int, k: int, spare: int, seed: int
) -> None:
    columns = np.ascontiguousarray(unlike(n, k, seed).T)
    payload, more = (encode_columns(columns, least_bytes(k) + most) for most in (spare, 2 * spare + 100))
    assert len(payload) <= least_bytes(k) + spare
    errors = [float(np.square(decode_columns(each, k, n) - columns).sum()) for each in (payload, more)]
    assert errors[1] <= 1.2 * errors[0] + 1e-6 * float(np.square(columns).sum())


def test_wide_columns_have_more_levels_as_the_closed_form_says() -> None:
    ranges = np.arange(256)
    for level in (np.float16(0), np.float16(1e-4), np.float16(0.03), np.float16(7), np.float16(60000)):
        levels = levels_of(ranges, level)
        for r, q in zip(ranges, levels, strict=True):
            root = [z.real for z in np.roots([1, 0, -float(level) * r**2, -float(level) * r**2])]
            assert abs(min(max(1 + max(root), 2), 256) - q) <= 0.5 + 1e-6
    assert levels_of(ranges, np.float16(0.03))[255] > levels_of(ranges, np.float16(0.03))[100] > 2


def test_a_grid_that_leads_beyond_float32_is_refused() -> None:
    payload = bytearray(encode_columns(matrix(2, 3), 100))
    start = 1 + 0  # all columns are in full
    for first in (start, start + 3):
        payload[first : first + 3] = bytes([112]) + struct.pack("<e", 65504)
    with pytest.raises(WireError, match="not-finite"):
        decode_columns(bytes(payload), 2, 3)


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (7, struct.pack("<e", np.nan), "range"),
        (7, struct.pack("<e", -1.0), "range"),
        (9, b"\xff\xff\0\0", "range"),
    ],
)
def test_levels_and_ends_that_mean_nothing_are_refused(at: int, value: bytes, reason: str) -> None:
    payload = bytearray(encode_columns(matrix(2, 3), 100))
    payload[at : at + len(value)] = value
    with pytest.raises(WireError, match=reason):
        decode_columns(bytes(payload), 2, 3)


# digits


@given(levels=st.integers(2, 256), data=st.data())
def test_digits_survive_in_little_more_than_their_information(levels: int, data: st.DataObject) -> None:
    digits = np.array(data.draw(st.lists(st.integers(0, levels - 1), max_size=60)), np.uint8)
    encoded = encode_digits(digits, levels)
    assert len(encoded) == digits_bytes(digits.size, levels)
    np.testing.assert_array_equal(decode_digits(encoded, levels, digits.size), digits)
    assert digits_bytes(10_000, levels) <= 1.09 * 10_000 * np.log2(levels) / 8 + 3


@given(levels=st.integers(2, 256), count=st.integers(0, 40), data=st.data())
def test_other_words_are_refused_or_digits(levels: int, count: int, data: st.DataObject) -> None:
    size = digits_bytes(count, levels)
    payload = data.draw(st.binary(min_size=size, max_size=size))
    try:
        digits = decode_digits(payload, levels, count)
    except WireError:
        return
    assert (digits < levels).all()
    assert encode_digits(digits, levels) == payload


def test_the_bytes_of_digits() -> None:
    assert encode_digits(np.array([2, 1, 0, 0, 2, 1], np.uint8), 3) == bytes([2 + 3 * 1 + 81 * 2, 1])
