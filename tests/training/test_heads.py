"""Heads of any kind: what is trained, what is sent of them, and what stays on the device."""

import copy
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from broker.codecs import Float32, Int4, TopK, codec_to_wire
from broker.exits import COMPLETE, STOPPED
from broker.wire.errors import WireError
from broker.wire.messages import Activations, Assignment, Gradient, HeadUpdate
from edge_client.jobs import BackwardStep, FirstBatch
from edge_client.training.device import Device
from scenarios.computing.optimizers import sgd_step
from scenarios.errors import ScenarioError
from scenarios.heads.parts import (
    by_batch,
    form_of,
    kept_at_home,
    load_vector,
    norms,
    sent_statistics,
    take_one,
    to_train,
    vector_of,
    with_norms_at_home,
)
from scenarios.heads.payload import HeadCodec
from scenarios.partition import client_rows
from scenarios.schema.scenario import Scenario
from scenarios.seeded import seeded
from scenarios.seeds import derive_seed
from scenarios.tasks import task_of
from scenarios.training import BatchSampler, head_vector, initial_model
from server_node.summary import Summary
from server_node.tail import Tail
from server_node.vocabulary.jobs import CloseRound, RoundClosed
from sim.simulation.run import simulate
from tests.helpers import final_score, plan_of, small_scenario
from tests.simulation.test_going_on import SAME, After
from tests.small_task import points, task

FLOAT = codec_to_wire(Float32())
EXACT_FLOWS = ("activations_up", "gradient_down", "head_update_up", "head_state_down")
RNG = np.random.default_rng(0)


def with_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU())


def frozen() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU()).requires_grad_(False)


def adapted() -> nn.Module:
    """Make a frozen layer with a small trainable part of rank 2 beside it, as in LoRA."""

    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(8, 16).requires_grad_(False)
            self.down, self.up = nn.Linear(8, 2, bias=False), nn.Linear(2, 16, bias=False)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            z: torch.Tensor = self.inner(inputs) + self.up(self.down(inputs))
            return z.relu()

    return Adapted()


def scenario_of(folder: Path, head: str, *more: str) -> Scenario:
    module = folder / "heads_task.py"
    imports = "from dataclasses import replace\n\nfrom tests import small_task\nfrom tests.training"
    made = f"replace(small_task.task(), name='heads', head=test_heads.{head})"
    module.write_text(f"{imports} import test_heads\n\n\ndef task():\n    return {made}\n")
    return small_scenario(folder, "task.name=heads", f"task.module={module}", *more)


def flows(summary: Summary) -> dict[str, int]:
    return {name: flow["wire"] for name, flow in summary["bytes"].items()}


# what is sent


@pytest.mark.parametrize(
    ("head", "form"),
    [
        (with_norm, (144 + 32, 33, True)),
        (frozen, (0, 0, False)),
        (adapted, (48, 0, True)),
        (nn.Identity, (0, 0, False)),
        (lambda: nn.Sequential(with_norm(), frozen()), (176, 33, True)),
        (lambda: nn.BatchNorm1d(8, affine=False), (0, 0, False)),
        (lambda: nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8, affine=False)), (72, 17, True)),
        (lambda: nn.BatchNorm1d(8, track_running_stats=False), (16, 0, True)),
    ],
)
def test_only_what_is_trained_is_sent(head: Callable[[], nn.Module], form: tuple[int, int, bool]) -> None:
    made = form_of(head())
    assert made[:3] == form
    assert len(vector_of(head())) == sum(form[:2])
    assert sum(shape.values for shape in made.shapes) == made.parameters


def test_a_frozen_norm_keeps_its_statistics() -> None:
    head = with_norm()
    norms(head)[0].requires_grad_(False)
    assert form_of(head)[:3] == (144, 0, True)
    to_train(head)
    before = head[1].running_mean.clone()  # type: ignore[index]
    head(torch.randn(5, 8) + 3)
    assert torch.equal(head[1].running_mean, before)  # type: ignore[index]


@settings(max_examples=30)
@given(
    layers=st.lists(st.sampled_from(["linear", "norm", "frozen", "adapted", "none"]), min_size=1, max_size=5),
    seed=st.integers(0, 99),
)
def test_a_vector_comes_back(layers: list[str], seed: int) -> None:
    made = {
        "linear": lambda: nn.Linear(8, 8),
        "norm": lambda: nn.BatchNorm1d(8),
        "frozen": lambda: nn.Linear(8, 8).requires_grad_(False),
        "adapted": adapted,
        "none": nn.Flatten,
    }
    head = nn.Sequential(*(made[layer]() for layer in layers))
    torch.manual_seed(seed)
    vector = (torch.randn(len(vector_of(head))).abs() * 9).round()
    others = [p.detach().clone() for p in head.parameters() if not p.requires_grad]
    load_vector(head, vector)
    assert torch.equal(vector_of(head), vector)
    assert all(
        torch.equal(own, before)
        for own, before in zip((p for p in head.parameters() if not p.requires_grad), others, strict=True)
    )


