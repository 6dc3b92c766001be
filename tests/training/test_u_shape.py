"""A U-shape: devices have both ends of the model, the server its middle, and labels never leave."""

import functools
import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from broker.codecs import Float32, codec_to_wire
from broker.transports.memory import MemoryBroker
from broker.transports.mqtt import MqttTransport
from broker.wire.errors import WireError
from broker.wire.messages import (
    Activations,
    Assignment,
    FeatureGradient,
    Features,
    Gradient,
    HeadUpdate,
    Scores,
)
from edge_client.jobs import BackwardStep, FirstBatch, HeldOutBatch, TopStep
from edge_client.training.device import Device
from edge_client.training.devices import make_devices
from scenarios.computing.optimizers import sgd_step
from scenarios.errors import ScenarioError
from scenarios.loading.rehearsal import rehearse
from scenarios.local import write_share
from scenarios.partition import client_rows
from scenarios.schema.scenario import Scenario, client_names
from scenarios.tasks import load_task, task_of
from scenarios.training import BatchSampler, evaluate, head_vector, initial_model, load_head_vector
from scenarios.u_shape import Ends, with_top_at_server
from server_node.protocol.admission import check_scores
from server_node.tail import Tail
from server_node.vocabulary.jobs import EncodeHead, TailForward, TailForwarded, TailStep, TailStepped
from server_node.vocabulary.ledger import FLOWS, U_SHAPE_FLOWS
from sim.simulation.run import simulate
from tests import marked_task, u_task
from tests.helpers import final_score, plan_of, small_scenario
from tests.live.test_live import run as run_live
from tests.small_task import points

FOLDER = Path(__file__).parents[1]
EVERY_FLOW = (*FLOWS, *U_SHAPE_FLOWS)
EXACT = [f"flows.{flow}={{codec: float32}}" for flow in EVERY_FLOW]
LEARNS = ("training.rounds=25", "training.evaluate_every=25")
CODED = [
    "flows.features_down={codec: pq, subvectors: 2, groups: 1, centroids: 4}",
    "flows.feature_gradient_up={codec: int8}",
]


def u_shape(folder: Path, *settings: str, task: str = "u_task", method: str = "u_shape") -> Scenario:
    spec = f"{{name: corners, module: {FOLDER / task}.py, partition: iid, batch_size: 10}}"
    own = (f"task={spec}", f"training.method={method}", "training.local_steps=2")
    return small_scenario(folder, *own, *settings)


def plain_loop(scenario: Scenario) -> npt.NDArray[np.float32]:
    """Train the uncut model: each client its own ends, all of them one middle. Gives all parameters."""
    task, training = task_of(scenario), scenario.training
    data = task.load()
    ends, middle = initial_model(task, scenario.seed)
    state = head_vector(ends)
    shares = dict(zip(client_names(scenario), client_rows(scenario, data), strict=True))
    n = {name: min(scenario.task.batch_size, len(rows)) for name, rows in shares.items()}
    for number in range(1, training.rounds + 1):
        copies = {name: task.head() for name in shares}
        for copy in copies.values():
            load_head_vector(copy, state)
        for step in range(training.local_steps):
            for name, copy in copies.items():
                assert isinstance(copy, Ends)
                sampler = BatchSampler(
                    len(shares[name]), scenario.task.batch_size, seed=scenario.seed, client=name
                )
                inputs, targets = data.train.take(shares[name]).batch(sampler.rows(number, step))
                losses = task.loss(copy.top(middle(copy.head(inputs))), targets)
                (losses.sum() / sum(n.values())).backward()  # type: ignore[no-untyped-call]
                sgd_step(copy, training.head_lr * sum(n.values()) / n[name])
            sgd_step(middle, training.tail_lr)
        total = sum(n[name] * head_vector(copy) for name, copy in copies.items())
        state = np.asarray(total / sum(n.values()), np.float32)
    return np.concatenate([state, head_vector(middle)])


