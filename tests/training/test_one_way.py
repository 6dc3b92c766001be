"""Rounds without gradients: an auxiliary tail on the device gives the head its own instead."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from torch import Tensor, nn

from broker.codecs import Float32, codec_to_wire
from broker.transports.memory import MemoryBroker
from broker.wire.chunks import MAX_MESSAGE_BYTES
from broker.wire.errors import WireError
from broker.wire.messages import Activations, Assignment, Gradient, HeadUpdate
from broker.wire.round_messages import MAX_BATCHES
from edge_client.jobs import BackwardStep, FirstBatch
from edge_client.training.device import Device
from edge_client.training.devices import make_devices
from scenarios.computing.optimizers import sgd_step
from scenarios.cutting.finding import find_cut
from scenarios.cutting.possible import possible_cuts
from scenarios.errors import ScenarioError
from scenarios.heads.auxiliary import GRID, PooledLinear, WithAuxiliary, own_layers, with_auxiliary
from scenarios.loading.checks import MOST_BATCHES
from scenarios.loading.load import load_scenario
from scenarios.loading.rehearsal import rehearse
from scenarios.loading.trial.memory import MOST_MESSAGE_BYTES
from scenarios.partition import client_rows
from scenarios.schema.scenario import Scenario, client_names
from scenarios.tasks import task_of
from scenarios.training import BatchSampler, head_vector, initial_model, load_head_vector
from server_node.vocabulary.ledger import FLOWS
from sim.simulation.run import simulate
from tests import small_task
from tests.cutting.nets import Encoder, Recurrent, ResNet, Transformer, images, words
from tests.helpers import final_score, small_scenario
from tests.live.test_live import run as run_live

EXACT = tuple(f"flows.{flow}={{codec: float32}}" for flow in FLOWS)
LEARNS = ("training.rounds=30", "training.evaluate_every=30")
EVERY = st.sampled_from([2, 3, "never"])


def one_way(folder: Path, *more: str, every: int | str = "never", module: str = "plain_task") -> Scenario:
    spec = f"{{module: {Path(__file__).parents[1] / module}.py, partition: iid, batch_size: 10}}"
    return small_scenario(folder, f"task={spec}", f"training.gradients_every={every}", *more)


def learned(folder: Path) -> npt.NDArray[np.float32]:
    tensors = load_file(folder / "model.safetensors")
    parts = [name for part in ("head.head", "head.aux", "tail") for name in tensors if name.startswith(part)]
    layers = dict.fromkeys(name.rpartition(".")[0] for name in parts)
    names = [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
    assert sorted(names) == sorted(tensors)
    return np.concatenate([tensors[name].ravel() for name in names])


def plain_loop(scenario: Scenario) -> npt.NDArray[np.float32]:
    """Train as a round says, all in one place. Gives all parameters: head, auxiliary tail, tail."""
    task, training = task_of(scenario), scenario.training
    data = task.load()
    head, tail = initial_model(task, scenario.seed)
    state = head_vector(head)
    shares = dict(zip(client_names(scenario), client_rows(scenario, data), strict=True))
    size = scenario.task.batch_size
    for number in range(1, training.rounds + 1):
        answers = training.gradients_every != "never" and number % training.gradients_every == 0
        copies = {name: task.head() for name in shares}
        for copy in copies.values():
            load_head_vector(copy, state)
        for step in range(training.local_steps):
            seen: list[tuple[nn.Module, Tensor, Tensor, Tensor]] = []
            for name, copy in copies.items():
                rows = BatchSampler(len(shares[name]), size, seed=scenario.seed, client=name)
                inputs, targets = data.train.take(shares[name]).batch(rows.rows(number, step))
                z = copy(inputs)
                seen.append((copy, z, z.detach().requires_grad_(), targets))
            losses = [task.loss(tail(cut), targets).mean() for _, _, cut, targets in seen]
            wanted = [
                torch.autograd.grad(loss, cut, retain_graph=True)[0]
                for loss, (_, _, cut, _) in zip(losses, seen, strict=True)
            ]
            torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
            for (copy, z, _, targets), gradient in zip(seen, wanted, strict=True):
                assert isinstance(copy, WithAuxiliary)
                at = z.detach().requires_grad_()
                loss = task.loss(copy.auxiliary(at), targets).mean()
                (own,) = torch.autograd.grad(loss, at, create_graph=True)
                apart = (own - gradient).norm() ** 2 / gradient.norm() ** 2 if answers else 0.0
                (loss + apart).backward()  # type: ignore[no-untyped-call]
                z.backward(gradient if answers else own.detach())  # type: ignore[no-untyped-call]
                sgd_step(copy, training.head_lr)
            sgd_step(tail, training.tail_lr)
        state = np.mean([head_vector(copy) for copy in copies.values()], axis=0, dtype=np.float32)
    return np.concatenate([state, head_vector(tail)])


@settings(max_examples=12, deadline=None)
@given(every=EVERY, steps=st.integers(1, 3), clients=st.integers(1, 3))
def test_with_float32_it_learns_what_a_plain_loop_learns(
    tmp_path_factory: pytest.TempPathFactory, every: int | str, steps: int, clients: int
) -> None:
    folder = tmp_path_factory.mktemp("loop")
    size = (f"training.local_steps={steps}", f"training.cohort={clients}", f"fleet=[{{count: {clients}}}]")
    scenario = one_way(folder, "training.rounds=6", *EXACT, *size, every=every)
    simulate(scenario, folder / "run")
    np.testing.assert_allclose(learned(folder / "run"), plain_loop(scenario), rtol=1e-3, atol=1e-5)


@settings(max_examples=8, deadline=None)
@given(
    codec=st.sampled_from(["pq, subvectors: 4, centroids: 2", "int2", "topk, fraction: 0.1"]),
    steps=st.integers(1, 3),
)
def test_what_the_head_learns_does_not_depend_on_the_codec_of_the_activations(
    tmp_path_factory: pytest.TempPathFactory, codec: str, steps: int
) -> None:
    """The auxiliary tail reads them before they are coded; the server's tail gets what the codec leaves."""
    folder = tmp_path_factory.mktemp("codecs")
    size = ("training.rounds=4", f"training.local_steps={steps}", *EXACT)
    simulate(one_way(folder, *size), folder / "exact")
    simulate(one_way(folder, *size, f"flows.activations_up={{codec: {codec}}}"), folder / "coded")
    exact, coded = (load_file(folder / run / "model.safetensors") for run in ("exact", "coded"))
    for name in exact:
        assert (exact[name] == coded[name]).all() == name.startswith("head"), name