def test_statistics_never_fall_below_zero() -> None:
    head = nn.BatchNorm1d(2)
    load_vector(head, torch.tensor([1.0, 1.0, 0.0, 0.0, -3.0, -3.0, -1.0, 2.0, 2.6]))
    assert [values.tolist() for values in sent_statistics(head)] == [[-3.0, -3.0], [0.0, 2.0], 3]


@pytest.mark.parametrize("codec", [Int4(), TopK(fraction=0.25), Float32()])
@pytest.mark.parametrize(("parameters", "statistics"), [(40, 0), (40, 7), (0, 7), (0, 0)])
def test_statistics_are_exact_under_any_codec(codec: Int4, parameters: int, statistics: int) -> None:
    vector = RNG.standard_normal(parameters + statistics).astype(np.float32)
    coded = HeadCodec(codec, statistics)
    payload = coded.encode(vector, np.random.default_rng(1))
    arrived = coded.decode(payload, parameters)
    np.testing.assert_array_equal(arrived[parameters:], vector[parameters:])
    assert arrived.shape == vector.shape
    assert coded.fits(len(payload), parameters)
    assert len(payload) == coded.size_bytes(parameters)
    assert not coded.fits(len(payload) + 1, parameters)
    with pytest.raises(WireError):
        coded.decode(payload + b"x", parameters)


# whole runs


@pytest.mark.parametrize("method", ["split", "fedavg"])
@pytest.mark.parametrize("head", ["with_norm", "frozen", "adapted"])
def test_timing_alone_has_the_bytes_of_training(tmp_path: Path, head: str, method: str) -> None:
    scenario = scenario_of(tmp_path, head, "training.rounds=2", f"training.method={method}")
    trained = simulate(scenario, tmp_path / "trained")
    timed = simulate(scenario, tmp_path / "timed", timing_only=True)
    assert trained["reason"] == COMPLETE
    assert flows(trained) == flows(timed)


def test_a_frozen_head_gets_no_gradient_and_sends_no_update(tmp_path: Path) -> None:
    bytes_of = {
        head: flows(simulate(scenario_of(tmp_path, head, "training.rounds=5"), tmp_path / head))
        for head in ("frozen", "adapted")
    }
    assert bytes_of["frozen"]["activations_up"] == bytes_of["adapted"]["activations_up"]
    messages = 5 * 3
    assert bytes_of["frozen"]["gradient_down"] < messages * 50  # the envelope: it asks for what comes next
    assert bytes_of["adapted"]["gradient_down"] > messages * 160
    saved = bytes_of["adapted"]["head_update_up"] - bytes_of["frozen"]["head_update_up"]
    assert saved == pytest.approx(messages * 48 * 2, abs=messages * 2)


def test_a_tail_learns_over_a_frozen_head(tmp_path: Path) -> None:
    summary = simulate(scenario_of(tmp_path, "frozen", "training.rounds=40"), tmp_path / "run")
    assert final_score(summary) > 0.7


@pytest.mark.parametrize("head", ["with_norm", "adapted", "frozen"])
def test_training_is_that_of_a_plain_loop(tmp_path: Path, head: str) -> None:
    """One client, and nothing is lost on the way: both parts are trained as if there were no cut."""
    exact = [f"flows.{flow}={{codec: float32}}" for flow in EXACT_FLOWS]
    one = ["fleet=[{count: 1}]", "training.cohort=1", "training.rounds=3", "training.local_steps=2"]
    scenario = scenario_of(tmp_path, head, *one, *exact)
    simulate(scenario, tmp_path / "run")

    made = task_of(scenario)
    parts = initial_model(made, scenario.seed)
    data = made.load()
    share = data.train.take(client_rows(scenario, data)[0])
    sampler = BatchSampler(len(share), 10, seed=scenario.seed, client="c0")
    for number, step in itertools.product((1, 2, 3), (0, 1)):
        inputs, targets = share.batch(sampler.rows(number, step))
        parts[0].train()
        with seeded(derive_seed(scenario.seed, "dropout", "c0", number, step)):
            z = parts[0](inputs)
        with seeded(derive_seed(scenario.seed, "dropout", "server", "c0", number, step)):
            outputs = parts[1](z)
        made.loss(outputs, targets).mean().backward()  # type: ignore[no-untyped-call]
        for part in parts:
            sgd_step(part, scenario.training.head_lr)
    trained = load_file(tmp_path / "run/model.safetensors")
    for name, part in zip(("head", "tail"), parts, strict=True):
        for key, value in part.state_dict().items():
            torch.testing.assert_close(trained[f"{name}.{key}"], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("batch_norm", ["averaged", "local"])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path, batch_norm: str) -> None:
    scenario = scenario_of(tmp_path, "with_norm", "training.rounds=6", f"training.batch_norm={batch_norm}",
                           "training.local_steps=2")  # fmt: skip
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    simulate(scenario, whole)
    for events in (90, 40, 70):
        assert simulate(scenario, parts, stop=After(events))["reason"] == STOPPED
    assert simulate(scenario, parts)["reason"] == COMPLETE
    for name in SAME:
        assert (whole / name).read_bytes() == (parts / name).read_bytes(), name


# batch norm, step by step


