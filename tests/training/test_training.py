"""The mathematics of a step on both sides, held against autograd on the whole model."""

from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from broker.codecs import Float32, Int4, Pq, TopK, codec_to_wire
from broker.wire.errors import WireError
from broker.wire.messages import Activations, Assignment, Gradient, HeadUpdate
from edge_client.jobs import BackwardStep, FirstBatch
from edge_client.training.cut import DeviceCut
from edge_client.training.device import Device
from edge_client.training.devices import make_devices
from scenarios.errors import ScenarioError
from scenarios.partition import client_rows
from scenarios.schema.scenario import Scenario
from scenarios.seeded import seeded
from scenarios.seeds import derive_seed
from scenarios.tasks import load_task
from scenarios.training import head_vector, initial_model
from server_node.tail import Tail
from server_node.vocabulary.jobs import (
    CloseRound,
    EncodeHead,
    HeadEncoded,
    RoundClosed,
    TailStep,
    TailStepped,
    TailUpdate,
)
from sim.simulation.run import simulate
from tests.helpers import plan_of, small_scenario

EXACT = [
    "flows.gradient_down={codec: float32}", "flows.head_update_up={codec: float32}",
    "training.correction={lambda: 0.05}",
]  # fmt: skip
LAMBDA, LR = 0.05, 0.3


def both_sides(folder: Path, *settings: str) -> tuple[Scenario, Tail, dict[str, Device], bytes]:
    """Make a server's tail and all devices; gives also the encoded head."""
    scenario = small_scenario(folder, *EXACT, "flows.head_state_down={codec: float32}", *settings)
    task = load_task(scenario.task)
    head, tail = initial_model(task, scenario.seed)
    plan, test = plan_of(scenario, task), task.load().test
    server = Tail(task, test, head=head, tail=tail, plan=plan, training=scenario.training)
    encoded = server.run(EncodeHead())
    assert isinstance(encoded, HeadEncoded)
    return scenario, server, make_devices(scenario, ["c0", "c1"]), encoded.whole


def assignment(scenario: Scenario, head: bytes) -> Assignment:
    flows = scenario.flows
    up, down, update, state = (
        codec_to_wire(codec)
        for codec in (flows.activations_up, flows.gradient_down, flows.head_update_up, flows.head_state_down)
    )
    return Assignment(1, 1, 1, 1, scenario.training.head_lr, (up, down, update, state), head)


def step(
    scenario: Scenario, server: Tail, devices: dict[str, Device], head: bytes
) -> tuple[dict[str, Activations], dict[str, HeadUpdate]]:
    """Do one step of a round on both sides."""
    sent, updates = {}, {}
    for name, device in devices.items():
        answer = device.run(FirstBatch(name, assignment(scenario, head)))
        assert isinstance(answer, Activations)
        sent[name] = answer
    stepped = server.run(TailStep(1, 0, tuple((name, message, 1.0) for name, message in sent.items())))
    assert isinstance(stepped, TailStepped)
    for name, device in devices.items():
        gradient = stepped.gradients[name]
        assert not isinstance(gradient, WireError)
        payload, strength = gradient
        update = device.run(BackwardStep(name, Gradient(1, 1, 0, 1, strength, payload), last=True))
        assert isinstance(update, HeadUpdate)
        updates[name] = update
    return sent, updates


def test_the_corrected_gradient_is_that_of_the_penalised_loss(tmp_path: Path) -> None:
    """J^T (dh/dz~ + lambda (z - z~)) against autograd on h(z~) + lambda/2 ||z - stopgrad(z~)||^2."""
    scenario, server, devices, encoded = both_sides(tmp_path)
    sent, updates = step(scenario, server, {"c0": devices["c0"]}, encoded)

    task = load_task(scenario.task)
    head, tail = initial_model(task, scenario.seed)
    data = task.load()
    shard = data.train.take(client_rows(scenario, data)[0])
    inputs, targets = shard.batch(devices["c0"].data._sampler.rows(1, 0))
    with seeded(derive_seed(scenario.seed, "dropout", "c0", 1, 0)):
        z = head(inputs)
    codec = scenario.flows.activations_up
    assert isinstance(codec, Pq)
    seen = torch.from_numpy(codec.decode(sent["c0"].payload, *z.shape))
    straight_through = z + (seen - z).detach()
    with seeded(derive_seed(scenario.seed, "dropout", "server", "c0", 1, 0)):
        mean_loss = task.loss(tail(straight_through), targets).mean()
    (mean_loss + LAMBDA / 2 * ((z - seen) ** 2).sum()).backward()
    gradient = np.concatenate([p.grad.numpy().ravel() for p in head.parameters() if p.grad is not None])
    delta = Float32().decode(updates["c0"].payload, 1, gradient.size)[0]
    np.testing.assert_allclose(delta, -LR * gradient, rtol=1e-4, atol=1e-7)


