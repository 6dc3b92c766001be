"""Other people's codecs: what each promises, and what all of them do with what they are given."""

import hashlib
import struct

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.codecs import C3, Codec, LowRank, Nsc, SlFac, SplitFc, codec_from_wire, codec_to_wire
from broker.codecs.coding.column_levels import decode_columns, encode_columns, least_bytes, levels_of
from broker.codecs.coding.digits import decode_digits, digits_bytes, encode_digits
from broker.codecs.coding.row_set import encode_rows
from broker.codecs.coding.row_values import quantized
from broker.codecs.published.sl_fac import cosines, zigzag
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
    (SlFac(), 1),
    (SlFac(channels=2, width=3, energy=0.7, most_bits=5, least_bits=2), 6),
    (Nsc(), 1),
    (Nsc(columns=3, rank=2, energy=1.0, bits=4), 3),
    (Nsc(rank=64, bits=32), 1),
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
        ["sl_fac", 0, 1, 0.9, 8, 0],
        ["sl_fac", 1, 1025, 0.9, 8, 0],
        ["sl_fac", 1, 1, 0.0, 8, 0],
        ["sl_fac", 1, 1, 0.9, 9, 0],
        ["sl_fac", 1, 1, 0.9, 1, 0],
        ["sl_fac", 1, 1, 0.9, 4, 5],
        ["nsc", -1, 4, 0.9, 8],
        ["nsc", 1, 0, 0.9, 8],
        ["nsc", 1, 65, 0.9, 8],
        ["nsc", 1, 4, 1.1, 8],
        ["nsc", 1, 4, 0.9, 5],
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


# sl_fac


def smooth(n: int, height: int, width: int, channels: int, seed: int = 0) -> Array:
    """Maps of low frequencies, the channels of different strength."""
    lines, columns = np.arange(height)[:, None, None], np.arange(width)[:, None]
    phases = 3 * generator(seed).random((n, 1, 1, channels))
    strengths = 10.0 ** np.linspace(0, -2, channels)
    maps = strengths * (np.cos(0.3 * lines + phases) + np.sin(0.2 * columns - phases))
    smoothed: Array = maps.reshape(n, -1).astype(np.float32)
    return smoothed


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 1), (1, 6), (4, 7)])
def test_cosines_are_orthonormal_and_the_zigzag_begins_with_the_lowest(height: int, width: int) -> None:
    for size in (height, width):
        np.testing.assert_allclose(cosines(size) @ cosines(size).T, np.eye(size), atol=1e-12)
    assert sorted(zigzag(height, width)) == list(range(height * width))
    diagonals = [place // width + place % width for place in zigzag(height, width)]
    assert diagonals == sorted(diagonals)
    if (height, width) == (4, 7):
        assert list(zigzag(4, 7))[:7] == [0, 1, 7, 14, 8, 2, 3]


@settings(deadline=None)
@given(
    n=st.integers(1, 8),
    shape=st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4)),
    bits=st.integers(2, 8),
    energy=st.sampled_from([0.3, 0.9, 1.0]),
    seed=SEEDS,
)
def test_frequencies_in_full_err_by_half_a_step_each(
    n: int, shape: tuple[int, int, int], bits: int, energy: float, seed: int
) -> None:
    height, width, channels = shape
    x = matrix(n, height * width * channels, seed)
    codec = SlFac(channels=channels, width=width, energy=energy, most_bits=bits, least_bits=bits)
    maps = x.reshape(n, height, width, channels)
    spectra = np.einsum("uh,nhwc,vw->nuvc", cosines(height), maps, cosines(width))
    step = 2 ** (1 / 8) * 1.001 * np.abs(spectra).max(axis=(0, 1, 2)) / (2 ** (bits - 1) - 1)
    error = np.square(through(codec, x) - x).sum()
    assert error <= (np.square(step / 2) * n * height * width).sum() * 1.01


def test_most_of_a_smooth_map_is_in_few_bytes() -> None:
    x = smooth(20, 12, 12, 16)
    codec = SlFac(channels=16, width=12, energy=0.99, most_bits=6)
    payload = codec.encode(x, generator())
    assert len(payload) < x.nbytes / 30
    assert np.square(codec.decode(payload, *x.shape) - x).sum() < 0.05 * np.square(x).sum()


def test_parts_of_little_energy_have_fewer_bits_and_the_least_ones_none() -> None:
    x = np.concatenate([np.full((3, 4, 1), v, np.float32) for v in (64, 16, 4, 1)], axis=2).reshape(3, 16)
    found = SlFac(channels=4, energy=1.0, most_bits=6, least_bits=0).encode(x, generator())
    # halves of the largest, K of 4 channels in 2 bits, then 4 bits for each part
    assert [found[4] & 15, found[4] >> 4, found[5] & 15, found[5] >> 4] == [6, 4, 2, 0]
    assert found[6:8] == b"\0\0"
    least = SlFac(channels=4, energy=1.0, most_bits=6, least_bits=3).encode(x, generator())
    assert [least[4] & 15, least[4] >> 4, least[5] & 15, least[5] >> 4] == [6, 4, 3, 3]


