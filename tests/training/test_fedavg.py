"""FedAvg as the degenerate cut: the same wire, and the arithmetic of a short plain loop."""

import asyncio
import math
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from broker.codecs import Float32, codec_to_wire
from broker.transports.memory import MemoryBroker
from broker.wire.errors import WireError
from broker.wire.messages import Activations, Assignment
from edge_client.jobs import FirstBatch
from edge_client.live import host
from edge_client.training.devices import make_devices
from scenarios.computing.optimizers import sgd_step
from scenarios.errors import ScenarioError
from scenarios.loading.load import load_scenario
from scenarios.partition import client_rows
from scenarios.schema.scenario import Scenario, client_names
from scenarios.seeded import seeded
from scenarios.seeds import derive_seed
from scenarios.tasks import load_task, task_of
from scenarios.training import BatchSampler, head_vector, initial_model, load_head_vector
from server_node.live import serve
from server_node.protocol.admission import check_batch
from server_node.tail import Tail
from server_node.vocabulary.jobs import ScoreBatches, Scored
from server_node.vocabulary.ledger import FLOWS, Ledger
from server_node.vocabulary.reports import Fact, RoundReport
from sim.simulation.run import simulate
from tests.helpers import final_score, plan_of, small_scenario
from tests.live.test_live import run as run_live
from tests.scenarios.test_metrics import own_metric

WHOLE = 8 * 16 + 16 + 16 * 4 + 4  # parameters of the small task's head and tail
EXACT = ("flows.head_update_up={codec: float32}", "flows.head_state_down={codec: float32}")
ROUNDS = 3


def fedavg(folder: Path, *settings: str) -> Scenario:
    return small_scenario(folder, "training.method=fedavg", "training.local_steps=2", *settings)


def plain_loop(scenario: Scenario) -> npt.NDArray[np.float32]:
    """Average by samples what every client makes of the model in a round; gives the final parameters."""
    task, training, batch_size = load_task(scenario.task), scenario.training, scenario.task.batch_size
    data = task.load()
    model = nn.Sequential(*initial_model(task, scenario.seed))
    state = head_vector(model)
    for number in range(1, training.rounds + 1):
        total, samples = np.zeros_like(state), 0
        for name, rows in zip(client_names(scenario), client_rows(scenario, data), strict=True):
            load_head_vector(model, state)
            sampler = BatchSampler(len(rows), batch_size, seed=scenario.seed, client=name)
            for step in range(training.local_steps):
                inputs, targets = data.train.take(rows).batch(sampler.rows(number, step))
                with seeded(derive_seed(scenario.seed, "dropout", name, number, step)):
                    outputs = model(inputs)
                nn.functional.cross_entropy(outputs, targets).backward()  # type: ignore[no-untyped-call]
                sgd_step(model, training.head_lr * training.lr_factor(number))
            n = training.local_steps * min(batch_size, len(rows))
            total += n * head_vector(model)
            samples += n
        state = total / np.float32(samples)
    return state


def trained(folder: Path) -> npt.NDArray[np.float32]:
    return np.concatenate(
        [value.numpy().ravel() for value in load_file(folder / "model.safetensors").values()]
    )


def by_name(vector: npt.NDArray[np.float32], scenario: Scenario) -> npt.NDArray[np.float32]:
    """Order a vector of the whole model as a file of its tensors is."""
    model = task_of(scenario).head()
    load_head_vector(model, vector)
    state = model.state_dict()
    return np.concatenate([state[name].numpy().ravel() for name in sorted(state)])


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(
            ("fleet=[{count: 1}]", "training.cohort=1", "training.local_steps=1"),
            id="one client, one step: SGD of the whole model",
        ),
        pytest.param(
            ("fleet=[{count: 3}]", "training.lr_decay=linear", "training.local_steps=4"),
            id="several clients and steps",
        ),
        pytest.param(("fleet=[{count: 3}]", "task.batch_size=67"), id="shares of different sizes"),
    ],
)
def test_it_is_a_plain_loop_of_local_training_and_averages(tmp_path: Path, settings: tuple[str, ...]) -> None:
    scenario = fedavg(tmp_path, f"training.rounds={ROUNDS}", *EXACT, *settings)
    simulate(scenario, tmp_path / "run")
    expected = by_name(plain_loop(scenario), scenario)
    np.testing.assert_allclose(trained(tmp_path / "run"), expected, rtol=1e-4, atol=1e-6)