@pytest.mark.parametrize("every", [2, "never"])
async def test_live_simulated_and_timed_runs_have_the_same_bytes(tmp_path: Path, every: int | str) -> None:
    scenario = one_way(tmp_path, "training.rounds=5", "training.local_steps=2", every=every)
    live = await run_live(scenario, MemoryBroker().transport, tmp_path / "live")
    learned = simulate(scenario, tmp_path / "learned")
    timed = simulate(scenario, tmp_path / "timed", timing_only=True)
    for summary in (learned, timed):
        assert [live["bytes"][flow] for flow in FLOWS] == [summary["bytes"][flow] for flow in FLOWS]
        assert [live["ratio"][flow] for flow in FLOWS] == [summary["ratio"][flow] for flow in FLOWS]  # type: ignore[literal-required]
        assert live["client_steps"] == summary["client_steps"] == 5 * 3 * 2
        assert summary["messages"]["rejected"] == 0
    assert learned["virtual_seconds"] == timed["virtual_seconds"]
    answered = 0 if every == "never" else 2 * 3 * 2
    assert live["bytes"]["gradient_down"]["raw_float32"] == answered * 10 * 16 * 4
    assert live["bytes"]["activations_up"]["raw_float32"] == 5 * 3 * 2 * 10 * 16 * 4


@pytest.mark.parametrize("every", [3, "never"])
@pytest.mark.parametrize(
    "stragglers",
    [
        "{policy: deadline, deadline_s: 50, minimum: 1}",
        "{policy: over_select, extra: 1}",
        "{policy: buffered, buffer: 2, max_staleness: 2}",
    ],
)
def test_it_learns_with_every_policy(tmp_path: Path, stragglers: str, every: int | str) -> None:
    slow = "fleet=[{count: 3, link: lte}, {count: 1, link: 2g}]"
    scenario = one_way(tmp_path, *LEARNS, f"stragglers={stragglers}", slow, every=every)
    assert final_score(simulate(scenario, tmp_path / "run")) > 0.9