def test_the_low_part_has_the_share_of_the_energy_that_was_said() -> None:
    series = (cosines(8)[[0, 2, 5]].T @ [3.0, 2.0, 1.0]).astype(np.float32)[None]  # 9, 4 and 1 of 14
    for energy, low in ((0.5, 1), (0.9, 3), (0.95, 6)):
        assert SlFac(energy=energy).encode(series, generator())[3] == low - 1


@pytest.mark.parametrize(("channels", "width", "d"), [(3, 1, 8), (2, 3, 8), (1, 1, 1025), (1, 1024, 2**17)])
def test_rows_that_are_no_maps_are_refused(channels: int, width: int, d: int) -> None:
    with pytest.raises(ValueError, match=r"must divide|a map may have"):
        SlFac(channels=channels, width=width).check(d)


@pytest.mark.parametrize(
    ("at", "value"), [(2, 0x80), (3, 0xFF), (5, 0x10), (5, 0x09)]
)  # a magnitude below 0, too many places, one bit, more bits than may be
def test_headers_that_mean_nothing_are_refused(at: int, value: int) -> None:
    codec = SlFac(channels=2, width=3, most_bits=8)
    payload = bytearray(codec.encode(matrix(3, 18), generator()))
    payload[at] = value
    with pytest.raises(WireError, match="range"):
        codec.decode(bytes(payload), 3, 18)


# nsc


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(2, 10),
    places=st.integers(2, 12),
    columns=st.integers(3, 12),
    rank=st.integers(1, 3),
    seed=SEEDS,
)
def test_a_product_of_that_rank_survives(n: int, places: int, columns: int, rank: int, seed: int) -> None:
    rng = generator(seed)
    left, right = rng.standard_normal((n * places, rank)), rng.standard_normal((rank, columns))
    x = (left @ right).astype(np.float32).reshape(n, -1)
    assert error_of(Nsc(columns=columns, rank=4, energy=1.0, bits=32), x) < 1e-6
    assert error_of(Nsc(columns=columns, rank=4, energy=1.0, bits=8), x) < 0.02


def test_the_rank_is_as_high_as_the_energy_asks_for_and_the_budget_allows() -> None:
    x = np.diag(np.array([4, 2, 2, 1, 0], np.float32)).astype(np.float32)  # 16, 4, 4, 1 of 25
    for energy, budget, rank in (
        (0.5, 4, 1),
        (0.7, 4, 2),
        (0.95, 4, 3),
        (0.97, 4, 4),
        (1.0, 5, 5),
        (0.95, 2, 2),
    ):
        codec = Nsc(rank=budget, energy=energy, bits=32)
        payload = codec.encode(x, generator())
        assert payload[0] == rank
        assert len(payload) == 1 + 4 * 2 * 5 * rank


def test_fitting_in_turns_makes_up_for_what_rounding_loses() -> None:
    some = [(matrix(14, 4, seed) @ matrix(4, 9, seed + 1)).astype(np.float32) for seed in range(30)]
    errors = [
        float(np.mean([error_of(codec, x) for x in some]))
        for codec in (Nsc(rank=4, energy=1.0, bits=4), Rounded(rank=4, bits=4))
    ]
    assert errors[0] < 0.75 * errors[1]


class Rounded(LowRank):
    """Both factors rounded, neither of them fitted to the other."""

    def encode(self, x: Array, rng: np.random.Generator) -> bytes:  # noqa: ARG002 - as of all codecs
        left, sizes, right = np.linalg.svd(x, full_matrices=False)
        factors = (left[:, : self.rank] * sizes[: self.rank]).T, right[: self.rank]
        sent = [quantized(np.ascontiguousarray(factor), self.bits).to_bytes() for factor in factors]
        return encode_rows(np.arange(len(x)), len(x)) + b"".join(sent)


def test_a_rank_beyond_the_budget_is_refused() -> None:
    codec = Nsc(rank=2, bits=8)
    with pytest.raises(WireError, match="range"):
        codec.decode(bytes([3]) + codec.encode(matrix(8, 8), generator())[1:], 8, 8)


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


@pytest.mark.parametrize(("word", "reason"), [(2 + 3 * 1, "malformed"), (243, "range")])
def test_words_that_stand_for_no_digits_are_refused(word: int, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        decode_digits(bytes([word]), 3, 1)


def test_the_bytes_of_digits() -> None:
    assert encode_digits(np.array([2, 1, 0, 0, 2, 1], np.uint8), 3) == bytes([2 + 3 * 1 + 81 * 2, 1])