def test_it_begins_with_the_weights_of_split_learning(tmp_path: Path) -> None:
    scenario = fedavg(tmp_path)
    whole, nothing = initial_model(task_of(scenario), scenario.seed)
    parts = initial_model(load_task(scenario.task), scenario.seed)
    assert list(nothing.parameters()) == []
    np.testing.assert_array_equal(head_vector(whole), np.concatenate([head_vector(part) for part in parts]))


async def test_live_simulated_and_timed_runs_have_the_same_bytes(tmp_path: Path) -> None:
    scenario = fedavg(tmp_path, "training.rounds=6", "flows.head_update_up={codec: int8}")
    live = await run_live(scenario, MemoryBroker().transport, tmp_path / "live")
    learned = simulate(scenario, tmp_path / "learned")
    timed = simulate(scenario, tmp_path / "timed", timing_only=True)
    for summary in (learned, timed):
        assert {flow: live["bytes"][flow] for flow in FLOWS} == {
            flow: summary["bytes"][flow] for flow in FLOWS
        }
        for key in ("rounds", "client_steps"):
            assert live[key] == summary[key]
    assert live["client_steps"] == 6 * 3 * 2
    assert learned["messages"]["sent"] == timed["messages"]["sent"]


async def test_nothing_but_models_is_exchanged(tmp_path: Path) -> None:
    summary = await run_live(fedavg(tmp_path), MemoryBroker().transport, tmp_path / "run")
    flows = summary["bytes"]
    for flow in ("activations_up", "gradient_down"):
        assert flows[flow] == {"payload": 0, "wire": 0, "raw_float32": 0}
    models = 20 * 3
    for flow in ("head_update_up", "head_state_down"):
        assert flows[flow]["payload"] == models * (1 + 2 * WHOLE)
        assert flows[flow]["raw_float32"] == models * 4 * WHOLE
    assert final_score(summary) > 0.9
    row = pq.read_table(tmp_path / "run/metrics.parquet").to_pylist()[-1]
    assert math.isnan(row["loss"])  # the devices' own business
    assert row["quantization_error"] == 0


@pytest.mark.parametrize(
    "policy",
    [
        "{policy: deadline, deadline_s: 0.5, minimum: 2}",
        "{policy: over_select, extra: 1}",
        "{policy: buffered, buffer: 2, max_staleness: 3}",
    ],
)
def test_every_straggler_policy_learns(tmp_path: Path, policy: str) -> None:
    slow = "fleet=[{count: 3, device: {whole_model_s: 0.1}}, {count: 1, device: {whole_model_s: 0.4}}]"
    scenario = fedavg(tmp_path, f"stragglers={policy}", slow)
    summary = simulate(scenario, tmp_path / "run")
    assert summary["rounds"] == 20
    assert final_score(summary) > 0.9
    assert summary["messages"]["rejected"] == 0


async def test_a_killed_server_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    scenario, folder = fedavg(tmp_path, "fleet=[{count: 3}]", *EXACT), tmp_path / "run"
    connect, stop, reached = MemoryBroker().transport, asyncio.Event(), asyncio.Event()

    def watch(fact: Fact, _ledger: Ledger) -> None:
        if isinstance(fact, RoundReport) and fact.round == 12:
            reached.set()

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(host(scenario, connect, run="small", names=client_names(scenario), stop=stop))
        first = asyncio.create_task(
            serve(scenario, connect, run="small", folder=folder, stop=stop, watch=watch)
        )
        await reached.wait()
        first.cancel()
        await asyncio.wait({first})
        group.create_task(serve(scenario, connect, run="small", folder=folder, stop=stop))
    expected = by_name(plain_loop(scenario), scenario)
    np.testing.assert_allclose(trained(folder), expected, rtol=1e-3, atol=1e-5)