def test_lambda_may_be_relative_to_the_sizes_of_gradient_and_activations(tmp_path: Path) -> None:
    settings = [
        "training.correction={lambda: 0, relative: 0.4, schedule: linear_decay}",
        "training.rounds=2",
    ]
    scenario, server, devices, encoded = both_sides(tmp_path, *settings)
    sent = devices["c0"].run(FirstBatch("c0", assignment(scenario, encoded)))
    assert isinstance(sent, Activations)
    seen = server._cut.read(("c0", sent, 1.0))
    assert not isinstance(seen, WireError)
    strengths = []
    for number in (1, 2):
        batch = msgspec.structs.replace(sent, round=number)
        stepped = server.run(TailStep(number, 0, (("c0", batch, 1.0),)))
        assert isinstance(stepped, TailStepped)
        gradient = stepped.gradients["c0"]
        assert not isinstance(gradient, WireError)
        length = np.linalg.norm(np.frombuffer(gradient[0], np.float32))
        strengths.append(gradient[1] * np.linalg.norm(seen.z) / length)
    assert strengths == pytest.approx([0.4, 0.2])


def test_error_feedback_adds_what_was_lost_to_the_next_change(tmp_path: Path) -> None:
    """What has arrived after two rounds, and what is still to come, is all that was learned in both."""
    coarse = TopK(fraction=0.1)
    settings = ["flows.head_update_up={codec: topk, fraction: 0.1}", "flows.error_feedback=true"]
    _, _, devices, _ = both_sides(tmp_path, *settings)
    device = devices["c0"]
    learned = [
        np.random.default_rng(number).standard_normal((1, 144)).astype(np.float32) for number in (1, 2)
    ]
    arrived = np.zeros((1, 144), np.float32)
    device._update_codec, device._server = coarse, 1
    for number, change in enumerate(learned, start=1):
        device._round, device._trained, device._cut = number, 10, DeviceCut((codec_to_wire(Float32()),) * 4)
        device.head.received = device.head.vector() - change[0]
        arrived += coarse.decode(device._finish().payload, 1, 144)
    assert np.count_nonzero(arrived) <= 28
    np.testing.assert_allclose(arrived + device._feedback.lost, sum(learned), atol=1e-5)


def test_without_lambda_only_the_servers_gradient_counts(tmp_path: Path) -> None:
    scenario, server, devices, encoded = both_sides(tmp_path, "flows.activations_up={codec: float32}")
    _, updates = step(scenario, server, {"c0": devices["c0"]}, encoded)
    assert updates["c0"].quantization_error == 0.0


def test_the_tail_follows_the_gradient_averaged_over_the_cohorts_samples(tmp_path: Path) -> None:
    scenario, server, devices, encoded = both_sides(tmp_path, "flows.activations_up={codec: float32}")
    sent, _ = step(scenario, server, devices, encoded)
    server.run(TailUpdate(1, 0))

    task = load_task(scenario.task)
    head, tail = initial_model(task, scenario.seed)
    data = task.load()
    rows = client_rows(scenario, data)
    z, labels = [], []
    for number, name in enumerate(sent):
        inputs, targets = data.train.take(rows[number]).batch(devices[name].data._sampler.rows(1, 0))
        with seeded(derive_seed(scenario.seed, "dropout", name, 1, 0)):
            z.append(head(inputs))
        labels.append(targets)
    with seeded(derive_seed(scenario.seed, "dropout", "server", "c0", 1, 0)):
        outputs = tail(torch.cat(z))
    task.loss(outputs, torch.cat(labels)).mean().backward()  # type: ignore[no-untyped-call]
    for ours, theirs in zip(server.tail.parameters(), tail.parameters(), strict=True):
        assert theirs.grad is not None
        torch.testing.assert_close(ours, theirs - LR * theirs.grad)


def test_heads_are_averaged_by_samples_and_weight(tmp_path: Path) -> None:
    _, server, _, _ = both_sides(tmp_path)
    before = head_vector(server.head)

    def change(value: float, samples: int) -> HeadUpdate:
        delta = np.full((1, before.size), value, np.float32)
        return HeadUpdate(1, 1, 1, samples, 0.0, Float32().encode(delta, np.random.default_rng(0)))

    server.run(CloseRound(1, (("c0", change(1.0, 10), 1.0), ("c1", change(4.0, 20), 0.5)), evaluate=False))
    np.testing.assert_allclose(head_vector(server.head) - before, 2.5, rtol=1e-5)


