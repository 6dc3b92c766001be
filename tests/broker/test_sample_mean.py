"""Gradients with one mean for each sample, as products that are right on average."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from broker.codecs import LowRank, SampleMean
from broker.codecs.base import Matrix
from broker.codecs.coding.drawn_factors import draw, encode_drawn, shares
from broker.codecs.coding.factors import decode_factors
from broker.codecs.coding.row_values import quantized
from broker.transports.memory import MemoryBroker
from broker.wire.errors import WireError
from server_node.vocabulary.ledger import FLOWS
from sim.simulation.run import simulate
from tests.helpers import small_scenario
from tests.live.test_live import run as run_live

PLAIN_TASK = Path(__file__).parents[1] / "plain_task.py"

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 5), st.integers(1, 9))
"""Samples, sub-vectors, and values of a sub-vector."""
SIZES = arrays(np.float64, st.integers(1, 12), elements=st.floats(0, 1e6)).map(
    lambda values: np.sort(values)[::-1]
)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal(n: int, d: int, seed: int = 0) -> Matrix:
    return generator(seed).standard_normal((n, d)).astype(np.float32)


def means_of(x: Matrix, subvectors: int) -> Matrix:
    """Give the matrix in which each sub-vector is the mean of its sample's."""
    n, d = x.shape
    cut = x.reshape(n, subvectors, -1)
    return np.broadcast_to(cut.mean(axis=1, keepdims=True), cut.shape).reshape(n, d)


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
def test_a_payload_has_the_size_that_its_shape_has(
    shape: tuple[int, int, int], rank: int, bits: int, scale: float
) -> None:
    n, q, s = shape
    codec = SampleMean(subvectors=q, rank=rank, bits=bits)
    x = (normal(n, q * s) * scale).astype(np.float32)
    payload = codec.encode(x, generator())
    assert len(payload) == codec.size_bytes(n, q * s)
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


@given(SIZES, st.data())
def test_chances_are_in_proportion_at_most_one_and_sum_up_to_the_rank(
    sizes: npt.NDArray[np.float64], data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, len(sizes)))
    found = shares(sizes, count)
    positive = int((sizes > sizes[0] * np.finfo(np.float32).eps).sum())
    assert found.sum() == pytest.approx(min(count, positive))
    assert ((found >= 0) & (found <= 1 + 1e-12)).all()
    drawn = (found > 0) & (found < 1 - 1e-9)
    if drawn.any():
        ratios = found[drawn] / sizes[drawn]
        np.testing.assert_allclose(ratios, ratios[0], rtol=1e-9)
        assert sizes[found >= 1 - 1e-9].min(initial=np.inf) * ratios[0] >= 1 - 1e-6


class Ruler(np.random.Generator):
    """Gives one number for every draw."""

    def __init__(self, at: float) -> None:
        super().__init__(np.random.PCG64(0))
        self._at = at

    def random(self, *_: object, **__: object) -> float:  # type: ignore[override]
        return self._at


@given(SIZES, st.data())
def test_each_direction_is_drawn_as_often_as_its_chance_says(
    sizes: npt.NDArray[np.float64], data: st.DataObject
) -> None:
    chances = shares(sizes, data.draw(st.integers(1, len(sizes))))
    places = (np.arange(200) + 0.5) / 200
    hits = np.zeros(len(sizes))
    for place in places:
        drawn = draw(chances, Ruler(place))
        assert len(drawn) == round(chances.sum())
        hits[drawn] += 1
    np.testing.assert_allclose(hits / 200, chances, atol=1 / 100)


@pytest.mark.parametrize(("bits", "rank"), [(4, 1), (8, 1), (4, 3), (8, 3)])
def test_the_mean_of_many_messages_is_what_was_sent(bits: int, rank: int) -> None:
    x = normal(12, 9) * np.float32(0.5) ** np.arange(9, dtype=np.float32)
    rng, draws = generator(1), 800
    sent = [decode_factors(encode_drawn(x, rank, bits, rng), 12, 9, rank, bits) for _ in range(draws)]
    spread = np.std(sent, axis=0) / np.sqrt(draws)
    assert (np.abs(np.mean(sent, axis=0) - x) < 5 * spread + 1e-6).all()
    best = LowRank(rank=rank, bits=32)
    always = np.abs(best.decode(best.encode(x, rng), 12, 9) - x)
    assert np.abs(np.mean(sent, axis=0) - x).mean() < always.mean() / 3, "no better than the best product"


@given(arrays(np.float32, (2, 300), elements=st.floats(-8, 8, width=32)), st.sampled_from([4, 8]))
def test_rounding_at_random_goes_to_a_neighbour_and_is_right_on_average(x: Matrix, bits: int) -> None:
    step = np.repeat(quantized(x, bits).scales, 256, axis=1)[:, : x.shape[1]]
    low, high = (quantized(x, bits, Ruler(at)).vectors() for at in (0.0, 1 - 1e-6))
    assert (low <= x + 1e-4 * step).all()
    assert (high >= x - 1e-4 * step).all()
    steps = [quantized(x, bits, Ruler(at)).vectors() for at in (np.arange(40) + 0.5) / 40]
    np.testing.assert_allclose(np.mean(steps, axis=0), x, atol=0.026 * float(step.max()) + 1e-12)


async def test_runs_send_the_same_bytes_live_simulated_and_without_training(tmp_path: Path) -> None:
    flow = "flows.gradient_down={codec: sample_mean, subvectors: 4, rank: 2, bits: 8}"
    scenario = small_scenario(tmp_path, flow, f"task.module={PLAIN_TASK}")
    live = await run_live(scenario, MemoryBroker().transport, tmp_path / "live")
    learned = simulate(scenario, tmp_path / "learned")
    timed = simulate(scenario, tmp_path / "timed", timing_only=True)
    for summary in (learned, timed):
        assert [summary["bytes"][name] for name in FLOWS] == [live["bytes"][name] for name in FLOWS]
    assert learned["metric"]["final"] == live["metric"]["final"]
    assert live["messages"]["rejected"] == 0
