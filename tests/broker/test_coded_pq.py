"""Product quantization with a small codebook and entropy-coded codes."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.codecs import CodedPq, Pq, codec_from_wire, codec_to_wire
from broker.codecs.coding.range_coder import HIGHEST_COUNT, decode_codes, encode_codes
from broker.wire.errors import WireError

CODEC = CodedPq(subvectors=16, centroids=4, width=4)
D = 16 * 8


def feature_maps(n: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Give n maps of 4 x 4 pixels with 8 channels; lines resemble the line above."""
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, 4, (n, 1, 4, 1)).repeat(4, axis=1)
    return (levels * np.linspace(1, 2, 8) + 0.1 * rng.random((n, 4, 4, 8))).reshape(n, D).astype(np.float32)


# codes


@given(st.data())
def test_codes_survive(data: st.DataObject) -> None:
    levels, width = data.draw(st.integers(1, 64)), data.draw(st.integers(1, 20))
    codes = np.array(data.draw(st.lists(st.integers(0, levels - 1), max_size=200)), np.uint8)
    back = decode_codes(encode_codes(codes, levels, width), codes.size, levels, width)
    np.testing.assert_array_equal(back, codes)


@pytest.mark.parametrize("seed", range(20))
def test_carries_run_through_settled_bytes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes = (rng.random(20_000) < 0.999).astype(np.uint8)  # mostly the upper end of the interval
    np.testing.assert_array_equal(decode_codes(encode_codes(codes, 2, 1), codes.size, 2, 1), codes)


def test_counts_are_halved_in_time() -> None:
    codes = np.zeros(HIGHEST_COUNT, np.uint8)
    codes[-1] = 1
    coded = encode_codes(codes, 2, 1)
    np.testing.assert_array_equal(decode_codes(coded, codes.size, 2, 1), codes)
    assert len(coded) < 10


def test_codes_cost_what_their_neighbours_leave_open() -> None:
    rng = np.random.default_rng(0)
    line = rng.integers(0, 4, 40)
    lines = np.tile(line, (50, 1)).astype(np.uint8)
    assert len(encode_codes(lines, 4, 40)) < 50 < len(encode_codes(lines, 4, 1)) < lines.size / 4
    noise = rng.integers(0, 4, 2000).astype(np.uint8)
    assert noise.size / 4 <= len(encode_codes(noise, 4, 1)) < 1.05 * noise.size / 4


def test_the_bytes_of_codes() -> None:
    codes = np.array([0, 0, 1, 2, 2, 1], np.uint8)
    assert encode_codes(codes, 3, 2).hex() == "3255"  # 0.1966: within [0.1957, 0.1966), by hand
    assert encode_codes(np.zeros(6, np.uint8), 3, 2) == b"\x1c"  # below 0.111


# payloads


@given(st.integers(1, 12), st.sampled_from([1e-15, 1.0, 1e15]), st.integers(0, 100))
def test_what_arrives_is_nearly_what_pq_brings(n: int, scale: float, seed: int) -> None:
    x = feature_maps(n, seed) * np.float32(scale)
    payload = CODEC.encode(x, np.random.default_rng(1))
    assert payload == CODEC.encode(x, np.random.default_rng(1))
    assert CODEC.fits(len(payload), n, D)
    coded = CODEC.decode(payload, n, D)
    plain = Pq(subvectors=16, centroids=4)
    pq = plain.decode(plain.encode(x, np.random.default_rng(1)), n, D)
    assert np.linalg.norm(coded - x) <= np.linalg.norm(pq - x) + 0.05 * np.linalg.norm(x)


def test_neighbours_and_a_small_codebook_halve_the_bytes() -> None:
    x = feature_maps(64)
    payload = CODEC.encode(x, np.random.default_rng(0))
    assert len(payload) < 0.6 * Pq(subvectors=16, centroids=4).size_bytes(64, D)


def test_codes_without_likeness_are_packed() -> None:
    x = np.random.default_rng(0).standard_normal((20, D)).astype(np.float32)
    payload = CODEC.encode(x, np.random.default_rng(0))
    assert len(payload) == CODEC.size_bytes(20, D) == 1 + 2 * 4 + 4 * 8 // 2 + 20 * 16 * 2 // 8
    assert CODEC.decode(payload, 20, D).shape == (20, D)


def test_the_bytes_of_a_payload() -> None:
    codec = CodedPq(subvectors=4, centroids=2, width=2)
    x = np.array([[1, -1, 1, -1, 7, 7, 1, -1]], np.float32)
    payload = codec.encode(x, np.random.default_rng(0))
    assert payload.hex() == "f293689d740eec04"
    np.testing.assert_allclose(codec.decode(payload, 1, 8), x, atol=1.2)


@given(st.binary(max_size=CODEC.size_bytes(2, D) + 4))
def test_arbitrary_bytes_raise_nothing_but_wire_errors(payload: bytes) -> None:
    try:
        y = CODEC.decode(payload, 2, D)
    except WireError:
        return
    assert y.shape == (2, D)
    assert np.isfinite(y).all()


def test_hostile_payloads_are_refused_by_name() -> None:
    payload = bytearray(CODEC.encode(feature_maps(2), np.random.default_rng(0)))
    book = 1 + 2 * 4 + 4 * 8 // 2
    for wrong, reason in (
        (payload[: book - 1], "shape"),
        (payload + bytes(20), "shape"),
        (bytes([127]) + payload[1:], "range"),
        (payload[:1] + b"\x00\x7e" + payload[3:], "not-finite"),
        (payload[:9] + b"\xff" + payload[10:], "range"),
        (payload[:book] + b"\xff" * 6, "malformed"),
    ):
        with pytest.raises(WireError, match=reason):
            CODEC.decode(bytes(wrong), 2, D)


def test_packed_codes_that_stand_for_nothing_are_refused() -> None:
    codec = CodedPq(subvectors=16, centroids=3)
    book = codec.encode(feature_maps(2), np.random.default_rng(0))[: 1 + 2 * 3 + 3 * 8 // 2]
    with pytest.raises(WireError, match="range"):
        codec.decode(book + b"\xff" * 8, 2, D)


def test_what_is_not_finite_is_not_encoded() -> None:
    x = feature_maps(2)
    x[0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        CODEC.encode(x, np.random.default_rng(0))


def test_zeros_stay_zeros() -> None:
    payload = CODEC.encode(np.zeros((3, D), np.float32), np.random.default_rng(0))
    assert not CODEC.decode(payload, 3, D).any()


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ((0, 4, 1), "subvectors"),
        ((16, 1, 1), "centroids"),
        ((16, 65, 1), "centroids"),
        ((16, 4, 17), "width"),
    ],
)
def test_impossible_parameters_are_refused_by_name(parameters: tuple[int, int, int], name: str) -> None:
    with pytest.raises(WireError, match=name):
        codec_from_wire(["coded_pq", *parameters])


def test_the_list_is_name_and_parameters() -> None:
    assert codec_to_wire(CODEC) == ["coded_pq", 16, 4, 4]
    assert codec_from_wire(["coded_pq", 16, 4, 4]) == CODEC
