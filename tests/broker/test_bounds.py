"""What arrives is bounded: magnitudes, the work of decoding it, and the exceptions that it can cause."""

import numpy as np
import pytest

from broker.codecs import (
    CODECS,
    Codec,
    CodedPq,
    CodewordMean,
    Float16,
    Float32,
    Int8,
    Pq,
    decode_activations,
    decode_gradient,
    decode_update,
    encode_activations,
)
from broker.codecs.base import Matrix
from broker.codecs.codeword_gradient import LARGEST_AT_CUT, LARGEST_PARAMETER
from broker.wire.errors import WireError

RNG = np.random.default_rng(1)
N, D = 3, 8


def flat(value: float, n: int = N, d: int = D) -> Matrix:
    return np.full((n, d), value, np.float32)


def reason_of(error: pytest.ExceptionInfo[WireError]) -> str:
    return error.value.reason


PQ = Pq(subvectors=4, centroids=2)


@pytest.mark.parametrize("codec", [PQ, CodedPq(subvectors=4), Float16(), Int8()])
def test_activations_with_a_finite_exponent_of_100_are_refused(codec: Codec) -> None:
    payload = bytearray(encode_activations(codec, RNG.standard_normal((N, D)).astype(np.float32), RNG)[0])
    payload[0] = 100
    assert np.isfinite(codec.decode(bytes(payload), N, D)).all()
    with pytest.raises(WireError) as error:
        decode_activations(codec, bytes(payload), N, D)
    assert reason_of(error) == "range"


@pytest.mark.parametrize("codec", [Float16(), Int8(), PQ])
def test_updates_with_a_finite_exponent_of_100_are_refused(codec: Codec) -> None:
    payload = bytearray(codec.encode(RNG.standard_normal((1, D)).astype(np.float32), RNG))
    payload[0] = 100
    with pytest.raises(WireError) as error:
        decode_update(codec, bytes(payload), D)
    assert reason_of(error) == "range"


@pytest.mark.parametrize("sign", [1, -1])
def test_the_bounds_themselves_are_accepted_and_the_next_float_is_not(sign: int) -> None:
    codec = Float32()
    for largest, decode in (
        (LARGEST_AT_CUT, lambda data, codec=codec: decode_activations(codec, data, N, D)),
        (LARGEST_AT_CUT, lambda data, codec=codec: decode_gradient(codec, data, None, N, D)),
        (LARGEST_PARAMETER, lambda data, codec=codec: decode_update(codec, data, N * D)),
    ):
        decode(codec.encode(flat(sign * largest), RNG))
        beyond = float(np.nextafter(np.float32(largest), np.float32(np.inf)))
        with pytest.raises(WireError) as error:
            decode(codec.encode(flat(sign * beyond), RNG))
        assert reason_of(error) == "range"


def test_means_of_codewords_are_bounded_too() -> None:
    _, _, codewords = encode_activations(PQ, RNG.standard_normal((N, D)).astype(np.float32), RNG)
    assert codewords is not None
    payload = Int8().encode(flat(2.0**40, *codewords.book.shape), RNG)
    with pytest.raises(WireError) as error:
        decode_gradient(CodewordMean(), payload, codewords, N, D)
    assert reason_of(error) == "range"


class Careless(Float32):
    """A codec of a user that does not check what it reads."""

    def decode(self, payload: bytes, n: int, d: int) -> Matrix:
        return np.frombuffer(payload, "<f4").reshape(n, d)


def test_an_exception_of_a_decoder_is_a_refusal() -> None:
    for decode in (
        lambda: decode_activations(Careless(), b"123", N, D),
        lambda: decode_gradient(Careless(), b"123", None, N, D),
        lambda: decode_update(Careless(), b"123", D),
        lambda: decode_activations(Pq(subvectors=3), b"123", N, D),  # 3 does not divide 8
    ):
        with pytest.raises(WireError) as error:
            decode()
        assert reason_of(error) == "malformed"


def test_no_codec_decodes_nan_by_way_of_a_bound() -> None:
    with pytest.raises(WireError) as error:
        decode_activations(Careless(), flat(np.nan).tobytes(), N, D)
    assert reason_of(error) == "range"


def test_more_codes_than_the_coders_take_are_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    codec, x = CodedPq(subvectors=16), np.tile(np.repeat([1, -1], [24, 8]).astype(np.float32), (64, 1))
    coded = codec.encode(x, np.random.default_rng(0))
    assert len(coded) < codec.size_bytes(*x.shape)
    for most in ("MOST_CODES", "MOST_RANKS"):
        monkeypatch.setattr(f"broker.codecs.coded_pq.{most}", 1023)
    packed = codec.encode(x, np.random.default_rng(0))
    assert len(packed) == codec.size_bytes(*x.shape)
    assert (codec.decode(packed, *x.shape) == codec.decode(coded, *x.shape)).all()


def test_every_codec_is_guarded() -> None:
    assert all(
        decode_update(kind(), kind().encode(flat(0.5, 1), RNG), D).shape == (D,) for kind in CODECS.values()
    )
