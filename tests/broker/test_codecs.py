import itertools
import re
import struct
from dataclasses import FrozenInstanceError

import numpy as np
import pydantic
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from broker.codecs import (
    CODECS,
    Codec,
    CodedPq,
    Float16,
    Float32,
    Int2,
    Int4,
    Int8,
    Nsc,
    Pq,
    SampleMean,
    SlFac,
    codec_from_wire,
    codec_to_wire,
)
from broker.codecs.base import Matrix
from broker.codecs.coding.block_float16 import decode_halves, encode_halves
from broker.wire.bits import pack
from broker.wire.errors import WireError

EVERY_KIND: list[tuple[Codec, int]] = [  # with an activation size that fits
    (Float32(), 13),
    (Float16(), 13),
    (Int8(), 13),
    (Int4(), 300),
    (Int2(), 300),
    (Pq(subvectors=6, groups=1, centroids=2), 24),
    (Pq(subvectors=6, groups=3, centroids=5), 24),
    (Pq(subvectors=6, groups=6, centroids=256), 6),
    (Pq(subvectors=1, groups=1, centroids=1), 7),
]
LOSSY = [(codec, d) for codec, d in EVERY_KIND if codec != Float32()]
SMALLEST = 2.0**-149


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def matrix(n: int, d: int, *, scale: float = 1.0, seed: int = 0) -> Matrix:
    return (generator(seed).standard_normal((n, d)) * scale).astype(np.float32)


def relu_matrix(n: int, d: int, seed: int = 0) -> Matrix:
    return np.maximum(matrix(n, d, seed=seed), 0)


# All codecs


