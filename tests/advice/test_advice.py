"""What `fedlite advise` measures, and that its advice follows from that by the rule that it states."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from broker.cli.commands import app
from broker.codecs import Codec, CodedPq, CodewordMean, Float32, GradientCodec, Int4, Int8, Pq
from scenarios.loading.load import load_scenario
from scenarios.schema.scenario import Scenario
from scenarios.tasks import load_task
from sim.advice.batches import first_batches
from sim.advice.candidates import codecs_at_cut, means_of, sizes_of, width_of
from sim.advice.command import measure
from sim.advice.measure import Measured, measure_activations, measure_gradients
from sim.advice.rule import front, smallest_pair, smallest_within, worth_more_batches
from tests.helpers import small_file, small_scenario

MEASURED = st.lists(
    st.tuples(st.integers(1, 50), st.integers(0, 50)).map(
        lambda pair: Measured(Int8(), float(pair[0]), 1.0, pair[1] / 50, None, 1.0)
    ),
    min_size=1,
)


def beats(one: Measured[Any], other: Measured[Any]) -> bool:
    better = one.sample_bytes < other.sample_bytes or one.error < other.error
    return better and one.sample_bytes <= other.sample_bytes and one.error <= other.error


@given(shape=st.lists(st.integers(1, 12), min_size=1, max_size=3), n=st.integers(1, 64))
def test_every_candidate_fits_the_cut_and_is_named_once(shape: list[int], n: int) -> None:
    d = int(np.prod(shape))
    codecs = codecs_at_cut(tuple(shape), d, n)
    assert len(set(codecs)) == len(codecs)
    x = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)
    for codec in codecs:
        codec.check(d)
        if isinstance(codec, Pq | CodedPq):
            assert codec.size_bytes(n, d) < Int8().size_bytes(n, d)
    for codec in codecs[-2:]:
        payload = codec.encode(x, np.random.default_rng(0))
        assert codec.decode(payload, n, d).shape == (n, d)


def test_many_codewords_are_tried_with_codebook_and_means_as_products() -> None:
    many = CodedPq(subvectors=22, centroids=128, rank=16)
    assert many in codecs_at_cut((22, 64), 22 * 64, 100)
    assert many not in codecs_at_cut((22, 64), 22 * 64, 20)  # 440 sub-vectors are too few
    assert CodewordMean(bits=8, rank=4) in means_of(many)
    few = means_of(CodedPq(subvectors=22, centroids=16))
    assert not any(isinstance(codec, CodewordMean) and codec.rank for codec in few)


def test_lengths_of_sub_vectors_are_divisors_near_the_powers_of_two() -> None:
    assert sizes_of(9216) == [2, 4, 8, 16, 32, 64]
    assert sizes_of(15) == [3, 5, 15]
    assert sizes_of(7) == [7]
    assert sizes_of(1) == []


def test_lines_of_a_feature_map_are_known_to_the_entropy_coder() -> None:
    assert width_of((12, 12, 64), 64) == 12
    assert width_of((12, 12, 64), 8) == 96
    assert width_of((22, 64), 64) == 1
    assert width_of((3, 3, 5), 2) == 1


def test_batches_are_clients_own_and_the_seed_decides_them(tmp_path: Path) -> None:
    scenario = small_scenario(tmp_path)
    task = load_task(scenario.task)
    one, two = (list(first_batches(scenario, task, 35)) for _ in range(2))
    assert [batch.z.shape for batch in one] == [(10, 16)] * 4
    assert all(np.array_equal(a.z, b.z) and np.array_equal(a.g, b.g) for a, b in zip(one, two, strict=True))  # type: ignore[arg-type]
    [other, *_] = first_batches(small_scenario(tmp_path, "seed=4"), task, 35)
    assert not np.array_equal(one[0].z, other.z)


def test_bytes_and_errors_are_the_codecs_own(tmp_path: Path) -> None:
    scenario = small_scenario(tmp_path)
    batches = list(first_batches(scenario, load_task(scenario.task), 40))
    exact = measure_activations(Float32(), batches, 0)
    assert (exact.sample_bytes, exact.ratio, exact.error) == (64.0, 1.0, 0.0)
    pq = Pq(subvectors=4, centroids=4)
    found = measure_activations(pq, batches, 0)
    assert found.sample_bytes == pq.size_bytes(10, 16) / 10
    assert found.ratio == pytest.approx(64 / found.sample_bytes)
    assert 0.0 < found.error < 1.0
    gradients = measure_gradients(Float32(), pq, batches, 0)
    assert (gradients.error, gradients.head_error) == (0.0, 0.0)
    rough = measure_gradients(Int8(), pq, batches, 0)
    assert rough.head_error is not None
    assert 0.0 < rough.head_error < 0.01


@given(MEASURED)
def test_the_front_are_those_that_no_other_beats(measured: list[Measured[Any]]) -> None:
    found = front(measured)
    assert not any(beats(other, each) for each in found for other in measured)
    assert all(any(not beats(each, one) and one in found for one in found) for each in measured)
    assert all(a.sample_bytes < b.sample_bytes and a.error > b.error for a, b in pairwise(found))
    assert {id(each) for each in found} <= {id(each) for each in worth_more_batches(measured)}


@given(MEASURED, st.floats(0, 1))
def test_the_advice_has_the_fewest_bytes_within_the_error(
    measured: list[Measured[Any]], error: float
) -> None:
    exact = Measured(Float32(), 64.0, 1.0, 0.0, None, 1.0)
    best = smallest_within([*measured, exact], error)
    assert best.error <= error
    assert not any(each.error <= error and each.sample_bytes < best.sample_bytes for each in measured)


@given(
    ups=st.lists(st.tuples(st.integers(1, 50), st.integers(0, 10)), max_size=6),
    downs=st.lists(st.tuples(st.integers(1, 50), st.integers(0, 10)), max_size=4),
    means=st.lists(
        st.lists(st.tuples(st.integers(1, 9), st.integers(0, 10)), max_size=2), min_size=7, max_size=7
    ),
)
def test_the_pair_that_is_advised_has_the_fewest_bytes_of_all_that_are_good_enough(
    ups: list[tuple[int, int]], downs: list[tuple[int, int]], means: list[list[tuple[int, int]]]
) -> None:
    def measured(codec: Any, size: float, error: float, *, at_head: bool) -> Measured[Any]:
        return Measured(codec, float(size), 1.0, 0.5 if at_head else error, error if at_head else None, 1.0)

    codecs = [Pq(subvectors=number + 1) for number in range(len(ups))]
    activations = [measured(c, *pair, at_head=False) for c, pair in zip(codecs, ups, strict=True)]
    activations.append(measured(Float32(), 60, 0, at_head=False))
    gradients = [measured(Int4(), *pair, at_head=True) for pair in downs]
    gradients.append(measured(Float32(), 60, 0, at_head=True))
    with_up = {
        each.codec: [measured(CodewordMean(), *pair, at_head=True) for pair in own]
        for each, own in zip(activations, means, strict=False)
    }
    asked: list[Codec] = []

    def means_of(codec: Codec) -> list[Measured[GradientCodec]]:
        asked.append(codec)
        return with_up[codec]

    best = smallest_pair(activations, gradients, means_of, 5, 5)
    good = [
        up.sample_bytes + down.sample_bytes
        for up in activations
        for down in [*gradients, *with_up[up.codec]]
        if up.error <= 5 and (down.head_error or 0) <= 5
    ]
    assert best.up.sample_bytes + best.down.sample_bytes == min(good)
    assert best.down in [*gradients, *best.means]
    assert best.means == with_up[best.up.codec]
    assert len(asked) == len(set(asked))


def test_activations_are_finer_where_their_codewords_then_serve_the_gradients() -> None:
    fine, coarse = (
        Measured[Codec](Pq(subvectors=q), size, 1.0, 0.1, None, 1.0) for q, size in ((4, 30), (2, 20))
    )
    exact = Measured[Codec](Float32(), 400.0, 1.0, 0.0, None, 1.0)
    down = Measured[GradientCodec](Int4(), 50.0, 1.0, 0.1, 0.1, 1.0)
    mean = Measured[GradientCodec](CodewordMean(), 1.0, 1.0, 0.9, 0.1, 1.0)
    best = smallest_pair(
        [exact, fine, coarse], [down], lambda up: [mean] if up == fine.codec else [], 0.1, 0.2
    )
    assert (best.up, best.down) == (fine, mean)
    poor = replace(mean, head_error=0.3)
    best = smallest_pair([exact, fine, coarse], [down], lambda _: [poor], 0.1, 0.2)
    assert (best.up, best.down) == (coarse, down)


def test_a_head_that_is_not_trained_gets_no_gradient(tmp_path: Path) -> None:
    task = Path("tests/small_task.py").read_text()
    frozen = task.replace("nn.Linear(8, 16)", "nn.Linear(8, 16).requires_grad_(False)")
    (tmp_path / "small_task.py").write_text(frozen)
    scenario = small_scenario(tmp_path, f"task.module={tmp_path / 'small_task.py'}")
    found = measure(scenario, 20, 0.1, 0.1)
    assert found.down is None
    assert found.up.error <= 0.1


def test_the_command_advises_what_a_scenario_can_take(tmp_path: Path) -> None:
    file = small_file(tmp_path)
    told = CliRunner().invoke(app, ["advise", str(file), "--rows=40", "--error=0.2"], terminal_width=160)
    assert told.exit_code == 0, told.output
    assert "fewest bytes, of both together, whose relative error is at most 0.2" in told.output
    flows = yaml.safe_load(told.output[told.output.index("flows:") :])["flows"]
    settings = [f"flows.{flow}={json.dumps(codec)}" for flow, codec in flows.items()]
    assert isinstance(load_scenario(file, settings), Scenario)
    again = CliRunner().invoke(app, ["advise", str(file), "--rows=40", "--error=0.2", "--json"])
    lines = [json.loads(line) for line in again.output.splitlines()]
    assert {line["flow"]: line["codec"] for line in lines if line["advised"]} == flows
    best = next(line for line in lines if line["advised"])
    assert best["error"] <= 0.2


def test_there_is_no_advice_without_a_cut(tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["advise", str(small_file(tmp_path)), "--set=training.method=fedavg"])
    assert told.exit_code == 2
    assert told.output == (
        "error: advise is about the cut, and method fedavg has none: --set training.method=split\n"
    )
