"""Slow devices have the first part of the head, and the server does the rest: nothing else changes."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from broker.codecs import Float16, Int4, Int8
from broker.transports.memory import MemoryBroker
from broker.wire.errors import WireError
from scenarios.cutting.early import early_cut
from scenarios.errors import ScenarioError
from scenarios.heads.in_training import HeadInTraining
from scenarios.local.shares import write_share
from scenarios.schema.scenario import Scenario, scenario_digest
from scenarios.tasks import task_of
from scenarios.training import head_vector, initial_model
from server_node.learning.gradients import Batch
from server_node.learning.stand_ins import StandIns
from server_node.summary import Summary
from server_node.vocabulary.head_share import HeadShare, with_initial
from server_node.vocabulary.ledger import FLOWS
from sim.simulation.run import simulate
from tests.helpers import final_score, plan_of, small_scenario
from tests.live.test_live import run as run_live
from tests.small_task import points

LADDER = f"task.module={Path(__file__).parents[1] / 'ladder_task.py'}"
FLOAT = tuple(
    f"flows.{flow}={{codec: float32}}"
    for flow in ("activations_up", "gradient_down", "head_update_up", "head_state_down")
)
RULE = (
    "{cut: 1, activations_up: {codec: float16}, gradient_down: {codec: int4}, "
    "head_state_down: {codec: float32}}"
)
MEANS = "{cut: 1, activations_up: {codec: int8}, gradient_down: {codec: codeword_mean}}"
LOSSY = (f"flows.by_cut=[{RULE}]", "fleet=[{count: 2}, {count: 2, cut: 1}]", "training.cohort=4")
CUTS: tuple[list[int | None], ...] = (
    [None] * 4,
    [1, None, None, None],
    [None, 1, None, None],
    [2, None, None, None],
)
MINE = """
from torch import nn
from tests.small_task import points
from scenarios.task import Dataset

class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(8, 12), nn.ReLU())
        self.second = nn.Linear(12, 16)
        self.last = nn.Linear(16, 4)

    def forward(self, x):
        return self.last(self.second(self.first(x)).relu())

def build():
    return Mine()

def data():
    return Dataset(points(200, 1), points(100, 2))
