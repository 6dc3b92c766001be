"""Codecs that see the shapes of a head's parameters: rows that were touched, products of thin matrices."""

import contextlib

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from broker.codecs import Codec, Float16, Float32, LowRank, TouchedRows, codec_from_wire, codec_to_wire
from broker.codecs.coding.row_set import decode_rows, encode_rows
from broker.codecs.coding.row_values import WIDTHS, quantized, read_rows, rows_bytes
from broker.codecs.heads.matrices import Matrices, Shape, matrix_shape
from broker.wire.errors import WireError
from scenarios.heads.payload import HeadCodec

Array = npt.NDArray[np.float32]
BITS = st.sampled_from(WIDTHS)
SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 300))
SEEDS = st.integers(0, 2**32 - 1)
KINDS: list[Codec] = [*(TouchedRows(bits=b) for b in WIDTHS), *(LowRank(rank=3, bits=b) for b in WIDTHS)]


def matrix(n: int, d: int, seed: int = 0, *, touched: float = 1.0, scale: float = 1.0) -> Array:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)).astype(np.float32) * np.float32(scale)
    x[rng.random(n) >= touched] = 0
    return x


def through(codec: Codec, x: Array, seed: int = 0) -> Array:
    return codec.decode(codec.encode(x, np.random.default_rng(seed)), *x.shape)


def error_of(codec: Codec, x: Array) -> float:
    return float(np.square(through(codec, x) - x).sum() / np.square(x).sum())


# both


@settings(deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    shape=SHAPES,
    seed=SEEDS,
    touched=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
    scale=st.sampled_from([1e-40, 1e-6, 1.0, 1e20]),
)
def test_rows_that_are_zero_stay_zero_and_a_payload_is_never_longer_than_told(
    kind: Codec, shape: tuple[int, int], seed: int, touched: float, scale: float
) -> None:
    x = matrix(*shape, seed, touched=touched, scale=scale)
    before = x.copy()
    payload = kind.encode(x, np.random.default_rng(seed))
    assert kind.encode(x, np.random.default_rng(seed)) == payload
    assert (x == before).all()
    assert len(payload) <= kind.size_bytes(*shape)
    assert kind.fits(len(payload), *shape)
    assert not kind.fits(kind.size_bytes(*shape) + 1, *shape)
    assert not kind.fits(0, *shape)
    y = kind.decode(payload, *shape)
    assert y.shape == x.shape
    assert y.dtype == np.float32
    assert y.flags.writeable
    assert not y[~x.any(axis=1)].any()


@settings(deadline=None, max_examples=40)
@given(kind=st.sampled_from(KINDS), shape=st.tuples(st.integers(1, 30), st.integers(1, 60)))
@example(
    kind=LowRank(rank=3, bits=4), shape=(14, 4)
)  # 12 rows travel as values, which are longer than factors
def test_the_greatest_length_is_nearly_one_that_occurs(kind: Codec, shape: tuple[int, int]) -> None:
    x, lengths = matrix(*shape), []
    for row in range(shape[0]):
        lengths.append(len(kind.encode(x, np.random.default_rng(0))))
        x[row] = 0
    assert max(lengths) <= kind.size_bytes(*shape) <= max(lengths) + -(-shape[0] // 8)


@settings(deadline=None)
@given(kind=st.sampled_from(KINDS), shape=SHAPES, data=st.data())
def test_arbitrary_bytes_raise_nothing_but_wire_errors(
    kind: Codec, shape: tuple[int, int], data: st.DataObject
) -> None:
    payload = bytearray(kind.encode(matrix(*shape, touched=0.5), np.random.default_rng(0)))
    payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    random = data.draw(st.one_of(st.just(bytes(payload)), st.binary(max_size=40)))
    try:
        y = kind.decode(random, *shape)
    except WireError:
        return
    assert np.isfinite(y).all()


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_and_overlong_payloads_are_refused(kind: Codec) -> None:
    payload = kind.encode(matrix(30, 40, touched=0.5), np.random.default_rng(0))
    for wrong in (b"", payload[:-1], payload + b"\0"):
        with pytest.raises(WireError):
            kind.decode(wrong, 30, 40)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_encoded(kind: Codec, value: float) -> None:
    x = matrix(5, 50)
    x[3, 2] = value
    with pytest.raises(ValueError, match="not finite"):
        kind.encode(x, np.random.default_rng(0))


@pytest.mark.parametrize(
    "parts",
    [
        ["touched_rows", 5],
        ["low_rank", 0, 4],
        ["low_rank", 65, 4],
        ["low_rank", 2, 2],
        ["touched_rows", 4, 65],
        ["touched_rows", 4, -1],
    ],
)
def test_impossible_parameters_are_refused(parts: list[object]) -> None:
    with pytest.raises(WireError, match="range"):
        codec_from_wire(parts)


@pytest.mark.parametrize("kind", KINDS)
def test_codecs_survive_as_lists(kind: TouchedRows | LowRank) -> None:
    assert codec_from_wire(codec_to_wire(kind)) == kind


# which rows


@given(st.integers(1, 3000), st.data())
def test_row_numbers_survive(total: int, data: st.DataObject) -> None:
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, total - 1), max_size=60))), np.int64)
    found, rest = decode_rows(encode_rows(rows, total) + b"rest", total)
    assert found.tolist() == rows.tolist()
    assert rest == b"rest"