@pytest.mark.parametrize(
    "setting",
    [
        "training.aggregation=coordinate_median",
        "training.aggregation=filtered_mean",
        "training.tail_updates=3",
        "training.correction={relative: 0.1}",
        "training.head_optimizer={kind: adam}",
        "flows.error_feedback=true",
    ],
)
def test_it_goes_with_what_other_rounds_go_with(tmp_path: Path, setting: str) -> None:
    rates = ("training.head_lr=0.02",) if "adam" in setting else ()
    scenario = one_way(tmp_path, *LEARNS, setting, *rates, every=3)
    assert final_score(simulate(scenario, tmp_path / "run")) > 0.9


def test_all_local_steps_take_their_time_at_once(tmp_path: Path) -> None:
    profile = "{batch_size: 10, forward_s: 100, encode_s: 10, decode_s: 20, backward_s: 200}"
    model = "network.server={tail_batch_s: 1, tail_sample_s: 0.3, update_s: 2, close_s: 0}"
    one = ("training.rounds=1", "training.cohort=1", f"fleet=[{{count: 1, device: {profile}}}]", model)
    scenario = one_way(tmp_path, *one, "training.local_steps=3")
    summary = simulate(scenario, tmp_path / "run", timing_only=True)
    assert summary["virtual_seconds"] == pytest.approx(3 * (100 + 10 + 200) + 3 * (1 + 3 + 2), abs=1.0)


def test_head_and_tail_begin_as_they_do_without_an_auxiliary_tail(tmp_path: Path) -> None:
    plain = one_way(tmp_path, every=1)
    (head, tail), (own, other) = (
        initial_model(task_of(each), each.seed) for each in (one_way(tmp_path), plain)
    )
    assert isinstance(head, WithAuxiliary)
    for with_it, without in ((head.head, own), (tail, other)):
        assert (head_vector(with_it) == head_vector(without)).all()


# The device.


def device_of(scenario: Scenario) -> Device:
    device = make_devices(scenario, ["c0"])["c0"]
    load_head_vector(device.head.module, device.head._initial)
    return device


def begin(scenario: Scenario, device: Device, *, round_number: int = 1, steps: int = 0) -> FirstBatch:
    codecs = tuple(map(codec_to_wire, scenario.flows.codecs_for("none")[:4]))
    head = Float32().encode(head_vector(device.head.module)[None], np.random.default_rng(0))
    return FirstBatch("c0", Assignment(1, round_number, 1, steps, 0.3, codecs, head))  # type: ignore[arg-type]


def test_its_update_carries_what_it_would_have_sent_step_by_step(tmp_path: Path) -> None:
    """The first batch is that of a round with gradients; the others come from a head that has moved."""
    scenario = one_way(tmp_path, *EXACT, "training.local_steps=3", every=2)
    update = device_of(scenario).run(begin(scenario, device_of(scenario)))
    sent = device_of(scenario).run(begin(scenario, device_of(scenario), round_number=2, steps=3))
    assert isinstance(update, HeadUpdate)
    assert isinstance(sent, Activations)
    assert update.samples == sum(count for count, _, _ in update.batches) == 30
    assert [len(payload) for _, payload, _ in update.batches] == [len(sent.payload)] * 3
    assert len({payload for _, payload, _ in update.batches}) == 3


@pytest.mark.parametrize(("number", "steps"), [(1, 3), (2, 0)])
def test_it_refuses_a_round_of_the_other_kind(tmp_path: Path, number: int, steps: int) -> None:
    scenario = one_way(tmp_path, *EXACT, "training.local_steps=3", every=2)
    device = device_of(scenario)
    error = device.run(begin(scenario, device, round_number=number, steps=steps))
    assert isinstance(error, WireError)
    assert error.reason == "order"


def test_the_auxiliary_tail_learns_to_give_the_servers_gradient(tmp_path: Path) -> None:
    """The same batch and gradient again and again: their distance falls to a fraction of what it was."""
    scenario = one_way(tmp_path, *EXACT, "training.head_lr=0.3", every=2)
    device = device_of(scenario)
    auxiliary = device._auxiliary
    assert auxiliary is not None
    device.run(begin(scenario, device, round_number=2, steps=1))
    task, tail = task_of(scenario), initial_model(task_of(scenario), scenario.seed)[1]
    batch = device._batch_out(0)
    z = batch.head.z.detach().requires_grad_()
    (wanted,) = torch.autograd.grad(task.loss(tail(z), batch.targets).mean(), z)

    def distance() -> float:
        at, loss = auxiliary._loss(batch, batch.head.z.detach().numpy())
        (own,) = torch.autograd.grad(loss, at)
        return float((own - wanted).norm() / wanted.norm())

    before = distance()
    for _ in range(100):
        auxiliary.follow(batch, wanted.numpy())
        sgd_step(auxiliary._module, 0.1)
    assert distance() < 0.5 * before