"""
LAYERS = 7  # before the last one of the ladder's head
POLICIES = (
    "{policy: wait_all}",
    "{policy: over_select, extra: 1}",
    "{policy: buffered, buffer: 2, max_staleness: 2}",
)
RULES: tuple[tuple[str, ...], ...] = (
    (),
    ("training.head_optimizer={momentum: 0.9, nesterov: true, weight_decay: 0.01}",),
    ("training.head_optimizer={kind: adamw}", "training.head_lr=0.01"),
    ("training.proximal_mu=1.0", "training.tail_updates=2"),
    ("training.aggregation=trimmed_mean",),
    ("training.aggregation=filtered_mean", "training.server_optimizer={kind: adam, lr: 0.1}"),
    ("training.lr_decay=linear", "training.warmup_rounds=2"),
)


def fleet_of(cuts: Sequence[int | None]) -> str:
    """Write a fleet of one client for each cut; None: it has the whole head."""
    groups = ["{count: 1}" if cut is None else f"{{count: 1, cut: {cut}}}" for cut in cuts]
    return f"fleet=[{', '.join(groups)}]"


def learned(folder: Path, *given: str) -> tuple[dict[str, torch.Tensor], Summary]:
    """Simulate a few rounds of the ladder; gives the model and the summary."""
    scenario = small_scenario(folder, LADDER, "training.rounds=3", *given)
    summary = simulate(scenario, folder / "run", threads=1)
    return load_file(folder / "run/model.safetensors"), summary


def both(whole: Sequence[str], early: Sequence[str]) -> tuple[Any, Any]:
    """Simulate with whole heads and with early cuts."""
    with TemporaryDirectory() as one, TemporaryDirectory() as other:
        return learned(Path(one), *whole), learned(Path(other), *early)


@settings(max_examples=6, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.sampled_from([None, *range(LAYERS)]), min_size=4, max_size=4),
    st.integers(1, 3),
    st.sampled_from(POLICIES),
    st.sampled_from(RULES),
)
def test_the_model_is_that_of_whole_heads(
    cuts: list[int | None], steps: int, policy: str, rules: tuple[str, ...]
) -> None:
    given = [*FLOAT, f"training.local_steps={steps}", f"stragglers={policy}", *rules]
    (whole, of_whole), (parted, of_parted) = both([*given, fleet_of([None] * 4)], [*given, fleet_of(cuts)])
    assert whole.keys() == parted.keys()
    wrong = [name for name, tensor in whole.items() if not torch.equal(tensor, parted[name])]
    assert wrong == []
    assert of_whole["metric"] == of_parted["metric"]
    assert of_whole["client_steps"] == of_parted["client_steps"]


def early(folder: Path, *given: str) -> Scenario:
    """Give two clients with the whole head, and two with an early cut, whose codecs lose something."""
    return small_scenario(folder, LADDER, *LOSSY, "training.local_steps=2", "training.rounds=3", *given)


async def test_bytes_are_those_of_each_cut_live_and_in_virtual_time(tmp_path: Path) -> None:
    scenario = early(tmp_path)
    live = await run_live(scenario, MemoryBroker().transport, tmp_path / "live")
    trained = simulate(scenario, tmp_path / "trained")
    timed = simulate(scenario, tmp_path / "timed", timing_only=True)
    whole, part = (8 * 12 + 12) + 2 * 12 + (12 * 8 + 8) + 2 * 8 + (8 * 16 + 16), (8 * 12 + 12) + 2 * 12
    statistics, first = 2 * (12 + 8 + 1), 2 * 12 + 1
    usual, sizes = scenario.flows, Float16().size_bytes
    expected = {
        "activations_up": 12 * (usual.activations_up.size_bytes(10, 16) + sizes(10, 12)),
        "gradient_down": 12 * (Int8().size_bytes(10, 16) + Int4().size_bytes(10, 12)),
        "head_update_up": 6 * (sizes(1, whole) + 4 * statistics + sizes(1, part) + 4 * first),
        "head_state_down": 6 * (sizes(1, whole) + 4 * statistics + 4 * (part + first)),
    }
    values = {
        "activations_up": 4 * 6 * 2 * 10 * (16 + 12),
        "gradient_down": 4 * 6 * 2 * 10 * (16 + 12),
        "head_update_up": 4 * 3 * 2 * (whole + statistics + part + first),
        "head_state_down": 4 * 3 * 2 * (whole + statistics + part + first),
    }
    for summary in (live, trained, timed):
        assert {flow: summary["bytes"][flow]["payload"] for flow in FLOWS} == expected
        assert {flow: summary["bytes"][flow]["raw_float32"] for flow in FLOWS} == values
        assert summary["messages"]["rejected"] == 0
    assert final_score(live) == pytest.approx(final_score(trained), abs=0.1)


def test_what_devices_keep_for_evaluation_goes_the_same_way(tmp_path: Path) -> None:
    for number in range(4):
        write_share(tmp_path / f"own/c{number}", points(30 + number, number))
    kept = ["task.partition=local", "task.held_out=0.4", f"task.data={tmp_path / 'own'}", *FLOAT]
    whole, parted = both([*kept, fleet_of([None] * 4)], [*kept, fleet_of([0, 4, None, 6])])
    assert whole[1]["metric"] == parted[1]["metric"]
    assert whole[1]["metric"]["final"] is not None


def stand_ins(folder: Path, head: nn.Module, layer: str, inputs: torch.Tensor) -> StandIns:
    """Make the stand-ins for c0, whose cut of a head is behind a layer; the run has just begun."""
    scenario = small_scenario(folder)
    task = replace(
        task_of(scenario),
        head=lambda: copy.deepcopy(head),
        early=lambda layer: early_cut(task.head, layer, inputs),
    )
    cut = task.early(layer)
    plan = replace(plan_of(scenario, task), early={"c0": HeadShare(layer, cut.cut_size, cut.form)})
    made = StandIns(task, head, plan, scenario.training)
    made.begin(1, head_vector(head))
    return made


def test_where_both_parts_draw_they_do_not_draw_the_same(tmp_path: Path) -> None:
    """Else a dropout behind the cut would leave out the same places as the one before it."""
    ones = np.ones((1, 2048), np.float32)
    head = nn.Sequential(nn.Dropout(0.5), nn.Identity(), nn.Dropout(0.5))
    rest = stand_ins(tmp_path, head, "1", torch.ones((3, 2048)))
    passed = rest.forward(Batch("c0", 1, 0, 1.0, ones, None, None))
    training = small_scenario(tmp_path).training
    part = HeadInTraining(nn.Dropout(0.5), np.empty(0, np.float32), client="c0", seed=3, training=training)
    assert isinstance(passed, Batch)
    alike = (passed.z > 0) == (part.forward(torch.from_numpy(ones), 1, 0).numpy() > 0)
    assert 0.4 < alike.mean() < 0.6


class Brittle(nn.Module):
    """A layer that cannot take large values."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        if z.abs().max() > 100:
            raise RuntimeError("too large")
        return z