def device_of(scenario: Scenario, head: Callable[[], nn.Module], client: str) -> Device:
    made = replace(task(), head=head)
    start = initial_model(made, scenario.seed)[0]
    made = replace(made, head=lambda: copy.deepcopy(start))
    data = points(40, len(client) + ord(client[-1]))
    return Device(
        made, head_vector(start), data, client=client, seed=3, batch_size=10, training=scenario.training
    )


def round_of(device: Device, head: bytes, number: int = 1) -> HeadUpdate:
    """Let a device train a step, and give its update."""
    codecs = (FLOAT, FLOAT, codec_to_wire(Int4()), FLOAT)
    batch = device.run(FirstBatch("c", Assignment(1, number, 1, 1, 0.1, codecs, head)))
    assert isinstance(batch, Activations)
    zeros = Float32().encode(np.full((10, 16), 0.1, np.float32), RNG)
    update = device.run(BackwardStep("c", Gradient(1, number, 0, 1, 0.0, zeros), last=True))
    assert isinstance(update, HeadUpdate)
    return update


def test_running_statistics_are_averaged_by_samples_and_weight(tmp_path: Path) -> None:
    exact = "flows.head_state_down.codec=float32"
    scenario = small_scenario(tmp_path, "flows.head_update_up={codec: int4}", exact)
    made = replace(task(), head=with_norm)
    head, tail = initial_model(made, scenario.seed)
    server = Tail(made, None, head=head, tail=tail, plan=plan_of(scenario, made), training=scenario.training)
    start = HeadCodec(Float32(), 33).encode(head_vector(head), RNG)
    devices = {name: device_of(scenario, with_norm, name) for name in ("c0", "c1")}
    updates = {name: round_of(device, start) for name, device in devices.items()}
    statistics = [vector_of(device.head.module)[-33:].numpy() for device in devices.values()]
    assert not np.allclose(statistics[0], statistics[1])
    sent = ("c0", updates["c0"], 1.0), ("c1", updates["c1"], 0.5)
    closed = server.run(CloseRound(1, sent, evaluate=False))
    assert isinstance(closed, RoundClosed)
    expected = (statistics[0] + 0.5 * statistics[1]) / 1.5
    np.testing.assert_allclose(vector_of(head)[-33:].numpy(), expected, atol=1e-6)
    assert head[1].num_batches_tracked == 1  # type: ignore[index]
    again = device_of(scenario, with_norm, "c2")
    again.run(FirstBatch("c2", Assignment(1, 2, 1, 1, 0.1, (FLOAT,) * 4, closed.head.whole)))
    np.testing.assert_array_equal(again.head.received[-33:], vector_of(head)[-33:].numpy())


def test_with_fedbn_norms_are_each_devices_own_and_outlive_a_round(tmp_path: Path) -> None:
    scenario = small_scenario(tmp_path)
    local = with_norms_at_home(replace(task(), head=with_norm)).head
    start = HeadCodec(Float32()).encode(head_vector(local()), RNG)
    devices = {name: device_of(scenario, local, name) for name in ("c0", "c1")}
    own = {}
    for name, device in devices.items():
        assert len(round_of(device, start).payload) == Int4().size_bytes(1, 144)
        own[name] = [values.detach().clone() for values in kept_at_home(device.head.module)]
    assert not any(torch.equal(*pair) for pair in zip(own["c0"][:4], own["c1"][:4], strict=True))
    for name, device in devices.items():
        device.run(FirstBatch(name, Assignment(1, 2, 1, 1, 0.1, (FLOAT,) * 4, start)))
        weights = kept_at_home(device.head.module)[:2]
        assert all(torch.equal(*pair) for pair in zip(weights, own[name], strict=False))


def test_the_server_evaluates_fedbn_by_the_statistics_of_the_batch() -> None:
    head = with_norms_at_home(replace(task(), head=with_norm)).head().eval()
    inputs = torch.randn(50, 8) * 5 + 7
    with by_batch(head):
        z = head(inputs)
    layer = nn.functional.batch_norm(head[0](inputs), None, None, training=True).relu()  # type: ignore[index]
    torch.testing.assert_close(z, layer)
    assert head[1].num_batches_tracked == 0  # type: ignore[index]
    assert not head[1].training  # type: ignore[index]


def test_local_without_batch_norm_is_a_mistake(tmp_path: Path) -> None:
    told = "batch_norm: local goes with batch norm in the head; there is none"
    with pytest.raises(ScenarioError, match=told):
        small_scenario(tmp_path, "training.batch_norm=local")


def test_one_sample_is_normalised_by_running_statistics() -> None:
    head = take_one(take_one(with_norm())).train()
    head(torch.randn(9, 8) + 2)
    before = head[1].running_mean.clone()  # type: ignore[index]
    one = torch.randn(1, 8)
    expected = copy.deepcopy(head).eval()(one)
    torch.testing.assert_close(head(one), expected)
    assert torch.equal(head[1].running_mean, before)  # type: ignore[index]
    assert head[1].training  # type: ignore[index]
    head(torch.randn(9, 8) + 2)
    assert not torch.equal(head[1].running_mean, before)  # type: ignore[index]