def test_all_rows_cost_a_byte_or_two_and_few_rows_few_bits() -> None:
    assert encode_rows(np.arange(100), 100) == bytes([100])
    assert encode_rows(np.arange(0), 100) == bytes([0])
    few = np.sort(np.random.default_rng(0).choice(5001, 374, replace=False))
    entropy_bytes = 0.383 * 5001 / 8
    assert entropy_bytes < len(encode_rows(few, 5001)) < 1.25 * entropy_bytes


@pytest.mark.parametrize(
    "data", [bytes([6]), bytes([255, 255, 255, 255, 255, 127]), bytes([2]), bytes([128]), b""]
)
def test_more_rows_than_there_are_take_no_memory(data: bytes) -> None:
    with pytest.raises(WireError):
        decode_rows(data, 5)


# values of rows


@settings(deadline=None)
@given(shape=SHAPES, bits=BITS, seed=SEEDS, scale=st.sampled_from([1e-38, 1e-6, 1.0, 1e30]))
def test_a_row_is_the_same_whatever_rows_come_with_it(
    shape: tuple[int, int], bits: int, seed: int, scale: float
) -> None:
    """What some rows were quantized to among all is what their receiver gets, to the bit."""
    rng = np.random.default_rng(seed)
    x = matrix(*shape, seed, scale=scale) * np.float32(10.0) ** rng.integers(-9, 8, (shape[0], 1))
    every = quantized(x.astype(np.float32), bits)
    rows = np.flatnonzero(rng.random(shape[0]) < 0.3)
    data = every.take(rows).to_bytes()
    assert len(data) == rows_bytes(rows.size, shape[1], bits)
    arrived = read_rows(data, rows.size, shape[1], bits).vectors()
    assert arrived.tobytes() == every.vectors()[rows].tobytes()


@pytest.mark.parametrize(("bits", "steps"), [(4, 7), (8, 127)])
def test_integers_err_by_half_a_step_of_their_own_block(bits: int, steps: int) -> None:
    x = matrix(4, 600) * np.array([[1], [1e-5], [1e4], [1]], np.float32)
    y = through(TouchedRows(bits=bits), x)
    for row, sent in zip(x, y, strict=True):
        for first in (0, 256, 512):
            block = slice(first, first + 256)
            step = 1.01 * np.abs(row[block]).max() / steps
            assert np.abs(row[block] - sent[block]).max() <= step / 2


def test_32_bits_are_exact_and_16_nearly() -> None:
    x = matrix(50, 20, touched=0.3)
    assert (through(TouchedRows(bits=32), x) == x).all()
    np.testing.assert_allclose(through(TouchedRows(bits=16), x), x, rtol=1e-3)


