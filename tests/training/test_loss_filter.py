"""Whom `filtered_mean` leaves out, and that it forgets nobody (server_node.learning.aggregation)."""

import asyncio
import logging
from pathlib import Path
from random import Random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from broker.transports.memory import MemoryBroker
from edge_client.live import host
from scenarios.errors import ScenarioError
from scenarios.schema.scenario import client_names
from scenarios.training import head_vector
from server_node import checkpoint
from server_node.checkpoint import Progress
from server_node.learning.aggregation import CAP, MOST, LossFilter
from server_node.live import serve
from server_node.vocabulary.jobs import (
    CloseRound,
    RoundClosed,
    ScoreBatches,
    Scored,
    TailStep,
    TailStepped,
    TailUpdate,
)
from server_node.vocabulary.ledger import Ledger
from tests.helpers import small_scenario
from tests.training.test_tail import activations, linear, make_tail, update, zero_head

LOSSES = st.floats(0.0, 1e19)
FILTERED = "training.aggregation=filtered_mean"


def left_out(losses: dict[str, float], steps: int) -> list[str]:
    """Who is left out after so many steps with the same losses."""
    judge = LossFilter()
    for _ in range(steps):
        judge.learn(losses, "")
    return sorted(client for client in losses if judge.leaves_out(client))


def test_ratios_worked_out_on_paper() -> None:
    """Three times the median is 0.8 + 0.6 = 1.4 after a step, then 1.72, 1.976 and 2.1808."""
    judge = LossFilter()
    for ratio in (1.4, 1.72, 1.976, 2.1808):
        assert not judge.leaves_out("c")
        out = judge.learn({"a": 0.5, "b": 0.25, "c": 1.5}, "")
        assert judge.ratios["c"] == pytest.approx(ratio)
    assert out == {"c"}
    assert judge.ratios["a"] == 1.0
    assert judge.ratios["b"] == pytest.approx(0.5 + 0.5 * 0.8**4)


def test_when_losses_are_small_a_client_with_harder_data_stays() -> None:
    """The first median is 4, so a median below 1 counts as 1: a ratio above 2 needs a loss above 2."""
    judge = LossFilter()
    judge.learn({"a": 4.0, "b": 4.0, "c": 4.0}, "")
    for _ in range(30):
        assert judge.learn({"a": 0.01, "b": 0.01, "c": 1.99}, "") == set()
    for _ in range(30):
        out = judge.learn({"a": 0.01, "b": 0.01, "c": 2.1}, "")
    assert out == {"c"}


def test_who_was_unlucky_once_stays() -> None:
    judge = LossFilter()
    assert judge.learn({"a": 1.0, "b": 1.0, "c": 1e19}, "") == set()
    assert judge.ratios["c"] == pytest.approx(1.6)


@given(st.dictionaries(st.sampled_from("abcdefgh"), LOSSES), st.randoms(), st.integers(1, 30))
def test_the_order_of_the_clients_does_not_matter_to_the_filter(
    losses: dict[str, float], random: Random, steps: int
) -> None:
    order = list(losses)
    random.shuffle(order)
    assert left_out({client: losses[client] for client in order}, steps) == left_out(losses, steps)


@given(st.integers(1, 9), LOSSES, st.integers(1, 50))
def test_equal_losses_leave_nobody_out(clients: int, loss: float, steps: int) -> None:
    assert left_out({str(client): loss for client in range(clients)}, steps) == []


@settings(max_examples=30)
@given(st.data(), st.integers(1, 3), st.integers(1, 15))
def test_a_minority_cannot_have_others_left_out(data: st.DataObject, hostile: int, steps: int) -> None:
    """Honest losses that lie within a factor of MOST of each other, whatever the hostile ones are."""
    judge = LossFilter()
    for _ in range(steps):
        honest = {f"h{i}": data.draw(st.floats(1.0, 0.999 * MOST)) for i in range(hostile + 1)}
        judge.learn(honest | {f"x{i}": data.draw(st.floats(-1e19, 1e19)) for i in range(hostile)}, "")
    assert not any(judge.leaves_out(client) for client in judge.ratios if client.startswith("h"))