@given(
    which=st.sampled_from(EVERY_KIND),
    n=st.integers(1, 40),
    scale=st.sampled_from([0.0, SMALLEST, 1e-40, 1e-6, 1.0, 1e30, 2.0**123]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None)
def test_shape_size_and_determinism(which: tuple[Codec, int], n: int, scale: float, seed: int) -> None:
    codec, d = which
    x = matrix(n, d, scale=scale, seed=seed)
    before = x.copy()
    payload = codec.encode(x, generator(seed))
    assert len(payload) == codec.size_bytes(n, d)
    assert codec.encode(x, generator(seed)) == payload
    np.testing.assert_array_equal(x, before)
    y = codec.decode(payload, n, d)
    assert y.shape == (n, d)
    assert y.dtype == np.float32
    assert y.flags.writeable
    assert np.abs(y - x).max() <= 2.01 * max(np.abs(x).max(), 2.0**-126)


@pytest.mark.parametrize(("codec", "d"), EVERY_KIND)
def test_arrays_that_are_not_contiguous_encode_like_their_copies(codec: Codec, d: int) -> None:
    x = matrix(2 * d, 9)[::2].T
    assert codec.encode(x, generator()) == codec.encode(x.copy(), generator())


@pytest.mark.parametrize(("codec", "d"), EVERY_KIND)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_encoded(codec: Codec, d: int, value: float) -> None:
    x = matrix(5, d)
    x[3, 2] = value
    with pytest.raises(ValueError, match="not finite"):
        codec.encode(x, generator())


@pytest.mark.parametrize(("codec", "d"), LOSSY)
def test_lossy_codecs_refuse_what_the_receiver_could_not_represent(codec: Codec, d: int) -> None:
    x = matrix(5, d)
    x[3, 2] = -(2.0**127)
    with pytest.raises(ValueError, match="not finite"):
        codec.encode(x, generator())
    x[3, 2] = np.nextafter(np.float32(2.0**127), np.float32(0))
    assert np.isfinite(codec.decode(codec.encode(x, generator()), 5, d)).all()


@pytest.mark.parametrize(("codec", "d"), EVERY_KIND)
def test_truncated_and_overlong_payloads_are_refused(codec: Codec, d: int) -> None:
    payload = codec.encode(matrix(3, d), generator())
    for wrong in (b"", payload[:-1], payload + b"\0"):
        with pytest.raises(WireError, match="shape"):
            codec.decode(wrong, 3, d)


@given(which=st.sampled_from(EVERY_KIND), data=st.data())
def test_arbitrary_bytes_raise_nothing_but_wire_errors(which: tuple[Codec, int], data: st.DataObject) -> None:
    codec, d = which
    size = codec.size_bytes(2, d)
    payload = data.draw(st.one_of(st.binary(min_size=size, max_size=size), st.binary(max_size=size + 4)))
    try:
        y = codec.decode(payload, 2, d)
    except WireError:
        return
    assert np.isfinite(y).all()


@pytest.mark.parametrize(("codec", "d"), EVERY_KIND)
def test_an_exponent_that_overflows_is_refused(codec: Codec, d: int) -> None:
    payload = codec.encode(matrix(3, d), generator())
    for exponent in (127, 128):  # 128 is -128 as a signed byte
        if codec != Float32():
            with pytest.raises(WireError, match="range"):
                codec.decode(bytes([exponent]) + payload[1:], 3, d)


@pytest.mark.parametrize(("codec", "d"), EVERY_KIND)
def test_nan_on_the_wire_is_refused(codec: Codec, d: int) -> None:
    payload = codec.encode(matrix(3, d), generator())
    nan = struct.pack("<f", np.nan) if codec == Float32() else payload[:1] + struct.pack("<e", np.nan)
    with pytest.raises(WireError, match="not-finite"):
        codec.decode(nan + payload[len(nan) :], 3, d)


# float32 and float16


def test_float32_is_exact() -> None:
    x = np.array([[0.1, -0.0, SMALLEST], [3.4e38, -1e-6, 1]], np.float32)
    payload = Float32().encode(x, generator())
    assert payload == struct.pack("<6f", *x.ravel())
    np.testing.assert_array_equal(Float32().decode(payload, 2, 3), x)


@given(
    st.lists(st.floats(-(2.0**126), 2.0**126, width=32, allow_subnormal=False), min_size=1, max_size=30),
    st.integers(-100, 0),
)
def test_float16_keeps_eleven_bits_within_a_range_of_eight_decades(values: list[float], power: int) -> None:
    x = np.array([values], np.float32) * np.float32(2.0**power)
    y = Float16().decode(Float16().encode(x, generator()), 1, x.size)
    near = np.abs(x) >= max(2.0**-28 * np.abs(x).max(), 2.0**-120)
    assert (np.abs(y - x)[near] <= 2.0**-10 * np.abs(x)[near]).all()


def test_float16_bytes_are_an_exponent_and_little_endian_halves() -> None:
    x = np.array([[1e-6, -(2.0**-30), 0]], np.float32)  # 1e-6 is below 2**-19
    payload = Float16().encode(x, generator())
    assert payload == struct.pack("<b3e", -34, 1e-6 * 2**34, -(2.0**4), 0)


# Integers


INTEGERS = [Int8(), Int4(), Int2()]


@pytest.mark.parametrize(("codec", "steps"), [(Int8(), 254), (Int4(), 14), (Int2(), 3)])
@pytest.mark.parametrize("scale", [1e-6, 1.0])
def test_integers_err_by_less_than_a_step_of_their_block(codec: Codec, steps: int, scale: float) -> None:
    x = matrix(3, 300, scale=scale) * np.repeat(np.array([1, 100, 0.01], np.float32), 300).reshape(3, 300)
    y = codec.decode(codec.encode(x, generator()), 3, 300)
    blocks = np.pad(np.abs(x).ravel(), (0, -x.size % 256)).reshape(-1, 256)
    scales = np.repeat(2 * blocks.max(axis=1) / steps, 256)[: x.size].reshape(x.shape)
    assert (np.abs(y - x) <= 1.001 * scales).all()


@pytest.mark.parametrize("codec", INTEGERS)
def test_integers_are_right_on_average(codec: Int8 | Int4 | Int2) -> None:
    x = matrix(1, 512, scale=1e-6)
    rng = generator()
    tries = 2000
    mean = np.mean([codec.decode(codec.encode(x, rng), 1, 512) for _ in range(tries)], axis=0)
    step = 1.001 * codec.step * np.abs(x).max() / codec.largest
    assert np.abs(mean - x).max() < 5 * 0.5 * step / tries**0.5  # five deviations of the mean at most


def test_values_far_below_the_rest_of_their_block_are_still_right_on_average() -> None:
    x = np.full((1, 2048), 1e-3, np.float32)
    x[0, :256] = 1e-30  # a block of its own, whose scale float16 can't hold beside the others
    x[0, 256] = 1e9
    rng = generator()
    mean = np.mean([Int8().decode(Int8().encode(x, rng), 1, 2048) for _ in range(200)], axis=0)
    assert abs(mean[0, 512:].mean() / 1e-3 - 1) < 0.01


@pytest.mark.parametrize(
    ("codec", "size"),
    [
        (Int8(), 1 + 2 * 720 + 184_320),
        (Int4(), 1 + 2 * 720 + 92_160),
        (Int2(), 1 + 2 * 720 + 46_080),
    ],
)
def test_integers_cost_their_bits_and_two_bytes_per_block(codec: Codec, size: int) -> None:
    assert codec.size_bytes(20, 9216) == size


def test_integer_bytes_are_exponent_scales_and_offset_integers() -> None:
    x = np.array([[7, -7, 0, 3.5]], np.float32)
    payload = Int4().encode(x, generator())
    exponent, scale = struct.unpack("<be", payload[:3])
    assert 1 <= scale * 2.0**exponent <= 1.001
    assert payload[3] in (0x0D, 0x0E)  # 6 or 7, and -7 in the upper half
    assert payload[4] in (0xA7, 0xB7)  # 0, and 3 or 4 in the upper half


@pytest.mark.parametrize(
    ("codec", "payload", "values"),
    [
        (Int8(), "ec0d76fe00aa55", [127, -127, 43, -42]),
        (Int4(), "f0dc760e5a", [7, -7, 3, -2]),
        (Int2(), "f2017463", [3, -3, 1, -1]),
    ],
)
def test_integers_keep_their_golden_bytes(codec: Codec, payload: str, values: list[int]) -> None:
    x = np.array([[3, -3, 1, -1]], np.float32)
    assert codec.encode(x, generator()).hex() == payload
    exponent, scale = struct.unpack("<be", bytes.fromhex(payload)[:3])
    y = codec.decode(bytes.fromhex(payload), 1, 4)
    np.testing.assert_array_equal(y, np.array([values]) * np.float32(scale * 2.0**exponent))


@pytest.mark.parametrize("codec", [Int8(), Int4()])
def test_integers_beyond_the_largest_are_refused(codec: Codec) -> None:
    payload = codec.encode(matrix(1, 4), generator())
    with pytest.raises(WireError, match="range"):
        codec.decode(payload[:-1] + b"\xff", 1, 4)


@pytest.mark.parametrize("codec", [Int8(), Int4()])
def test_zero_blocks_stay_zero(codec: Codec) -> None:
    x = matrix(1, 600)
    x[0, 256:512] = 0
    y = codec.decode(codec.encode(x, generator()), 1, 600)
    assert not y[0, 256:512].any()
    assert y[0, :256].any()


# Product quantization


def test_the_paper_counts_490_times_less() -> None:
    codec = Pq(subvectors=1152, groups=1, centroids=2)
    size = codec.size_bytes(20, 9216)
    assert round(64 * 20 * 9216 / codec.paper_bits(20, 9216, size), 2) == 490.21
    assert round(32 * 20 * 9216 / codec.paper_bits(20, 9216, size, float_bits=32), 1) == 250.4


@pytest.mark.parametrize(
    ("codec", "size"),
    [
        (Pq(subvectors=1152, groups=1, centroids=2), 2913),
        (Pq(subvectors=1152, groups=1, centroids=32), 14_913),
        (Pq(subvectors=288, groups=1, centroids=32), 5649),
        (Pq(subvectors=1152, groups=1152, centroids=2), 39_745),
        (Pq(subvectors=144, groups=2, centroids=3), 1 + 2 * 2 * 3 * 64 + 720),
        (Pq(subvectors=1, groups=1, centroids=1), 1 + 2 * 9216),
    ],
)
def test_pq_size_is_codebook_and_packed_codes(codec: Pq, size: int) -> None:
    assert codec.size_bytes(20, 9216) == size
    assert len(codec.encode(relu_matrix(20, 9216), generator())) == size


def test_pq_bytes_are_exponent_codebook_and_codes_row_by_row() -> None:
    x = np.array([[1, 2, 1, 2, 5, 5, 6, 6], [3, 4, 1, 2, 6, 6, 6, 6]], np.float32)
    codec = Pq(subvectors=4, groups=2, centroids=2)
    payload = codec.encode(x, generator())
    exponent, *halves = struct.unpack("<b8e", payload[:17])
    book = np.array(halves).reshape(2, 2, 2) * 2.0**exponent
    codes = [[payload[17] >> (4 * row + position) & 1 for position in range(4)] for row in range(2)]
    for row, position in itertools.product(range(2), range(4)):
        group = position // 2
        assert book[group, codes[row][position]].tolist() == x[row, 2 * position : 2 * position + 2].tolist()


def test_groups_are_of_positions_and_not_of_rows() -> None:
    """Positions 0 and 1 hold small values, 2 and 3 large ones, so only codebooks of positions fit all."""
    small, large = relu_matrix(50, 8), 100 + relu_matrix(50, 8, seed=1)
    x = np.concatenate((small, large), axis=1)
    y = Pq(subvectors=4, groups=2, centroids=1).decode(
        Pq(subvectors=4, groups=2, centroids=1).encode(x, generator()), 50, 16
    )
    expected = np.concatenate(
        [np.tile(half.reshape(-1, 4).mean(axis=0), (50, 2)) for half in (small, large)], axis=1
    )
    np.testing.assert_allclose(y, expected, rtol=2e-3, atol=0.04)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_each_group_alone_gives_what_all_together_give(groups: int) -> None:
    rng = generator(3)
    levels = rng.standard_normal((groups, 3, 4)).astype(np.float32)
    codes = rng.integers(3, size=(10, groups, 6 // groups))
    x = levels[np.arange(groups)[None, :, None], codes].reshape(10, 24)
    codec = Pq(subvectors=6, groups=groups, centroids=3)
    np.testing.assert_allclose(codec.decode(codec.encode(x, rng), 10, 24), x, rtol=1e-3, atol=1e-3)


@given(
    seed=st.integers(0, 2**32 - 1),
    kinds=st.integers(1, 9),
    spare=st.integers(0, 3),
    groups=st.sampled_from([1, 2, 4]),
    n=st.integers(1, 60),
    scale=st.sampled_from([1e-42, 1e-20, 1e-6, 1.0, 1e35]),
)
@settings(deadline=None)
def test_enough_centroids_reconstruct_to_float16(
    seed: int, kinds: int, spare: int, groups: int, n: int, scale: float
) -> None:
    rng = generator(seed)
    levels = (rng.uniform(0.5, 1, (kinds, 3)) * rng.choice([-1, 1], (kinds, 3)) * scale).astype(np.float32)
    x = levels[rng.integers(kinds, size=(n, 4))].reshape(n, 12)
    codec = Pq(subvectors=4, groups=groups, centroids=kinds + spare)
    y = codec.decode(codec.encode(x, rng), n, 12)
    np.testing.assert_allclose(y, x, rtol=2.0**-10, atol=2 * SMALLEST if scale < 1e-38 else 0)


@pytest.mark.parametrize("value", [0.0, 2.5, -1e-6])
@pytest.mark.parametrize(
    "codec", [Pq(subvectors=6), Pq(subvectors=6, groups=6), Pq(subvectors=1, centroids=9)]
)
@pytest.mark.parametrize("n", [1, 20])
def test_constant_batches(value: float, codec: Pq, n: int) -> None:
    x = np.full((n, 24), value, np.float32)
    np.testing.assert_allclose(codec.decode(codec.encode(x, generator()), n, 24), x, rtol=2.0**-11)


def test_q_of_one_is_kmeans_of_whole_rows() -> None:
    kinds = matrix(3, 50)
    x = kinds[np.arange(20) % 3]
    codec = Pq(subvectors=1, centroids=3)
    np.testing.assert_allclose(codec.decode(codec.encode(x, generator()), 20, 50), x, rtol=1e-3, atol=2e-3)


def test_codes_refer_to_the_codebook_as_it_arrives() -> None:
    codec = Pq(subvectors=64, centroids=16)
    x = relu_matrix(20, 512)
    payload = codec.encode(x, generator())
    book = decode_halves(payload, 16 * 8).reshape(16, 8)
    gaps = ((x.reshape(-1, 1, 8) - book) ** 2).sum(axis=2)
    y = codec.decode(payload, 20, 512)
    np.testing.assert_allclose(
        ((x - y).reshape(-1, 8) ** 2).sum(axis=1), gaps.min(axis=1), rtol=1e-3, atol=1e-6
    )


def test_codes_that_stand_for_nothing_are_refused() -> None:
    book = encode_halves(matrix(3, 2))
    codes = np.array([0, 1, 3, 2], np.uint8)
    with pytest.raises(WireError, match="range"):
        Pq(subvectors=2, centroids=3).decode(book + pack(codes, 2), 2, 4)


def test_pad_bits_of_codes_must_be_zero() -> None:
    payload = Pq(subvectors=3, centroids=2).encode(matrix(1, 6), generator())
    with pytest.raises(WireError, match="malformed"):
        Pq(subvectors=3, centroids=2).decode(payload[:-1] + bytes([payload[-1] | 8]), 1, 6)


@pytest.mark.parametrize(
    ("subvectors", "groups", "centroids", "text"),
    [
        (0, 1, 2, "subvectors must be 1 to"),
        (12, 5, 2, "groups must divide subvectors"),
        (12, 0, 2, "groups must divide subvectors"),
        (12, 1, 0, "centroids must be 1 to 256"),
        (12, 1, 257, "centroids must be 1 to 256"),
    ],
)
def test_impossible_parameters_are_refused_by_name(
    subvectors: int, groups: int, centroids: int, text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        Pq(subvectors=subvectors, groups=groups, centroids=centroids)


def test_subvectors_must_divide_the_activation() -> None:
    codec = Pq(subvectors=5)
    with pytest.raises(ValueError, match="must divide the 24 values; 5 does not, 4 and 6 do"):
        codec.check(24)
    with pytest.raises(ValueError, match="subvectors"):
        codec.encode(matrix(2, 24), generator())
    with pytest.raises(ValueError, match="60 does not, 24 does"):
        Pq(subvectors=60).check(24)


@given(st.integers(1, 400), st.integers(1, 500))
def test_what_does_not_divide_is_told_with_the_nearest_that_do(d: int, number: int) -> None:
    divisors = [q for q in range(1, d + 1) if d % q == 0]
    for codec in (
        Pq(subvectors=number, groups=1, centroids=2),
        CodedPq(subvectors=number),
        Nsc(columns=number),
        SampleMean(subvectors=number),
        SlFac(channels=number),
    ):
        if number in divisors:
            codec.check(d)
            continue
        with pytest.raises(ValueError, match=f"must divide the {d} values; {number} does not") as caught:
            codec.check(d)
        named = [int(each) for each in re.findall(r"\d+", str(caught.value).rpartition("not, ")[2])]
        nearest = [max(q for q in divisors if q < number), *[q for q in divisors if q > number][:1]]
        assert named == nearest


def test_vanilla_product_quantization_runs_all_positions_at_once() -> None:
    codec = Pq(subvectors=1152, groups=1152, centroids=2)
    x = relu_matrix(20, 9216)
    y = codec.decode(codec.encode(x, generator()), 20, 9216)
    assert ((x - y) ** 2).sum() < 0.85 * ((x - x.mean(axis=0)) ** 2).sum()


# On the wire and in scenarios


@pytest.mark.parametrize("codec", [codec for codec, _ in EVERY_KIND])
def test_codecs_survive_as_lists(codec: Codec) -> None:
    assert codec_from_wire(codec_to_wire(codec)) == codec


def test_the_list_is_name_and_parameters() -> None:
    assert codec_to_wire(Pq(subvectors=1152, groups=1, centroids=2)) == [7, 1152, 1, 2]
    assert codec_to_wire(Int4()) == [3]


@given(
    st.lists(
        st.one_of(st.sampled_from(list(CODECS)), st.integers(), st.booleans(), st.none(), st.floats()),
        max_size=6,
    )
)
@example(["pq", 4, 2, True])
@example(["pq", 4, 2, 2.0])
@example(["pq", "4", 2, 2])
@example(["pq", 4, 2])
@example(["pq", 4, 3, 2])
@example(["pq", 4, 2, 10**30])
@example(["pq", -4, 2, 2])
@example(["int8", 1])
@example(["Int8"])
@example([True])
@example([11])
@example([-1])
@example([7.0, 4, 2, 2])
@example([["pq"], 4])
@example([])
def test_other_lists_are_refused(parts: list[object]) -> None:
    try:
        codec = codec_from_wire(parts)
    except WireError:
        return
    number, *parameters = codec_to_wire(codec)
    assert parameters == parts[1:]
    assert parts[0] in (number, codec.codec)
    assert all(type(part) is int for part in parts[1:])


def test_codecs_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Pq().centroids = 4  # type: ignore[misc]


def test_pydantic_reads_codecs_by_their_name() -> None:
    schema: pydantic.TypeAdapter[Codec] = pydantic.TypeAdapter(Float32 | Float16 | Int8 | Int4 | Int2 | Pq)
    codec = schema.validate_python({"codec": "pq", "subvectors": 6, "groups": 3, "centroids": 4})
    assert codec == Pq(subvectors=6, groups=3, centroids=4)
    assert schema.validate_python({"codec": "int4"}) == Int4()
