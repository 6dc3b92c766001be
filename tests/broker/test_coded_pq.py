"""Product quantization with a small codebook and entropy-coded codes."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.codecs import CodedPq, Pq, codec_from_wire, codec_to_wire
from broker.codecs.coded_pq import FORETOLD, SEED_BYTES
from broker.codecs.coding.neighbour_coder import decode_codes, encode_codes
from broker.wire.bits import pack
from broker.wire.errors import WireError

CODEC = CodedPq(subvectors=16, centroids=4, width=4)
D = 16 * 8


def feature_maps(n: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Give n maps of 4 x 4 pixels with 8 channels; lines resemble the line above."""
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, 4, (n, 1, 4, 1)).repeat(4, axis=1)
    return (levels * np.linspace(1, 2, 8) + 0.1 * rng.random((n, 4, 4, 8))).reshape(n, D).astype(np.float32)


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
    assert np.linalg.norm(coded - x) <= np.linalg.norm(pq - x) + 0.06 * np.linalg.norm(x)


def test_neighbours_and_a_small_codebook_halve_the_bytes() -> None:
    x = feature_maps(64)
    payload = CODEC.encode(x, np.random.default_rng(0))
    assert len(payload) < 0.6 * Pq(subvectors=16, centroids=4).size_bytes(64, D)


def test_codes_travel_in_the_way_that_is_short() -> None:
    slope = np.add.outer(np.arange(12), np.arange(12)) / 22
    ramps = (slope.reshape(1, 144, 1) * np.linspace(1, 2, 8) + np.zeros((20, 1, 1))).reshape(20, 144 * 8)
    codec = CodedPq(subvectors=144, centroids=16, width=12)
    payload = codec.encode(ramps.astype(np.float32), np.random.default_rng(0))
    book_bytes = codec.size_bytes(20, 144 * 8) - 20 * 144 // 2
    assert payload.startswith(FORETOLD)  # what neighbours foretell by their codewords
    assert len(payload) - book_bytes < 0.4 * 20 * 144 / 2

    rng = np.random.default_rng(0)
    steps = rng.permutation(16)  # neighbours foretell these too, but not by being alike
    codes = np.empty((20, 144), np.intp)
    codes[:, 0] = rng.integers(0, 16, 20)
    for place in range(1, 144):
        codes[:, place] = np.where(rng.random(20) < 0.9, steps[codes[:, place - 1]], rng.integers(0, 16, 20))
    centroids = rng.standard_normal((16, 8)).astype(np.float32)
    codec = CodedPq(subvectors=144, centroids=16)
    payload = codec.encode(centroids[codes].reshape(20, -1), rng)
    assert not payload.startswith(FORETOLD)
    assert len(payload) - book_bytes < 0.5 * 20 * 144 / 2


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
    codes = np.zeros((2, 16), np.uint8)
    book = bytes(1 + 2 * 4) + b"\x77" * (4 * 8 // 2)

    def payload(book: bytes) -> bytes:
        return encode_codes(codes, 4, 4, book)

    assert not CODEC.decode(payload(book), 2, D).any()
    for wrong, reason in (
        (b"", "shape"),
        (payload(book) + bytes(20), "shape"),
        (payload(bytes([127]) + book[1:]), "range"),
        (payload(book[:1] + b"\x00\x7e" + book[3:]), "not-finite"),
        (payload(book[:9] + b"\xff" + book[10:]), "range"),
        (b"\x20" + b"\xff" * 31, "malformed"),
        (FORETOLD, "shape"),
        (FORETOLD + book, "shape"),
        (FORETOLD + book[:-1], "shape"),
        (FORETOLD + book + b"\x80", "shape"),
        (FORETOLD + bytes([127]) + book[1:] + b"\x00", "range"),
    ):
        with pytest.raises(WireError, match=reason):
            CODEC.decode(wrong, 2, D)


def test_of_a_large_codebook_only_the_end_travels_with_the_codes() -> None:
    codec = CodedPq(subvectors=16, centroids=4, width=4)
    x = feature_maps(20).repeat(60, axis=1)
    payload = codec.encode(x, np.random.default_rng(0))
    book_bytes = 1 + 2 * 4 + 4 * 480 // 2
    packed = codec.size_bytes(*x.shape)
    assert book_bytes > SEED_BYTES
    assert len(payload) < packed
    _, seed = decode_codes(payload[book_bytes - SEED_BYTES :], (20, 16), 4, 4, SEED_BYTES)
    book = payload[: book_bytes - SEED_BYTES] + seed
    codes = codec.codewords(payload, *x.shape).codes.astype(np.uint8)
    again = codec.codewords(book + pack(codes, 2), *x.shape)
    np.testing.assert_array_equal(again.vectors(), codec.decode(payload, *x.shape))


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
        ((16, 257, 1), "centroids"),
        ((16, 4, 17), "width"),
        ((16, 4, 4, -1), "rank"),
        ((16, 4, 4, 5), "rank"),
        ((16, 256, 4, 65), "rank"),
    ],
)
def test_impossible_parameters_are_refused_by_name(parameters: tuple[int, ...], name: str) -> None:
    with pytest.raises(WireError, match=name):
        codec_from_wire(["coded_pq", *parameters])