def test_a_round_takes_its_steps_times_the_whole_models_seconds(tmp_path: Path) -> None:
    scenario = fedavg(
        tmp_path,
        "training.cohort=1",
        "training.rounds=2",
        "stragglers.retry_s=60",
        "fleet=[{count: 1, device: {batch_size: 20, forward_s: 9, whole_model_s: 3}}]",
        "network.server={tail_batch_s: 9, update_s: 9, close_s: 0.5}",
    )
    simulate(scenario, tmp_path, timing_only=True)
    rows = pq.read_table(tmp_path / "metrics.parquet").to_pylist()
    assert [row["elapsed_s"] for row in rows] == pytest.approx([3.5, 7.0])  # 2 steps with half a batch


def test_a_device_does_not_mix_the_methods(tmp_path: Path) -> None:
    spec = codec_to_wire(Float32())
    for method, steps in (("split", 0), ("fedavg", 1)):
        device = make_devices(small_scenario(tmp_path, f"training.method={method}"), ["c0"])["c0"]
        answer = device.run(FirstBatch("c0", Assignment(1, 1, 1, steps, 0.1, (spec, spec, spec, spec), b"")))
        assert isinstance(answer, WireError)
        assert answer.reason == "order"


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("training.correction.lambda=0.1", "training.correction.lambda: goes with method: split"),
        ("fleet.0.device={forward_s: 1}", "fleet.0.device: method: fedavg needs whole_model_s"),
        ("flows.head_update_up={codec: pq, subvectors: 5, groups: 1, centroids: 2}", "flows.head_update_up:"),
        ("training.method=fedsgd", "training.method: must be split, u_shape or fedavg, not 'fedsgd'"),
    ],
)
def test_what_does_not_go_with_it_is_told(tmp_path: Path, setting: str, problem: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        fedavg(tmp_path, setting)
    assert problem in str(caught.value)


def test_what_belongs_to_the_cut_is_not_needed_and_does_not_hurt(tmp_path: Path) -> None:
    pq_of_the_cut = "flows.gradient_down={codec: pq, subvectors: 7, groups: 1, centroids: 2}"  # 16 / 7
    assert fedavg(tmp_path, pq_of_the_cut).training.method == "fedavg"
    (tmp_path / "bare.yaml").write_text(
        "name: bare\ntask: {partition: iid}\nfleet: [{count: 2}]\n"
        "training: {method: fedavg, rounds: 1, cohort: 1, head_lr: 0.2}\n"
    )
    assert load_scenario(str(tmp_path / "bare.yaml")).training.tail_lr == 0.2


def test_the_shipped_scenario_differs_from_the_quickstart_in_the_method() -> None:
    shipped, quickstart = load_scenario("fedavg"), load_scenario("quickstart")
    assert (shipped.training.method, shipped.fleet) == ("fedavg", quickstart.fleet)
    assert sum(parameter.numel() for parameter in task_of(shipped).head().parameters()) == 1_199_882
    with torch.device("meta"):
        assert isinstance(task_of(shipped).tail(), nn.Identity)


OWN = ("task.partition=local", "task.data=/nowhere", "task.held_out=0.2")


@pytest.mark.parametrize("scores", [[1.0, 0.0], [1.0, float("nan")], [1.0, 2.0**64], [float("-inf"), 0.0]])
def test_a_score_that_no_sound_model_gives_is_refused(tmp_path: Path, scores: list[float]) -> None:
    scenario = fedavg(tmp_path, *OWN)
    task = task_of(scenario)
    head, tail = initial_model(task, 0)
    plan = plan_of(scenario, task)
    server = Tail(task, None, head=head, tail=tail, plan=plan, training=scenario.training)
    told = Activations(1, 1, 1, 1, 2, np.array(scores, "<f4").tobytes(), b"")
    assert check_batch(plan, plan.codecs, plan.whole_head, told, None) is None
    result = server.run(ScoreBatches(1, (("c0", told),)))
    assert isinstance(result, Scored)
    outcome = result.scores["c0"]
    sound = bool(np.isfinite(scores).all()) and max(scores) < 2.0**64
    assert outcome == (1.0, 2) if sound else isinstance(outcome, WireError)
    labels = check_batch(
        plan, plan.codecs, plan.whole_head, msgspec.structs.replace(told, targets=b"x"), None
    )
    assert labels is not None
    assert labels.reason == "shape"


def test_a_metric_that_is_no_mean_needs_test_data(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="rarest recall is no mean of scores: give the server test data"):
        own_metric(tmp_path, "RarestRecall", *OWN, "training.method=fedavg", "task.held_out=0.2")
