"""Gradients with one mean for each sample."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.codecs import LowRank, SampleMean
from broker.codecs.base import Matrix
from broker.wire.errors import WireError
from tests.helpers import small_scenario
from tests.live.three_modes import alike_in_three_modes

PLAIN_TASK = Path(__file__).parents[1] / "plain_task.py"

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 5), st.integers(1, 9))
"""Samples, sub-vectors, and values of a sub-vector."""


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal(n: int, d: int, seed: int = 0) -> Matrix:
    return generator(seed).standard_normal((n, d)).astype(np.float32)


def means_of(x: Matrix, subvectors: int) -> Matrix:
    """Give the matrix in which each sub-vector is the mean of its sample's."""
    n, d = x.shape
    cut = x.reshape(n, subvectors, -1)
    means = cut.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
    return np.broadcast_to(means, cut.shape).reshape(n, d)


@given(SHAPES, st.integers(0, 99))
def test_with_all_directions_each_sample_has_its_mean(shape: tuple[int, int, int], seed: int) -> None:
    n, q, s = shape
    x = normal(n, q * s, seed)
    codec = SampleMean(subvectors=q, rank=12, bits=32)
    y = codec.decode(codec.encode(x, generator(seed)), n, q * s)
    np.testing.assert_allclose(y, means_of(x, q), atol=1e-5)


@given(
    SHAPES, st.integers(1, 12), st.sampled_from([4, 8, 16, 32]), st.sampled_from([0.0, 1e-40, 1.0, 2.0**123])
)
def test_a_payload_is_that_of_the_means_as_a_product(
    shape: tuple[int, int, int], rank: int, bits: int, scale: float
) -> None:
    n, q, s = shape
    codec = SampleMean(subvectors=q, rank=rank, bits=bits)
    x = (normal(n, q * s) * scale).astype(np.float32)
    payload = codec.encode(x, generator())
    assert codec.fits(len(payload), n, q * s)
    assert len(payload) <= codec.size_bytes(n, q * s)
    assert payload == LowRank(rank=rank, bits=bits).encode(means_of(x, q)[:, :s].copy(), generator())
    assert codec.encode(x, generator()) == payload, "one seed, other bytes"
    assert np.isfinite(codec.decode(payload, n, q * s)).all()
    for wrong in (payload[:-1], payload + b"\0"):
        with pytest.raises(WireError):
            codec.decode(wrong, n, q * s)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    x = normal(3, 8)
    x[1, 5] = bad
    with pytest.raises(ValueError, match="not finite"):
        SampleMean(subvectors=2).encode(x, generator())


@given(st.integers(-2, 300), st.integers(-2, 300), st.integers(-2, 300))
def test_parameters_out_of_range_are_refused_by_name(subvectors: int, rank: int, bits: int) -> None:
    wrong = [
        name
        for name, is_right in (
            ("subvectors", subvectors >= 1),
            ("rank", 1 <= rank <= 64),
            ("bits", bits in (4, 8, 16, 32)),
        )
        if not is_right
    ]
    if not wrong:
        SampleMean(subvectors=subvectors, rank=rank, bits=bits)
        return
    with pytest.raises(ValueError, match=f"^({'|'.join(wrong)}) must be"):
        SampleMean(subvectors=subvectors, rank=rank, bits=bits)


async def test_runs_send_the_same_bytes_live_simulated_and_without_training(tmp_path: Path) -> None:
    flow = "flows.gradient_down={codec: sample_mean, subvectors: 4, rank: 2, bits: 8}"
    scenario = small_scenario(tmp_path, flow, f"task.module={PLAIN_TASK}")
    await alike_in_three_modes(scenario, tmp_path)