def test_the_list_is_name_and_parameters() -> None:
    assert codec_to_wire(CODEC) == [8, 16, 4, 4]
    assert codec_from_wire(["coded_pq", 16, 4, 4]) == CODEC
    assert codec_from_wire([8, 16, 4, 4, 0]) == CODEC


# the codebook as a product


def moments(n: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Give rows of 8 moments with 64 channels, which depend on 6 numbers."""
    rng = np.random.default_rng(seed)
    kinds = rng.standard_normal((120, 6)) @ rng.standard_normal((6, 64))
    drawn = kinds[rng.integers(len(kinds), size=(n, 8))] + 0.01 * rng.standard_normal((n, 8, 64))
    return drawn.reshape(n, 8 * 64).astype(np.float32)


def test_of_many_codewords_the_codebook_is_small_as_a_product() -> None:
    x, rng = moments(100), np.random.default_rng(0)
    plain, thin = (CodedPq(subvectors=8, centroids=128, rank=rank) for rank in (0, 6))
    payloads = [codec.encode(x, rng) for codec in (plain, thin)]
    errors = [
        np.linalg.norm(codec.decode(payload, *x.shape) - x) / np.linalg.norm(x)
        for codec, payload in zip((plain, thin), payloads, strict=True)
    ]
    assert len(payloads[1]) < 0.4 * len(payloads[0])
    assert errors[1] < 1.3 * errors[0] + 0.02
    fine, coarse = 2 * (1 + 2 * 2) + 2 * (128 + 64), 2 * (1 + 2 * 4) + 4 * (128 + 64) // 2
    assert thin.size_bytes(*x.shape) == fine + coarse + 100 * 8 * 7 // 8


@given(
    st.integers(1, 20),
    st.integers(2, 256),
    st.integers(1, 6),
    st.sampled_from([0.0, 1e-30, 1e-15, 1.0, 1e15, 1e30]),
    st.integers(0, 100),
)
def test_sender_and_receiver_agree_on_a_codebook_that_is_a_product(
    n: int, centroids: int, rank: int, scale: float, seed: int
) -> None:
    codec = CodedPq(subvectors=8, centroids=centroids, rank=min(rank, centroids))
    x = moments(n, seed)[:, : 8 * 6] * np.float32(scale)
    payload, sent = codec.cluster(x, np.random.default_rng(1))
    assert payload == codec.encode(x, np.random.default_rng(1))
    assert codec.fits(len(payload), *x.shape)
    received = codec.codewords(payload, *x.shape)
    np.testing.assert_array_equal(received.book, sent.book)
    np.testing.assert_array_equal(received.codes, sent.codes)
    assert np.linalg.norm(received.vectors().astype(float) - x) <= 1.01 * np.linalg.norm(x.astype(float))


THIN = CodedPq(subvectors=16, centroids=8, width=4, rank=2)


@given(st.binary(max_size=THIN.size_bytes(2, D) + 4))
def test_arbitrary_bytes_of_a_product_raise_nothing_but_wire_errors(payload: bytes) -> None:
    try:
        y = THIN.decode(payload, 2, D)
    except WireError:
        return
    assert y.shape == (2, D)
    assert np.isfinite(y).all()


def test_factors_that_are_too_large_are_refused() -> None:
    large, none = b"\x30\xff\x7b" + b"\xfe" * 8, bytes(3) + b"\x77" * 4  # a scale of 65504 * 2**48, and of 0
    with pytest.raises(WireError, match="not-finite"):
        THIN.decode(large * 2 + none * 2 + bytes(12), 2, D)
    assert not THIN.decode(bytes(3) + b"\x7f" * 8 + large + none * 2 + bytes(12), 2, D).any()


def test_a_rank_above_the_values_of_a_subvector_is_refused() -> None:
    with pytest.raises(ValueError, match="rank must be at most the 8 values of a sub-vector, not 9"):
        CodedPq(subvectors=16, centroids=16, rank=9).check(D)
