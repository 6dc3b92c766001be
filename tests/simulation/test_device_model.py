"""Seconds of a device, and the factor on them."""

from pathlib import Path

import numpy as np
import pytest

from scenarios.errors import ScenarioError
from scenarios.schema.devices import DeviceProfile, LognormalSlowdown, ParetoSlowdown, Slowdown, TraceSlowdown
from sim.simulation.fleet.device_model import SlowdownSampler, work_of


def sampler(slowdown: Slowdown | None, seed: int = 3) -> SlowdownSampler:
    return SlowdownSampler(slowdown, seed=seed, client="c0")


def test_seconds_scale_with_the_samples_in_a_batch() -> None:
    profile = DeviceProfile(batch_size=20, forward_s=2, encode_s=1, decode_s=0.5, backward_s=4)
    work = work_of(profile, 10)
    assert work.start == (("compute", 1.0), ("encode", 0.5))
    assert work.learn == (("decode", 0.25), ("backward", 2.0), ("compute", 1.0), ("encode", 0.5))
    assert work.finish == (("decode", 0.25), ("backward", 2.0))


def test_without_slowdown_the_factor_is_one() -> None:
    assert [sampler(None).factor() for _ in range(3)] == [1, 1, 1]


def test_lognormal_factors_have_median_one_and_the_given_spread() -> None:
    steady = sampler(LognormalSlowdown(sigma=0.8))
    logs = np.log([steady.factor() for _ in range(20_000)])
    assert (logs.mean(), logs.std()) == pytest.approx((0, 0.8), abs=0.02)


def test_pareto_factors_are_at_least_one_and_have_the_given_tail() -> None:
    heavy = sampler(ParetoSlowdown(shape=2))
    factors = np.array([heavy.factor() for _ in range(20_000)])
    assert factors.min() >= 1
    assert np.mean(factors > 3) == pytest.approx(1 / 9, abs=0.01)


def test_a_factor_per_client_stays_and_differs_between_clients() -> None:
    one, other = (sampler(LognormalSlowdown(sigma=1, drawn="per_client"), seed) for seed in (1, 2))
    assert one.factor() == one.factor() != other.factor()


def test_a_trace_is_read_in_turn_from_a_row_of_the_clients_own(tmp_path: Path) -> None:
    file = tmp_path / "slow.csv"
    file.write_text("factor\n1\n2\n4\n")
    trace = sampler(TraceSlowdown(file=file))
    factors = [trace.factor() for _ in range(6)]
    assert factors[:3] == factors[3:]
    assert sorted(factors[:3]) == [1, 2, 4]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("speed\n1\n", "must name the columns factor"),
        ("factor\n1\nx\n", "slow.csv:3: 'x' is no number"),
        ("factor\n0\n", "slow.csv:2: a factor must be above 0"),
        ("factor\n", "no factors"),
    ],
)
def test_a_bad_trace_is_refused_with_its_line(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "slow.csv"
    file.write_text(text)
    with pytest.raises(ScenarioError, match=complaint):
        sampler(TraceSlowdown(file=file)).factor()