def test_the_bytes_of_touched_rows() -> None:
    x = np.zeros((16, 2), np.float32)
    x[3] = [7, -7]
    payload = TouchedRows(bits=4).encode(x, np.random.default_rng(0))
    assert payload[0] == 1  # one row
    assert payload[1:3] == bytes([8, 0])  # as a bitmap
    assert payload[3:] == bytes([0xF2, 0x00, 0x74, 0x0E])  # 2**-14 times the scale 2**14, and the codes 14, 0


# products of thin matrices


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_a_matrix_of_the_rank_arrives_whole(rank: int) -> None:
    rng = np.random.default_rng(rank)
    x = (rng.standard_normal((60, rank)) @ rng.standard_normal((rank, 90))).astype(np.float32)
    np.testing.assert_allclose(through(LowRank(rank=rank, bits=32), x), x, atol=1e-4)
    assert error_of(LowRank(rank=rank, bits=8), x) < 1e-3
    assert error_of(LowRank(rank=rank, bits=4), x) < 0.05


@settings(deadline=None, max_examples=40)
@given(shape=st.tuples(st.integers(20, 80), st.integers(20, 80)), rank=st.integers(1, 5), seed=SEEDS)
def test_no_product_of_that_rank_is_much_nearer(shape: tuple[int, int], rank: int, seed: int) -> None:
    x = matrix(*shape, seed) * np.exp(-np.arange(shape[1], dtype=np.float32) / 3)
    best = np.square(np.linalg.svd(x.astype(float), compute_uv=False)[rank:]).sum() / np.square(x).sum()
    assert best - 1e-6 <= error_of(LowRank(rank=rank, bits=32), x) <= 1.05 * best + 1e-6


def test_what_rounding_does_to_the_directions_is_made_up_for() -> None:
    ours, apart = [], []
    for seed in range(20):
        x = matrix(60, 3, seed) @ matrix(3, 90, seed + 100)
        ours.append(error_of(LowRank(rank=3, bits=4), x))
        left = np.linalg.svd(x)[0][:, :3].T
        product = quantized(left, 4).vectors().T @ quantized(left @ x, 4).vectors()
        apart.append(float(np.square(product - x).sum() / np.square(x).sum()))
    assert np.mean(ours) < 0.98 * np.mean(apart)


@pytest.mark.parametrize("shape", [(1, 32), (3, 4), (200, 1)])
def test_matrices_that_are_thin_already_are_sent_as_they_are(shape: tuple[int, int]) -> None:
    x = matrix(*shape)
    assert (through(LowRank(rank=4, bits=32), x) == x).all()


def test_the_size_is_that_of_the_factors_of_the_rows_that_were_touched() -> None:
    x = np.zeros((5001, 128), np.float32)
    x[:400] = matrix(400, 128)
    factors = rows_bytes(4, 400, 4) + rows_bytes(4, 128, 4)
    which = len(encode_rows(np.arange(400), 5001))
    assert len(LowRank(rank=4).encode(x, np.random.default_rng(0))) == which + factors


# heads


@settings(deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    shapes=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 40)), min_size=1, max_size=4),
    statistics=st.integers(0, 5),
    seed=SEEDS,
)
def test_each_parameter_tensor_of_a_head_is_its_own_matrix(
    kind: Codec, shapes: list[tuple[int, int]], statistics: int, seed: int
) -> None:
    parts = [matrix(*shape, seed, touched=0.7) for shape in shapes]
    sizes = [part.size for part in parts]
    last = np.arange(statistics, dtype=np.float32)
    vector = np.concatenate([*(part.reshape(-1) for part in parts), last])
    head = HeadCodec(kind, statistics, tuple(Shape(*shape) for shape in shapes))
    payload = head.encode(vector, np.random.default_rng(seed))
    assert head.fits(len(payload), sum(sizes))
    assert len(payload) <= head.size_bytes(sum(sizes))
    arrived = head.decode(payload, sum(sizes))
    rng = np.random.default_rng(seed)
    alone = [kind.decode(kind.encode(part, rng), *part.shape).reshape(-1) for part in parts]
    assert (arrived == np.concatenate([*alone, last])).all()