def test_one_that_fails_in_the_rest_of_its_head_harms_no_other(tmp_path: Path) -> None:
    head = nn.Sequential(nn.Linear(4, 4), nn.Identity(), Brittle(), nn.Linear(4, 16))
    rest = stand_ins(tmp_path, head, "1", torch.ones((3, 4)))
    wrong = rest.forward(Batch("c0", 1, 0, 1.0, np.full((2, 4), 1e6, np.float32), None, None))
    assert isinstance(wrong, WireError)
    assert str(wrong) == "tail: the rest of the head: RuntimeError: too large"
    batch = Batch("c0", 1, 0, 1.0, np.ones((2, 4), np.float32), None, None)
    assert isinstance(rest.forward(batch), Batch)
    back = rest.backward(batch, np.full((2, 16), 1e38, np.float32))
    assert not isinstance(back, WireError)
    told = rest.whole("c0", np.zeros(20, np.float32))
    assert isinstance(told, WireError)
    assert told.reason == "range"


def test_stand_ins_go_with_their_rounds(tmp_path: Path) -> None:
    head = nn.Sequential(nn.Linear(4, 4), nn.Identity(), nn.Linear(4, 16))
    rest = stand_ins(tmp_path, head, "1", torch.ones((3, 4)))
    rest.forward(Batch("c0", 1, 0, 1.0, np.ones((2, 4), np.float32), None, None))
    assert rest.state().rests.keys() == {"c0"}
    rest.begin(2, head_vector(head))
    assert rest.state().rests == {}
    assert rest.state().heads.keys() == {2}
    late = rest.whole("c0", np.zeros(20, np.float32))
    assert isinstance(late, WireError)


