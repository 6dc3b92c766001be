"""Codecs that send the largest values."""

import struct

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.codecs import Codec, RandomTopK, TopK, codec_from_wire, codec_to_wire
from broker.codecs.coding.elias_fano import decode_positions, encode_positions, positions_bytes
from broker.wire.errors import WireError


def matrix(n: int, d: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def through(codec: Codec, x: npt.NDArray[np.float32], seed: int = 0) -> npt.NDArray[np.float32]:
    return codec.decode(codec.encode(x, np.random.default_rng(seed)), *x.shape)


# positions


@given(st.integers(1, 5000), st.data())
def test_positions_survive_in_bytes_that_hang_on_their_number_alone(total: int, data: st.DataObject) -> None:
    chosen = data.draw(st.sets(st.integers(0, total - 1), min_size=1, max_size=60))
    positions = np.array(sorted(chosen))
    encoded = encode_positions(positions, total)
    assert len(encoded) == positions_bytes(total, positions.size)
    np.testing.assert_array_equal(decode_positions(encoded, total, positions.size), positions)


def test_positions_cost_little_more_than_the_choices_there_are() -> None:
    least_bits = 0.0808 * 184_320  # entropy of one in a hundred
    assert least_bits / 8 < positions_bytes(184_320, 1843) < 1.1 * least_bits / 8


def test_the_bytes_of_positions() -> None:
    assert encode_positions(np.array([0, 3, 7]), 8) == bytes([0b10001001])  # a bitmap
    far = encode_positions(np.array([5, 300]), 1000)  # 8 low bits each, then the bits 0 + 0 and 1 + 1
    assert far == bytes([5, 300 % 256, 0b101])


@given(st.binary(max_size=12), st.integers(1, 8), st.integers(1, 300))
def test_other_bytes_are_refused_or_ascend(data: bytes, count: int, total: int) -> None:
    try:
        positions = decode_positions(data, total, min(count, total))
    except WireError:
        return
    assert positions.size == min(count, total)
    assert (np.diff(positions) > 0).all()
    assert 0 <= positions[0] <= positions[-1] < total


def test_two_values_in_one_place_are_refused() -> None:
    with pytest.raises(WireError, match="range"):
        decode_positions(bytes([5, 5, 0b11]), 1000, 2)


# top-k


def test_topk_keeps_the_largest_of_the_whole_matrix() -> None:
    x = np.array([[1, -8, 2, 0], [4, 0, -1, 0.5]], np.float32)
    np.testing.assert_array_equal(through(TopK(fraction=0.25), x), [[0, -8, 0, 0], [4, 0, 0, 0]])


def test_topk_bytes_are_values_and_positions() -> None:
    x = np.array([[1, -8, 2, 0], [4, 0, -1, 0.5]], np.float32)
    payload = TopK(fraction=0.25).encode(x, np.random.default_rng(0))
    exponent, *values = struct.unpack("<b2e", payload[:5])
    assert [value * 2.0**exponent for value in values] == [-8, 4]
    assert payload[5:] == bytes([0b00010010])


def test_random_topk_sends_mostly_the_largest() -> None:
    x = matrix(20, 500)
    largest = through(TopK(fraction=0.1), x) != 0
    sent = through(RandomTopK(fraction=0.1, randomness=0.2), x) != 0
    assert sent.sum() == largest.sum() == 1000
    assert 120 < (sent & ~largest).sum() < 280  # of 1000, each with a chance of 0.2


# all of them


EVERY_KIND: list[Codec] = [
    TopK(fraction=0.02),
    RandomTopK(fraction=0.3, randomness=0.5),
]


@pytest.mark.parametrize("codec", EVERY_KIND)
def test_sizes_are_exact_and_the_seed_decides(codec: Codec) -> None:
    x = matrix(7, 30)
    payload = codec.encode(x, np.random.default_rng(1))
    assert len(payload) == codec.size_bytes(7, 30)
    assert payload == codec.encode(x, np.random.default_rng(1))
    for wrong in (b"", payload[:-1], payload + b"\0"):
        with pytest.raises(WireError, match="shape"):
            codec.decode(wrong, 7, 30)


@given(st.sampled_from(EVERY_KIND), st.data())
def test_arbitrary_bytes_raise_nothing_but_wire_errors(codec: Codec, data: st.DataObject) -> None:
    size = codec.size_bytes(2, 30)
    try:
        y = codec.decode(data.draw(st.binary(min_size=size, max_size=size)), 2, 30)
    except WireError:
        return
    assert np.isfinite(y).all()


@pytest.mark.parametrize("codec", EVERY_KIND)
@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_what_the_receiver_could_not_represent_is_not_encoded(codec: Codec, value: float) -> None:
    x = matrix(2, 30)
    x[1, 4] = value
    with pytest.raises(ValueError, match="not finite"):
        codec.encode(x, np.random.default_rng(0))


@pytest.mark.parametrize("codec", EVERY_KIND)
def test_nan_on_the_wire_is_refused(codec: Codec) -> None:
    payload = codec.encode(matrix(2, 30), np.random.default_rng(0))
    with pytest.raises(WireError, match="not-finite"):
        codec.decode(payload[:1] + struct.pack("<e", np.nan) + payload[3:], 2, 30)


@pytest.mark.parametrize("codec", EVERY_KIND)
def test_codecs_survive_as_lists(codec: Codec) -> None:
    assert codec_from_wire(codec_to_wire(codec)) == codec


@pytest.mark.parametrize(
    "parts",
    [["topk", 0.0], ["topk", 1.0], ["random_topk", 0.1, 1.0]],
)
def test_impossible_parameters_are_refused(parts: list[object]) -> None:
    with pytest.raises(WireError, match="range"):
        codec_from_wire(parts)


@pytest.mark.parametrize("parts", [["topk", 1], ["topk", "0.1"], ["topk", float("nan")]])
def test_parameters_of_other_types_are_refused(parts: list[object]) -> None:
    with pytest.raises(WireError):
        codec_from_wire(parts)