@settings(deadline=None)
@given(kind=st.sampled_from([*KINDS, TouchedRows(bits=4, rank=3)]), data=st.data())
def test_heads_of_arbitrary_bytes_are_refused_or_finite(kind: Codec, data: st.DataObject) -> None:
    codec = Matrices(kind, (Shape(6, 8, embedding=True), Shape(1, 8), Shape(8, 6)))
    whole = codec.encode(matrix(1, 104), np.random.default_rng(0))
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = whole[:at] + data.draw(st.binary(max_size=3)) + whole[at + 1 :]
    with contextlib.suppress(WireError):
        assert np.isfinite(codec.decode(changed, 1, 104)).all()


def test_other_codecs_see_one_row() -> None:
    x = matrix(1, 40)
    for plain in (Float32(), Float16()):
        with_shapes = HeadCodec(plain, 0, (Shape(4, 8), Shape(1, 8))).encode(x[0], np.random.default_rng(0))
        assert with_shapes == plain.encode(x, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("dimensions", "shape"),
    [((5001, 128), (5001, 128)), ((64, 32, 3, 3), (64, 288)), ((128,), (1, 128)), ((), (1, 1))],
)
def test_rows_are_words_outputs_and_channels(dimensions: tuple[int, ...], shape: tuple[int, int]) -> None:
    assert matrix_shape(dimensions) == Shape(*shape)


# embeddings and other layers


@settings(deadline=None, max_examples=40)
@given(
    shapes=st.lists(
        st.builds(Shape, st.integers(1, 30), st.integers(1, 40), st.booleans()), min_size=1, max_size=4
    ),
    rank=st.integers(1, 9),
    bits=BITS,
    wanted=st.sampled_from([0.0, 0.3, 1.0]),
    seed=SEEDS,
)
def test_with_a_rank_embeddings_travel_as_rows_and_all_else_as_products(
    shapes: list[Shape], rank: int, bits: int, wanted: float, seed: int
) -> None:
    parts = [matrix(shape.rows, shape.columns, seed, touched=0.7) for shape in shapes]
    of_kind = {True: TouchedRows(bits=bits), False: LowRank(rank=rank, bits=bits)}
    rng, total = np.random.default_rng(seed), sum(shape.values for shape in shapes)
    alone = [
        of_kind[shape.embedding].decode(of_kind[shape.embedding].encode(part, rng), *part.shape)
        for shape, part in zip(shapes, parts, strict=True)
    ]
    head = HeadCodec(TouchedRows(bits=bits, rank=rank), 0, tuple(shapes))
    whole = head.encode(np.concatenate([part.reshape(-1) for part in parts]), np.random.default_rng(seed))
    assert len(whole) <= head.size_bytes(total)
    assert head.fits(len(whole), total)
    assert (head.decode(whole, total) == np.concatenate([each.reshape(-1) for each in alone])).all()
    rows = [np.flatnonzero(np.random.default_rng(seed).random(shape.rows) < wanted) for shape in shapes]
    some = head.part(
        whole, b"".join(encode_rows(*pair) for pair in zip(rows, (s.rows for s in shapes), strict=True))
    )
    for shape, those, each in zip(shapes, rows, alone, strict=True):
        if shape.embedding:
            each[np.setdiff1d(np.arange(shape.rows), those)] = 0
    assert (head.decode(some, total) == np.concatenate([each.reshape(-1) for each in alone])).all()


def test_without_a_rank_the_codec_is_told_as_ever() -> None:
    assert codec_to_wire(TouchedRows(bits=4)) == [11, 4]
    assert codec_to_wire(TouchedRows(bits=4, rank=16)) == [11, 4, 16]