def test_a_loss_that_is_not_finite_ends_the_round_of_the_device_alone(tmp_path: Path) -> None:
    scenario = one_way(tmp_path, *EXACT)
    device = device_of(scenario)
    task = replace(device._task, loss=lambda outputs, _targets: outputs.sum(1) * torch.nan)
    assert device._auxiliary is not None
    device._auxiliary._task = task
    error = device.run(begin(scenario, device))
    assert isinstance(error, WireError)
    assert "auxiliary tail is nan" in str(error)


def test_with_gradients_in_a_round_the_head_follows_them_alone(tmp_path: Path) -> None:
    """A gradient of zeros leaves the head as it is, whatever the auxiliary tail learns meanwhile."""
    scenario = one_way(tmp_path, *EXACT, every=2)
    device = device_of(scenario)
    device.run(begin(scenario, device, round_number=2, steps=1))
    zeros = np.zeros((10, 16), np.float32).tobytes()
    update = device.run(BackwardStep("c0", Gradient(1, 2, 0, 1, 0.0, zeros), last=True))
    assert isinstance(update, HeadUpdate)
    changed = np.frombuffer(update.payload, "<f4")
    own = len(head_vector(own_layers(device.head.module)))
    assert not changed[:own].any()
    assert changed[own:].any()


# The auxiliary tail that is made for a task.


@given(
    places=st.lists(st.integers(1, 7), max_size=2),
    channels=st.integers(1, 5),
    outputs=st.lists(st.integers(1, 4), max_size=2),
)
def test_it_gives_outputs_of_every_shape_from_means_of_the_cuts_parts(
    places: list[int], channels: int, outputs: list[int]
) -> None:
    layer = PooledLinear((*places, channels), tuple(outputs))
    z = torch.randn(3, int(np.prod([*places, channels])), requires_grad=True)
    found = layer(z)
    assert found.shape == (3, *outputs)
    found.sum().backward()
    assert z.grad is not None
    parts = math.prod(min(GRID, size) for size in places)
    assert layer.weight.numel() <= math.prod(outputs) * parts * channels


@given(
    places=st.lists(st.integers(1, 7), max_size=3), channels=st.integers(1, 90), outputs=st.integers(1, 200)
)
def test_its_weight_is_as_near_to_a_square_as_whole_parts_allow(
    places: list[int], channels: int, outputs: int
) -> None:
    weight = PooledLinear((*places, channels), (outputs,)).weight
    grid = [min(GRID, size) for size in places]
    for axes in range(len(grid) + 1):
        rows, columns = outputs * math.prod(grid[:axes]), math.prod(grid[axes:]) * channels
        assert rows * columns == weight.numel()
        assert sum(weight.shape) <= rows + columns


@given(size=st.integers(1, 9), channels=st.integers(1, 40), outputs=st.integers(1, 40))
def test_whatever_the_form_of_its_weight_an_output_is_a_weighted_sum_of_parts_and_channels(
    size: int, channels: int, outputs: int
) -> None:
    layer = PooledLinear((size, channels), (outputs,))
    maps = torch.randn(2, size, channels)
    means = torch.stack([part.mean(1) for part in maps.tensor_split(min(GRID, size), 1)], 1)
    weight = layer.weight.reshape(outputs, -1, channels)  # of each output, part and channel
    wanted = torch.einsum("npc,opc->no", means, weight) + layer.bias
    assert torch.allclose(layer(maps.flatten(1)), wanted, atol=1e-5)


def test_each_place_has_outputs_of_its_own_where_the_tail_has_them() -> None:
    layer = PooledLinear((5, 3), (5, 7))
    z = torch.randn(2, 15, requires_grad=True)
    layer(z)[:, 2].sum().backward()
    assert z.grad is not None
    touched = z.grad.reshape(2, 5, 3).abs().sum((0, 2)) > 0
    assert touched.tolist() == [False, False, True, False, False]