def learned(folder: Path) -> npt.NDArray[np.float32]:
    """Give all parameters of a run in the order of `plain_loop`."""
    tensors = load_file(folder / "model.safetensors")
    order = [name for part in ("head.head", "head.top", "tail") for name in tensors if name.startswith(part)]
    names = [f"{part}.{kind}" for part in dict.fromkeys(n.rpartition(".")[0] for n in order)
             for kind in ("weight", "bias")]  # fmt: skip
    assert sorted(names) == sorted(tensors)
    return np.concatenate([tensors[name].ravel() for name in names])


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(("fleet=[{count: 1}]", "training.cohort=1", "training.local_steps=1"), id="one step"),
        pytest.param(("fleet=[{count: 3}]",), id="several clients and steps"),
        pytest.param(("fleet=[{count: 3}]", "task.batch_size=67"), id="shares of different sizes"),
    ],
)
def test_with_float32_it_learns_what_a_plain_loop_of_the_whole_model_learns(
    tmp_path: Path, settings: tuple[str, ...]
) -> None:
    scenario = u_shape(tmp_path, "training.rounds=6", *EXACT, *settings)
    simulate(scenario, tmp_path / "run")
    np.testing.assert_allclose(learned(tmp_path / "run"), plain_loop(scenario), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["split", "fedavg"])
def test_without_it_the_last_layers_are_the_servers_or_part_of_the_whole(tmp_path: Path, method: str) -> None:
    """A task that names its last layers learns with the other methods what one without names learns."""
    settings = ("training.rounds=5", "training.evaluate_every=5")
    summary = simulate(u_shape(tmp_path, *settings, method=method), tmp_path / "named")
    unnamed = with_top_at_server(u_task.task())
    assert unnamed.top is None
    layers = [type(layer) for layer in unnamed.tail().children()]
    assert layers == [nn.Linear, nn.ReLU, nn.Linear]
    assert summary["metric"]["final"] is not None
    assert set(summary["bytes"]) == {*FLOWS, "control"}