@given(st.lists(st.floats(-1e19, 1e19), max_size=60))
def test_nobody_is_left_out_for_ever(before: list[float]) -> None:
    judge = LossFilter()
    for loss in before:
        judge.learn({"a": 1.0, "b": 1.0, "c": loss}, "")
    assert 0 <= judge.ratios.get("c", 1.0) <= CAP
    for _ in range(5):
        out = judge.learn({"a": 1.0, "b": 1.0, "c": 1.0}, "")
    assert out == set()


@given(st.lists(st.floats(-1e19, 1e19), max_size=60))
def test_nobody_earns_credit_for_more_than_some_steps(before: list[float]) -> None:
    """A client that begins to attack late is left out after at most four steps of four times the loss."""
    judge = LossFilter()
    for loss in before:
        judge.learn({"a": 1.0, "b": 1.0, "c": loss}, "")
    for _ in range(4):
        out = judge.learn({"a": 1.0, "b": 1.0, "c": CAP}, "")
    assert out == {"c"}


@pytest.mark.parametrize(
    "losses", [{"a": 1.0, "b": 9.0}, {"a": 0.0, "b": 0.0, "c": 9.0}, {"a": -3, "b": -1, "c": 9}, {}]
)
def test_losses_that_say_nothing_change_nothing(losses: dict[str, float]) -> None:
    """Two clients have no majority, and there are no ratios to a median of 0 and less."""
    judge = LossFilter()
    assert judge.learn(losses, "") == set()
    assert judge.ratios == {}


@pytest.mark.parametrize("seed", range(5))
def test_losses_of_small_batches_of_like_clients_leave_nobody_out(seed: int) -> None:
    """Ten clients, 300 steps; two thirds of the losses lie within a factor of 1.35 of the median."""
    judge, rng = LossFilter(), np.random.default_rng(seed)
    for _ in range(300):
        out = judge.learn(
            {str(i): float(loss) for i, loss in enumerate(np.exp(0.3 * rng.normal(size=10)))}, ""
        )
        assert out == set()


def test_it_is_told_who_is_left_out_and_who_is_back(caplog: pytest.LogCaptureFixture) -> None:
    judge = LossFilter()
    with caplog.at_level(logging.WARNING):
        for number in range(1, 9):
            judge.learn({"a": 1.0, "b": 1.0, "c": 9.0 if number < 5 else 1.0}, f"round {number}")
    assert [record.message for record in caplog.records] == [
        "round 2: c is left out, its loss stays far above that of the others",
        "round 7: c is not left out any more",
    ]


# At the tail.

GOOD = activations([[1, 0]], [2])
BAD = activations([[1, 0]], [3])
"""With w = (1, 2) the losses are 1/2 and 2: four times the median."""


def test_who_is_left_out_teaches_neither_tail_nor_head_and_is_answered_all_the_same(tmp_path: Path) -> None:
    """The gradient of a and b at w is (-1, 0), that of c (-2, 0)."""
    server = make_tail(tmp_path, layer := linear(1, 2), FILTERED, head=(head := zero_head()))
    server.filter.ratios["c"] = 2.5
    answer = server.run(TailStep(1, 0, (("a", GOOD, 1.0), ("b", GOOD, 1.0), ("c", BAD, 1.0))))
    assert isinstance(answer, TailStepped)
    assert set(answer.gradients) == {"a", "b", "c"}
    assert answer.samples == 3
    assert server.run(TailUpdate(1, 0)) is None
    assert layer.weight.tolist()[0] == pytest.approx([1 + 0.1, 2.0])
    updates = (("a", update(1, 0.4), 1.0), ("b", update(1, 0.4), 1.0), ("c", update(1, 0.2), 1.0))
    closed = server.run(CloseRound(1, updates, evaluate=False))
    assert isinstance(closed, RoundClosed)
    assert closed.refused == {}
    assert head_vector(head).tolist() == pytest.approx([0.4] * 4)