def test_a_client_without_the_code_is_told_of_its_own_part(tmp_path: Path) -> None:
    scenario = small_scenario(tmp_path, LADDER, *LOSSY)
    task = task_of(scenario)
    made = initial_model(task, scenario.seed)[0]
    shares = with_initial(plan_of(scenario, task).early, task, head_vector(made))
    assert shares.keys() == {"c2", "c3"}
    part = np.frombuffer(shares["c2"].initial, "<f4")
    np.testing.assert_array_equal(part, head_vector(task.early("1").part_of(made)))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["fleet.0.cut=nope"], "fleet.0.cut: in the task's head: no layer 'nope'; layers, "),
        (["fleet.0.cut=1", "training.method=fedavg"], "fleet.0.cut: goes with method: split; fedavg has"),
        (["fleet.0.cut=1", "training.head_moments=keep"], "head_moments: keep goes with whole heads"),
        (["fleet.0.cut=1", "training.batch_norm=local"], "fleet.0.cut: batch_norm: local keeps the batch"),
        (
            ["fleet.0.cut=1", "flows.activations_up.subvectors=16"],
            "flows.activations_up: at the cut '1', with rows of 12 values: ",
        ),
        (
            ["fleet.0.cut=1", "flows.by_cut=[{cut: 1, head_update_up: {codec: pq, subvectors: 7}}]"],
            "flows.by_cut.0.head_update_up: at the cut '1', with rows of 132 values",
        ),
        (
            ["fleet.0.cut=1", f"flows.by_cut=[{MEANS}]"],
            "flows.by_cut.0.gradient_down: at the cut '1', with rows of 12 values: codeword_mean needs",
        ),
        (["flows.by_cut=[{cut: 1}]"], "flows.by_cut.0: needs a codec for "),
        (
            ["fleet.0.cut=1", "flows.head_state_down={codec: touched_rows}", "flows.own_rows=true"],
            "flows.own_rows: goes with whole heads",
        ),
        (["fleet.0.device={cut: 1}"], "fleet.0.device: was timed with the cut '1', and these clients have"),
        (["fleet.0.cut=0", "fleet.0.device={cut: 1}"], "and these clients have the cut '0'"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_an_early_cut_is_told(tmp_path: Path, given: list[str], told: str) -> None:
    with pytest.raises(ScenarioError) as error:
        small_scenario(tmp_path, LADDER, *given)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_of_ones_own_is_cut_by_its_own_names(tmp_path: Path) -> None:
    module = tmp_path / "mine.py"
    module.write_text(MINE)
    own = (f"task.module={module}", "task.name=mine", "task.cut=second", "task.path=null")
    scenario = small_scenario(
        tmp_path, *own, "fleet=[{count: 2, cut: first}, {count: 2}]", "training.rounds=2"
    )
    task = task_of(scenario)
    assert (task.cut_size, task.early("first").cut_size) == (16, 12)
    assert simulate(scenario, tmp_path / "run")["messages"]["rejected"] == 0
    for name, why in (
        ("second", "is where the task is cut"),
        ("firts", "layers, the nearest name first: first,"),
    ):
        with pytest.raises(ScenarioError, match=why):
            small_scenario(tmp_path, *own, f"fleet=[{{count: 4, cut: {name}}}]")


BARE = """
from dataclasses import replace
from scenarios.task import Task
from tests import small_task

def task():
    return replace(small_task.task(), load=Task.load, example=EXAMPLE)
"""


def test_a_task_without_data_must_say_what_its_inputs_are(tmp_path: Path) -> None:
    module = tmp_path / "bare.py"
    own = (f"task.module={module}", "task.partition=local", "task.held_out=0.2", "fleet.0.cut=0")
    module.write_text(BARE.replace("EXAMPLE", "None"))
    with pytest.raises(ScenarioError, match=r"fleet\.0\.cut: needs a few rows of inputs"):
        small_scenario(tmp_path, *own)
    module.write_text(BARE.replace("EXAMPLE", "lambda: small_task.points(3, 1).inputs"))
    assert small_scenario(tmp_path, *own)


def test_a_cut_changes_what_devices_and_server_must_agree_upon(tmp_path: Path) -> None:
    digests = {scenario_digest(small_scenario(tmp_path, LADDER, fleet_of(cuts))) for cuts in CUTS}
    assert len(digests) == len(CUTS)


def test_a_device_computes_its_share_and_the_server_the_rest(tmp_path: Path) -> None:
    seconds = {"batch_size": 10, "forward_s": 1.0, "encode_s": 2.0, "decode_s": 4.0, "backward_s": 8.0}
    device = ", ".join(f"{key}: {value}" for key, value in seconds.items())
    one = ("training.cohort=1", "training.rounds=1", "network.server.head_sample_s=0.5")
    took = {
        cut: simulate(
            small_scenario(tmp_path, LADDER, *one, f"fleet=[{{count: 1{cut}, device: {{{device}}}}}]"),
            tmp_path / f"run{number}",
            timing_only=True,
        )["virtual_seconds"]
        for number, cut in enumerate(("", ", cut: 0"))
    }
    work, values = 8 * 12 / (8 * 12 + 12 * 8 + 8 * 16), 12 / 16
    assert took[""] == pytest.approx(15.0)
    assert took[", cut: 0"] == pytest.approx(9 * work + 6 * values + 10 * (1 - work) * 0.5)