def test_a_restarted_device_comes_to_the_same_activations(tmp_path: Path) -> None:
    scenario, _, devices, encoded = both_sides(tmp_path)
    again = make_devices(scenario, ["c0"])["c0"]
    job = FirstBatch("c0", assignment(scenario, encoded))
    assert devices["c0"].run(job) == again.run(job)


def test_who_is_not_in_the_fleet_has_no_device(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="no such client: c9; the fleet has 4 clients: c0, c1, c2, c3"):
        make_devices(small_scenario(tmp_path), ["c9"])


def test_learning_rates_fall_linearly_when_asked(tmp_path: Path) -> None:
    constant = small_scenario(tmp_path).training
    assert [constant.lr_factor(number) for number in (1, 20)] == [1.0, 1.0]
    falling = small_scenario(tmp_path, "training.lr_decay=linear").training
    assert [falling.lr_factor(number) for number in (1, 11, 20)] == [1.0, 0.5, pytest.approx(0.05)]


def test_a_gradient_of_a_round_that_was_given_up_is_not_learned_from(tmp_path: Path) -> None:
    scenario, _, devices, head = both_sides(tmp_path)
    device = devices["c0"]
    device.run(FirstBatch("c0", assignment(scenario, head)))
    before = device.head.vector()
    answer = device.run(BackwardStep("c0", Gradient(1, 7, 0, 1, 0.0, b""), last=True))
    assert isinstance(answer, WireError)
    np.testing.assert_array_equal(device.head.vector(), before)


def test_heads_travel_as_the_difference_to_the_first(tmp_path: Path) -> None:
    coarse = "flows.head_state_down={codec: int4}"
    scenario, server, devices, encoded = both_sides(tmp_path, coarse, "training.head_lr=0.01")
    initial = head_vector(initial_model(load_task(scenario.task), scenario.seed)[0])
    assert not Int4().decode(encoded, 1, initial.size).any()

    _, updates = step(scenario, server, devices, encoded)
    closed = server.run(CloseRound(1, tuple((name, up, 1.0) for name, up in updates.items()), evaluate=False))
    assert isinstance(closed, RoundClosed)
    moved = head_vector(server.head) - initial
    arrived = Int4().decode(closed.head.whole, 1, initial.size)[0]
    assert np.abs(arrived - moved).max() <= np.abs(moved).max() / 7 * 1.01
    device = devices["c0"]
    device.run(FirstBatch("c0", assignment(scenario, closed.head.whole)))
    np.testing.assert_array_equal(device.head.received, arrived + initial)


def test_a_row_of_the_metrics_has_the_loss_and_the_error_of_its_round(tmp_path: Path) -> None:
    """A run of one client, done by hand on both sides: two rounds of three steps with falling rates."""
    one = ["fleet=[{count: 1}]", "training.cohort=1", "training.rounds=2"]
    steps = ["training.local_steps=3", "training.lr_decay=linear"]
    scenario = small_scenario(tmp_path, *EXACT, "flows.head_state_down={codec: float32}", *one, *steps)
    simulate(scenario, tmp_path / "run")
    rows = pq.read_table(tmp_path / "run/metrics.parquet").to_pylist()

    task = load_task(scenario.task)
    head, tail = initial_model(task, scenario.seed)
    plan, test = plan_of(scenario, task), task.load().test
    server = Tail(task, test, head=head, tail=tail, plan=plan, training=scenario.training)
    device = make_devices(scenario, ["c0"])["c0"]
    encoded = server.run(EncodeHead())
    for number, row in enumerate(rows, start=1):
        assert isinstance(encoded, HeadEncoded)
        lr = plan.head_lr_in(number)
        first = msgspec.structs.replace(
            assignment(scenario, encoded.whole), round=number, steps=3, head_lr=lr
        )
        answer = device.run(FirstBatch("c0", first))
        losses = []
        for local in range(3):
            assert isinstance(answer, Activations)
            stepped = server.run(TailStep(number, local, (("c0", answer, 1.0),)))
            server.run(TailUpdate(number, local))
            assert isinstance(stepped, TailStepped)
            losses.append(stepped.loss_sum / 10)
            gradient = stepped.gradients["c0"]
            assert not isinstance(gradient, WireError)
            down = Gradient(1, number, local, 1, gradient[1], gradient[0])
            answer = device.run(BackwardStep("c0", down, last=local == 2))
        assert isinstance(answer, HeadUpdate)
        closed = server.run(CloseRound(number, (("c0", answer, 1.0),), evaluate=number == 2))
        assert isinstance(closed, RoundClosed)
        encoded = closed.head
        assert row["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
        assert row["quantization_error"] == answer.quantization_error
        assert (row["metric"], row["client_steps"], row["clients"]) == (closed.metric, 3, 1)
    assert rows[0]["quantization_error"] != rows[1]["quantization_error"]
