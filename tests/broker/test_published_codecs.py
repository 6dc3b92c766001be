"""Other people's codecs: what each promises, and what all of them do with what they are given."""

import hashlib
import struct

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.codecs import C3, Codec, codec_from_wire, codec_to_wire
from broker.wire.errors import WireError

Array = npt.NDArray[np.float32]
SEEDS = st.integers(0, 2**32 - 1)
KINDS: list[tuple[Codec, int]] = [  # with the values of a unit, of which a row has one or several
    (C3(ratio=1, bits=32), 1),
    (C3(ratio=4, bits=16, keys=7), 1),
    (C3(ratio=16, bits=4), 1),
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
    payload = codec.encode(matrix(3, 4 * unit), generator())
    for wrong in (b"", payload[:1], payload[:-1], payload + b"\0"):
        with pytest.raises(WireError):
            codec.decode(wrong, 3, 4 * unit)


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