class NoTensor(nn.Module):
    def forward(self, z: Tensor) -> dict[str, Tensor]:
        return {"kind": z, "place": z}


def test_for_a_tail_with_several_outputs_the_task_must_name_it() -> None:
    task = replace(small_task.task(), tail=NoTensor)
    with pytest.raises(ScenarioError, match="names no `auxiliary`"):
        with_auxiliary(task, 0)
    named = with_auxiliary(replace(task, auxiliary=NoTensor), 0)
    assert isinstance(named.head(), WithAuxiliary)


@pytest.mark.parametrize("build", [ResNet, Transformer, Encoder, Recurrent])
def test_one_is_made_wherever_a_model_can_be_cut_by_a_layers_name(build: Callable[[], nn.Module]) -> None:
    inputs = images() if build is ResNet else words()
    layers = [each.layer for each in possible_cuts(build, inputs)]
    for layer in layers:
        cut = find_cut(build, layer, inputs)
        task = replace(small_task.task(), cut_shape=cut.layout.cut_shape, head=cut.head, tail=cut.tail)
        head = with_auxiliary(task, 0).head()
        assert isinstance(head, WithAuxiliary), layer
        z = head(inputs)
        assert head.auxiliary(z).shape == cut.tail()(z).shape, layer
    assert len(layers) > 2


def test_a_device_need_not_have_room_for_the_tail() -> None:
    """Its outputs' shape is found without numbers."""
    made: list[nn.Linear] = []

    def tail() -> nn.Linear:
        made.append(nn.Linear(16, 4))
        return made[-1]

    with_auxiliary(replace(small_task.task(), tail=tail), 0)
    assert [each.weight.is_meta for each in made] == [True]


# What cannot be.


def test_a_head_update_has_room_for_as_many_batches_as_a_scenario_may_ask_for() -> None:
    assert MOST_BATCHES == MAX_BATCHES


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("training.method=fedavg", "training.gradients_every: other than 1 goes with method: split"),
        ("fleet=[{count: 3, cut: '1'}]", "training.gradients_every: other than 1 goes with whole heads"),
        (
            "flows.adaptive={ladder: [{activations_up: {codec: float32}}, {activations_up: {codec: int8}}]}",
            "does not go with flows.adaptive",
        ),
        ("training.local_steps=300", "training.local_steps: must be at most 256"),
        ("training.gradients_every=0", "training.gradients_every"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, setting: str, problem: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        one_way(tmp_path, setting)
    assert problem in str(caught.value)


def test_batches_that_are_too_long_for_one_message_are_told_before_the_run() -> None:
    assert MOST_MESSAGE_BYTES == MAX_MESSAGE_BYTES
    scenario = load_scenario("splitfed", ("training.local_steps=100", "training.gradients_every=never"))
    with pytest.raises(ScenarioError, match="100 steps without gradients are one message of 70 MiB"):
        rehearse(scenario)


FROZEN = """
from tests import small_task
from dataclasses import replace
def task():
    made = small_task.task()
    def head():
        own = made.head()
        for parameter in own.parameters():
            parameter.requires_grad_(False)
        return own
    return replace(made, head=head)
"""
ONCE = """
import torch
from dataclasses import replace
from torch import nn
from tests import small_task
class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        return z * 1.0
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient
class Auxiliary(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 4)
    def forward(self, z):
        return Rounded.apply(self.linear(z))
def task():
    return replace(small_task.task(), auxiliary=Auxiliary)
"""


def own_module(folder: Path, text: str) -> str:
    (folder / "own.py").write_text(text)
    return f"task={{module: {folder / 'own.py'}, partition: iid, batch_size: 10}}"


def test_a_frozen_head_has_no_use_for_it(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="needs a head that is trained"):
        one_way(tmp_path, own_module(tmp_path, FROZEN))


def test_an_auxiliary_tail_that_cannot_follow_gradients_is_told_before_the_run(tmp_path: Path) -> None:
    rehearse(one_way(tmp_path, own_module(tmp_path, ONCE)))  # never: it need not
    with pytest.raises(ScenarioError, match="way back through the auxiliary tail, and its gradient, fails"):
        rehearse(one_way(tmp_path, own_module(tmp_path, ONCE), every=2))