async def test_live_simulated_and_timed_runs_have_the_same_bytes_in_six_flows(tmp_path: Path) -> None:
    scenario = u_shape(tmp_path, "training.rounds=6", *CODED)
    live = await run_live(scenario, MemoryBroker().transport, tmp_path / "live")
    learned = simulate(scenario, tmp_path / "learned")
    timed = simulate(scenario, tmp_path / "timed", timing_only=True)
    for summary in (learned, timed):
        assert [live["bytes"][flow] for flow in EVERY_FLOW] == [summary["bytes"][flow] for flow in EVERY_FLOW]
        assert live["client_steps"] == summary["client_steps"] == 6 * 3 * 2
        assert summary["messages"]["rejected"] == 0
        assert [summary["ratio"][flow] for flow in EVERY_FLOW] == [live["ratio"][flow] for flow in EVERY_FLOW]  # type: ignore[literal-required]
    steps = 6 * 3 * 2
    assert live["bytes"]["features_down"]["raw_float32"] == steps * 10 * 12 * 4
    assert live["bytes"]["features_down"]["payload"] == steps * (1 + 2 * 4 * 6 + 10 * 2 * 2 // 8)
    assert live["bytes"]["feature_gradient_up"]["payload"] == steps * (1 + 2 + 120)
    assert learned["virtual_seconds"] == timed["virtual_seconds"]


async def test_over_a_real_broker(tmp_path: Path, broker_url: str) -> None:
    scenario = u_shape(tmp_path, "training.rounds=3", *CODED)
    summary = await run_live(scenario, functools.partial(MqttTransport, broker_url), tmp_path / "run")
    simulated = simulate(scenario, tmp_path / "simulated", timing_only=True)
    assert [summary["bytes"][flow] for flow in EVERY_FLOW] == [
        simulated["bytes"][flow] for flow in EVERY_FLOW
    ]


@pytest.mark.parametrize(
    "stragglers",
    [
        "{policy: deadline, deadline_s: 50, minimum: 1}",
        "{policy: over_select, extra: 1}",
        "{policy: buffered, buffer: 2, max_staleness: 2}",
    ],
)
def test_it_learns_with_every_policy(tmp_path: Path, stragglers: str) -> None:
    slow = "fleet=[{count: 3, link: lte}, {count: 1, link: 2g}]"
    scenario = u_shape(tmp_path, *LEARNS, *CODED, f"stragglers={stragglers}", slow)
    assert final_score(simulate(scenario, tmp_path / "run")) > 0.9


def test_a_rule_against_hostile_clients_goes_with_it(tmp_path: Path) -> None:
    scenario = u_shape(tmp_path, *LEARNS, "training.aggregation=coordinate_median")
    assert final_score(simulate(scenario, tmp_path / "run")) > 0.9


def test_each_half_of_a_step_takes_its_time(tmp_path: Path) -> None:
    model = "network.server={tail_batch_s: 1, tail_sample_s: 0.3, update_s: 0, close_s: 0}"
    profile = "{batch_size: 10, forward_s: 100, encode_s: 10, decode_s: 20, backward_s: 200, top_s: 3000}"
    one = ("training.rounds=1", "training.cohort=1", f"fleet=[{{count: 1, device: {profile}}}]", model)
    split, u = (
        simulate(u_shape(tmp_path, *one, method=method), tmp_path / method, timing_only=True)
        for method in ("split", "u_shape")
    )
    assert split["virtual_seconds"] == pytest.approx(2 * (110 + 4 + 220), abs=1.0)
    assert u["virtual_seconds"] == pytest.approx(2 * (110 + 2 + 3000 + 4 + 220), abs=1.0)
    events = json.loads((tmp_path / "u_shape" / "trace.json").read_text())["traceEvents"]
    assert {event["name"] for event in events} >= {"TailForward", "TailStep", "top", "tail"}


# What leaves a device.


async def bytes_of_devices(scenario: Scenario, folder: Path) -> bytes:
    """Run live; gives all that devices have published."""
    said = bytearray()

    class Listening(MemoryBroker):
        def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
            if "/u/" in topic or "/status/" in topic:
                said.extend(payload)
            super().publish(topic, payload, retain=retain)

    summary = await run_live(scenario, Listening().transport, folder)
    assert summary["reason"] == "complete"
    return bytes(said)


async def test_no_label_leaves_a_device(tmp_path: Path) -> None:
    settings = ("training.rounds=3", *EXACT)
    split = u_shape(tmp_path, *settings, task="marked_task", method="split")
    found = (await bytes_of_devices(split, tmp_path / "split")).count(marked_task.MARK)
    assert found == 3 * 3 * 2 * 10  # in split learning the server gets the label of every sample
    u = u_shape(tmp_path, *settings, task="marked_task")
    assert (await bytes_of_devices(u, tmp_path / "u")).count(marked_task.MARK[:4]) == 0


def step_of(device: Device, scenario: Scenario) -> Activations:
    up, down, update, state, *features = map(codec_to_wire, scenario.flows.codecs_for("none"))
    head = Float32().encode(head_vector(device.head.module)[None], np.random.default_rng(0))
    begin = Assignment(1, 1, 1, 4, 0.1, (up, down, update, state), head, features=tuple(features))
    sent = device.run(FirstBatch("c0", begin))
    assert isinstance(sent, Activations)
    return sent


def test_activations_are_the_same_whatever_the_labels(tmp_path: Path) -> None:
    scenario, _, one = both(tmp_path)
    _, _, other = both(tmp_path)
    own = other.data._data
    other.data._data = replace(own, targets=(own.targets + 1) % 4)
    sent, different = step_of(one, scenario), step_of(other, scenario)
    assert sent == different
    assert sent.targets == b""
    features = Features(1, 1, 0, 1, np.ones((10, 12), np.float32).tobytes())
    assert one.run(TopStep("c0", features)) != other.run(TopStep("c0", features))


# The two sides, one after the other.


def both(folder: Path, *settings: str) -> tuple[Scenario, Tail, Device]:
    scenario = u_shape(folder, *EXACT, *settings)
    task = task_of(scenario)
    head, tail = initial_model(task, scenario.seed)
    plan, test = plan_of(scenario, task), task.load().test
    server = Tail(task, test, head=head, tail=tail, plan=plan, training=scenario.training)
    server.run(EncodeHead())
    device = make_devices(scenario, ["c0"])["c0"]
    load_head_vector(device.head.module, head_vector(head))
    return scenario, server, device


def forwarded(server: Tail, sent: Activations, *, client: str = "c0") -> bytes | WireError:
    result = server.run(TailForward(1, 0, ((client, sent),)))
    assert isinstance(result, TailForwarded)
    return result.features[client]


def returned(device: Device, features: bytes | WireError) -> FeatureGradient:
    assert isinstance(features, bytes)
    answer = device.run(TopStep("c0", Features(1, 1, 0, 1, features)))
    assert isinstance(answer, FeatureGradient)
    return answer


def test_the_server_keeps_nothing_between_the_two_halves_of_a_step(tmp_path: Path) -> None:
    scenario, server, device = both(tmp_path)
    sent = step_of(device, scenario)
    before = [value.clone() for value in server.tail.state_dict().values()]
    assert forwarded(server, sent) == forwarded(server, sent)
    assert all(parameter.grad is None for parameter in server.tail.parameters())
    for old, new in zip(before, server.tail.state_dict().values(), strict=True):
        torch.testing.assert_close(old, new)


class Noisy(nn.Module):
    """A middle with dropout and with statistics of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 12))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(z)
        return out


def test_a_batch_comes_through_the_tail_the_second_time_as_it_did_the_first(tmp_path: Path) -> None:
    """Its dropout is the same, whoever waits beside it; and its statistics count once."""
    scenario, _, device = both(tmp_path)
    task = replace(task_of(scenario), tail=Noisy)
    head, tail = initial_model(task, scenario.seed)
    server = Tail(task, None, head=head, tail=tail, plan=plan_of(scenario, task), training=scenario.training)
    sent = step_of(device, scenario)
    alone = forwarded(server, sent)
    assert isinstance(alone, bytes)
    beside = server.run(TailForward(1, 0, (("c1", sent), ("c0", sent))))
    assert isinstance(beside, TailForwarded)
    assert beside.features["c0"] == alone != beside.features["c1"]
    norm = tail.get_submodule("layers.0")
    assert norm.num_batches_tracked == 0
    outputs: list[torch.Tensor] = []
    tail.register_forward_hook(lambda _module, _inputs, output: outputs.append(output.detach()))
    back = returned(device, alone)
    stepped = server.run(TailStep(1, 0, (("c0", sent, 1.0),), {"c0": back}))
    assert isinstance(stepped, TailStepped)
    assert outputs[-1].numpy().tobytes() == alone
    assert norm.num_batches_tracked == 1
    assert stepped.samples == 10
    assert stepped.loss_sum == pytest.approx(10 * back.loss)


def test_a_given_up_step_leaves_no_gradient_behind(tmp_path: Path) -> None:
    scenario, server, device = both(tmp_path)
    _, _, fresh = both(tmp_path)
    returned(device, forwarded(server, step_of(device, scenario)))  # and then the round is over for it
    payloads = []
    for each in (device, fresh):
        sent = step_of(each, scenario)
        back = returned(each, forwarded(server, sent))
        stepped = server.run(TailStep(1, 0, (("c0", sent, 1.0),), {"c0": back}))
        assert isinstance(stepped, TailStepped)
        outcome = stepped.gradients["c0"]
        assert not isinstance(outcome, WireError)
        update = each.run(BackwardStep("c0", Gradient(1, 1, 1, 1, 0.0, outcome[0]), last=True))
        assert isinstance(update, HeadUpdate)
        payloads.append(update.payload)
    assert payloads[0] == payloads[1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param({"payload": np.full(120, np.nan, np.float32).tobytes()}, "not-finite", id="NaN"),
        pytest.param({"payload": np.full(120, 1e30, np.float32).tobytes()}, "range", id="too large"),
        pytest.param({"payload": b"x" * 479}, "shape", id="too short"),
        pytest.param({"loss": 1e300}, "range", id="a loss that no float32 has"),
        pytest.param({"loss": -1e300}, "range", id="a negative one"),
    ],
)
def test_what_a_hostile_device_returns_is_refused_and_changes_nothing(
    tmp_path: Path, change: dict[str, bytes | float], reason: str
) -> None:
    scenario, server, device = both(tmp_path)
    sent = step_of(device, scenario)
    bad = msgspec.structs.replace(returned(device, forwarded(server, sent)), **change)
    stepped = server.run(TailStep(1, 0, (("c0", sent, 1.0),), {"c0": bad}))
    assert isinstance(stepped, TailStepped)
    error = stepped.gradients["c0"]
    assert isinstance(error, WireError)
    assert error.reason == reason
    assert (stepped.samples, stepped.loss_sum) == (0, 0.0)
    assert all(parameter.grad is None for parameter in server.tail.parameters())


@pytest.mark.parametrize("payload", [b"", b"x" * 479, np.full(120, np.inf, np.float32).tobytes()])
def test_features_that_cannot_be_used_end_the_round_of_the_device_alone(
    tmp_path: Path, payload: bytes
) -> None:
    scenario, _, device = both(tmp_path)
    step_of(device, scenario)
    assert isinstance(device.run(TopStep("c0", Features(1, 1, 0, 1, payload))), WireError)
    assert isinstance(device.run(TopStep("c0", Features(1, 9, 0, 1, payload))), WireError)
    step_of(device, scenario)


def test_a_device_refuses_an_assignment_of_another_shape(tmp_path: Path) -> None:
    scenario, _, device = both(tmp_path)
    up, down, update, state, *_ = map(codec_to_wire, scenario.flows.codecs_for("none"))
    plain = Assignment(1, 1, 1, 2, 0.1, (up, down, update, state), b"")
    assert isinstance(device.run(FirstBatch("c0", plain)), WireError)


def test_the_server_evaluates_with_both_ends(tmp_path: Path) -> None:
    scenario, server, _ = both(tmp_path)
    task = task_of(scenario)
    test, head = task.load().test, server.head
    assert isinstance(head, Ends)
    whole = nn.Sequential(head.head, server.tail, head.top).eval()
    assert task.score is not None
    right = float(task.score(whole(test.inputs), test.targets).mean())
    assert evaluate(task, test, head, server.tail) == pytest.approx(right)


# What cannot be.


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        pytest.param(("training.aggregation=filtered_mean",), "the server has no labels", id="filtered_mean"),
        pytest.param(("training.tail_updates=2",), "needs gradients of the devices", id="several updates"),
        pytest.param(
            (f"task.module={FOLDER / 'plain_task.py'}",),
            "training.method: u_shape needs to know the last layers, which devices keep: corners has no top",
            id="a task without a top",
        ),
        pytest.param(
            ("flows.features_down={codec: pq, subvectors: 5, groups: 1, centroids: 2}",),
            "flows.features_down: ",
            id="a codec that does not fit",
        ),
        pytest.param(
            ("flows.feature_gradient_up={codec: codeword_mean}",),
            "flows.feature_gradient_up",
            id="a mean for each codeword",
        ),
    ],
)
def test_mistakes_are_told(tmp_path: Path, settings: tuple[str, ...], problem: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        u_shape(tmp_path, *settings)
    assert problem in str(caught.value)


def test_features_of_another_size_are_told_before_the_run(
    tmp_path: Path,
) -> None:
    scenario = u_shape(tmp_path)
    wrong = replace(load_task(scenario.task, "u_shape"), features_shape=(7,))
    with pytest.raises(ScenarioError, match="as features_shape says"):
        rehearse(scenario, wrong)


# Evaluation where the labels are.


def kept(folder: Path, *settings: str, task: str = "u_task") -> Scenario:
    """A run whose server has no test data: each device keeps some of its own rows."""
    for number, samples in enumerate((60, 33, 45, 3)):
        own = points(samples, number + 1)
        write_share(folder / "own" / f"c{number}", marked_task.marked(own) if task == "marked_task" else own)
    local = ("task.partition=local", "task.held_out=0.4", f"task.data={folder / 'own'}")
    return u_shape(folder, *LEARNS, *CODED, *local, *settings, task=task)


async def test_no_label_of_a_sample_that_is_kept_leaves_a_device(tmp_path: Path) -> None:
    scenario = kept(tmp_path, "training.rounds=2", "training.evaluate_every=1", *EXACT, task="marked_task")
    said = await bytes_of_devices(scenario, tmp_path / "run")
    assert said.count(marked_task.MARK[:8]) == 0
    assert said.count(bytes((3, 18))) >= 2 * 3  # Scores


async def test_devices_score_what_they_keep_and_tell_the_sum(tmp_path: Path) -> None:
    scenario = kept(tmp_path)
    simulated = simulate(scenario, tmp_path / "simulated")
    assert final_score(simulated) > 0.9
    live = await run_live(scenario, MemoryBroker().transport, tmp_path / "live")
    assert [live["bytes"][flow] for flow in EVERY_FLOW] == [simulated["bytes"][flow] for flow in EVERY_FLOW]
    assert final_score(live) == pytest.approx(final_score(simulated))


def test_the_sum_is_that_of_the_model_without_dropout(tmp_path: Path) -> None:
    scenario = kept(tmp_path, "training.rounds=1", "training.evaluate_every=1", *EXACT)
    task = task_of(scenario)
    summary = simulate(scenario, tmp_path / "run")
    head, tail = initial_model(task, scenario.seed)
    tensors = load_file(tmp_path / "run" / "model.safetensors")
    for part, module in (("head", head), ("tail", tail)):
        module.load_state_dict(
            {name: torch.from_numpy(tensors[f"{part}.{name}"]) for name in module.state_dict()}
        )
    devices = make_devices(scenario, ["c0", "c1", "c2", "c3"]).values()
    parts = [device.data._held_out for device in devices]
    right = sum(evaluate(task, part, head, tail) * len(part) for part in parts if len(part))
    assert final_score(summary) == pytest.approx(right / sum(map(len, parts)))


def test_a_device_that_is_restored_goes_on_with_its_scores(tmp_path: Path) -> None:
    scenario = kept(tmp_path, "task.batch_size=4", *EXACT)
    first, second = (make_devices(scenario, ["c0"])["c0"] for _ in range(2))
    up, down, update, state, *features = map(codec_to_wire, scenario.flows.codecs_for("none"))
    batches = -(-first.stock.held_out // 4)
    head = head_vector(initial_model(task_of(scenario), scenario.seed)[0]).tobytes()
    begin = Assignment(1, 1, 1, 6 + batches, 0.1, (up, down, update, state), head, 5, tuple(features))
    assert isinstance(first.run(FirstBatch("c0", begin)), Activations)
    for step in range(6, 6 + batches):
        n = len(first.data.held_out_batch(step - 6)[0])
        y = np.ones((n, 12), np.float32).tobytes()
        job = HeldOutBatch("c0", 1, step, Features(1, 1, step - 1, 1, y))
        answer = first.run(job)
        if step > 6:
            assert second.run(job) == answer
        saved = first.state()
        assert saved is not None
        second.restore(saved)
    assert isinstance(answer, Scores)
    assert (answer.step, answer.count) == (5 + batches, first.stock.held_out)


def test_scores_of_others_than_came_are_refused() -> None:
    assert check_scores(Scores(1, 1, 7, 1, 25, 20.0), 25) is None
    for bad, reason in ((Scores(1, 1, 7, 1, 26, 20.0), "samples"), (Scores(1, 1, 7, 1, 25, 1e30), "range")):
        error = check_scores(bad, 25)
        assert error is not None
        assert error.reason == reason