def test_a_round_of_clients_that_are_all_left_out_changes_nothing_and_ends_nothing(tmp_path: Path) -> None:
    server = make_tail(tmp_path, layer := linear(1, 2), FILTERED, head=(head := zero_head()))
    server.filter.ratios["c"] = server.filter.ratios["d"] = CAP
    server.run(TailStep(1, 0, (("c", BAD, 1.0), ("d", BAD, 1.0))))
    assert server.run(TailUpdate(1, 0)) is None
    closed = server.run(
        CloseRound(1, (("c", update(1, 0.2), 1.0), ("d", update(1, 0.2), 1.0)), evaluate=False)
    )
    assert isinstance(closed, RoundClosed)
    assert layer.weight.tolist() == [[1, 2]]
    assert head_vector(head).tolist() == [0] * 4


def test_a_client_that_is_left_out_does_not_make_the_model_lost(tmp_path: Path) -> None:
    """Two of four are refused, one is left out: they are no majority."""
    server = make_tail(tmp_path, linear(1, 2), FILTERED, head=zero_head())
    server.filter.ratios["c"] = CAP
    updates = (("a", update(1, 2.0**63), 1.0), ("b", update(1, 2.0**63), 1.0))
    honest = tuple((name, update(1, 0.2), 1.0) for name in ("c", "d"))
    assert isinstance(server.run(CloseRound(1, updates + honest, evaluate=False)), RoundClosed)


def test_it_learns_nothing_from_what_is_kept_for_evaluation(tmp_path: Path) -> None:
    server = make_tail(tmp_path, linear(1, 2), FILTERED)
    for number in range(9):
        kept = tuple((client, GOOD if client != "c" else BAD) for client in "abc")
        assert isinstance(server.run(ScoreBatches(number, kept)), Scored)
        assert server.run(TailUpdate(number, 0)) is None
    assert server.filter == LossFilter()
    assert server.state().gradients.losses == {}


@pytest.mark.parametrize("rule", ["mean", "clipped_mean", "trimmed_mean", "coordinate_median"])
def test_no_other_rule_leaves_anybody_out(tmp_path: Path, rule: str) -> None:
    server = make_tail(tmp_path, nn.Linear(2, 1), f"training.aggregation={rule}")
    for _ in range(9):
        server.run(TailStep(1, 0, (("a", GOOD, 1.0), ("b", GOOD, 1.0), ("c", BAD, 1.0))))
        server.run(TailUpdate(1, 0))
    assert server.filter.ratios == {}


def test_fedavg_is_refused_since_its_server_sees_no_losses(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"training\.aggregation: filtered_mean goes with method: split"):
        small_scenario(tmp_path, FILTERED, "training.method=fedavg")


# In the checkpoint.


async def served(folder: Path, rounds: int) -> LossFilter:
    """Run, or go on, up to a round; gives what the last checkpoint remembers."""
    scenario, stop = small_scenario(folder, FILTERED, f"training.rounds={rounds}"), asyncio.Event()
    connect, names = MemoryBroker().transport, client_names(scenario)
    async with asyncio.TaskGroup() as group:
        group.create_task(host(scenario, connect, run="small", names=names, stop=stop))
        group.create_task(serve(scenario, connect, run="small", folder=folder / "run", stop=stop))
    return checkpoint.load(folder / "run" / checkpoint.FILE, Progress)[0].filter


async def test_a_server_that_goes_on_remembers_whom_it_has_left_out(tmp_path: Path) -> None:
    before = await served(tmp_path, 3)
    assert before.ratios.keys() <= {"c0", "c1", "c2", "c3"}
    assert len(before.ratios) >= 3
    progress, tensors = checkpoint.load(tmp_path / "run" / checkpoint.FILE, Progress)
    progress.filter.ratios.update(dict.fromkeys(["c0", "c1", "c2", "c3"], CAP))
    checkpoint.save(tmp_path / "run", progress, tensors)
    after = await served(tmp_path, 4)
    assert min(after.ratios.values()) >= 0.8 * CAP  # after one more step
    assert after.first == before.first > 0


def test_a_checkpoint_from_before_this_rule_still_loads() -> None:
    whole = msgspec.to_builtins(Progress({}, [], Ledger()))
    del whole["filter"]
    assert msgspec.convert(whole, Progress).filter == LossFilter()
