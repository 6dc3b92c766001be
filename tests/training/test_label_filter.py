"""Whom the rule `filtered_mean` leaves out, and that nobody stays out."""

import asyncio
import copy
import logging
from pathlib import Path
from random import Random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.transports.memory import MemoryBroker
from edge_client.live import host
from scenarios.errors import ScenarioError
from scenarios.loading.load import load_scenario
from scenarios.schema.scenario import client_names
from scenarios.training import head_vector
from server_node import checkpoint
from server_node.checkpoint import Progress
from server_node.learning.aggregation import LEAST, LabelFilter, agreements
from server_node.live import serve
from server_node.tail import Tail
from server_node.vocabulary.jobs import CloseRound, RoundClosed, TailStep, TailStepped, TailUpdate
from server_node.vocabulary.ledger import Ledger
from tests.helpers import small_scenario
from tests.training.test_tail import activations, linear, make_tail, update, zero_head

FILTERED = "training.aggregation=filtered_mean"
SHARES = st.floats(0.0, 1.0)
RIGHT = 0, 1, 2
AXES = np.eye(3, dtype=np.float32)


def of(sent: dict[str, list[tuple[int, int]]], scale: float = 1.0) -> dict[str, float]:
    """The agreements of clients that send axes of space, each with a label."""
    owners = np.repeat(list(sent), [len(pairs) for pairs in sent.values()])
    axes, labels = np.array([pair for pairs in sent.values() for pair in pairs]).T
    lengths = np.linspace(1, scale, len(axes), dtype=np.float32)[:, None]
    return agreements(owners, lengths * AXES[axes], labels)


def after(steps: list[dict[str, float]]) -> LabelFilter:
    judge = LabelFilter()
    for found in steps:
        judge.learn(found, "")
    return judge


@pytest.mark.parametrize("scale", [1.0, 1e9, 1e-9])
def test_who_has_labels_of_its_own_agrees_with_nobody_else_is_harmed(scale: float) -> None:
    """c says 1 of axis 0. Two others say 0 and one says 1 of axis 1, so that no center is turned by c."""
    right = [(axis, axis) for axis in RIGHT]
    sent = {"a": right, "b": right, "c": [(0, 1), (1, 2), (2, 0)]}
    assert of(sent, scale)["c"] == 0
    sent["d"] = right
    assert of(sent) == {"a": 1.0, "b": 1.0, "c": 0.0, "d": 1.0}


def test_many_samples_of_ones_own_are_no_evidence() -> None:
    """With its own samples in the centers c would agree with itself."""
    right = [(0, 0), (1, 1)]
    assert of({"a": right, "b": right, "c": [(0, 1), (1, 0)] * 5})["c"] == 0


def test_samples_whose_label_nobody_else_has_are_not_judged() -> None:
    sent = {"a": [(0, 0), (1, 1), (2, 1)], "b": [(0, 0), (1, 1)], "c": [(2, 2)]}
    assert of(sent) == {"a": 2 / 3, "b": 1.0}


def test_one_client_or_none_is_not_judged() -> None:
    assert of({"a": [(0, 0), (1, 1)]}) == {}


def test_activations_of_length_zero_are_taken() -> None:
    found = agreements(np.array(["a", "b"]), np.zeros((2, 4), np.float32), np.array([0, 0]))
    assert found == {"a": 1.0, "b": 1.0}


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 2)), min_size=1, max_size=12),
    st.integers(0, 99),
    st.sampled_from([1e-18, 1.0, 1e9]),
)
def test_neither_the_order_nor_the_lengths_of_samples_matter(
    samples: list[tuple[str, int]], seed: int, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    owners, labels = (np.array(column) for column in zip(*samples, strict=True))
    z = rng.normal(size=(len(samples), 6)).astype(np.float32)
    order, lengths = rng.permutation(len(samples)), rng.uniform(0.5, 2, (len(samples), 1)) * scale
    found = agreements(owners[order], (z * lengths).astype(np.float32)[order], labels[order])
    assert found == agreements(owners, z, labels)
    assert all(0 <= share <= 1 for share in found.values())


def test_running_agreements_worked_out_on_paper() -> None:
    """c begins at the median, 0.8, and never agrees; a third of the median is 0.26666."""
    judge = LabelFilter()
    for agreement in (0.64, 0.512, 0.4096, 0.32768, 0.262144):
        assert judge.out == []
        judge.learn({"a": 0.9, "b": 0.8, "c": 0.0}, "")
        assert judge.agreement["c"] == pytest.approx(agreement)
    assert judge.out == ["c"]
    assert judge.agreement["a"] == pytest.approx(0.9 - 0.1 * 0.8**5)


@given(st.dictionaries(st.sampled_from("abcdefgh"), SHARES), st.randoms(), st.integers(1, 9))
def test_the_order_of_the_clients_does_not_matter_to_the_filter(
    found: dict[str, float], random: Random, steps: int
) -> None:
    order = list(found)
    random.shuffle(order)
    assert after([{client: found[client] for client in order}] * steps).out == after([found] * steps).out


@given(st.integers(1, 9), SHARES, st.integers(1, 20))
def test_equal_agreements_leave_nobody_out(clients: int, share: float, steps: int) -> None:
    assert after([{str(client): share for client in range(clients)}] * steps).out == []


@settings(max_examples=30)
@given(st.data(), st.integers(1, 3), st.integers(1, 15))
def test_a_minority_cannot_have_others_left_out(data: st.DataObject, hostile: int, steps: int) -> None:
    """Honest agreements within a factor of LEAST of each other, whatever the hostile ones are."""
    judge = LabelFilter()
    for _ in range(steps):
        honest = {f"h{i}": data.draw(st.floats(1.001 * LEAST, 1.0)) for i in range(hostile + 1)}
        judge.learn(honest | {f"x{i}": data.draw(SHARES) for i in range(hostile)}, "")
    assert not any(client.startswith("h") for client in judge.out)


@given(st.lists(SHARES, max_size=40))
def test_nobody_is_left_out_for_ever_and_nobody_earns_credit_for_long(before: list[float]) -> None:
    """Whatever c did before: two steps like the others bring it back, five steps at odds put it out."""
    past = [{"a": 0.8, "b": 0.8, "c": share} for share in before]
    assert after([*past, *[{"a": 0.8, "b": 0.8, "c": 0.8}] * 2]).out == []
    past = [{client: min(share, 0.8) for client, share in found.items()} for found in past]
    assert after([*past, *[{"a": 0.8, "b": 0.8, "c": 0.0}] * 5]).out == ["c"]


@pytest.mark.parametrize("found", [{}, {"a": 1.0}, {"a": 1.0, "b": 0.0}])
def test_two_clients_have_no_majority(found: dict[str, float]) -> None:
    assert after([found] * 9) == LabelFilter()


def test_who_cannot_be_judged_stays_as_it_was() -> None:
    judge = after([{"a": 1.0, "b": 1.0, "c": 0.0}] * 9)
    judge.learn({"a": 1.0, "b": 1.0, "d": 1.0}, "")
    assert judge.out == ["c"]


@pytest.mark.parametrize("seed", range(5))
def test_chance_leaves_no_honest_client_out(seed: int) -> None:
    """Ten clients, 300 steps of ten samples each; seven of ten samples agree."""
    judge, rng = LabelFilter(), np.random.default_rng(seed)
    for _ in range(300):
        judge.learn({str(i): float(rng.binomial(10, 0.7)) / 10 for i in range(10)}, "")
        assert judge.out == []


def test_it_is_told_who_is_left_out_and_who_is_back(caplog: pytest.LogCaptureFixture) -> None:
    judge = LabelFilter()
    with caplog.at_level(logging.WARNING):
        for number in range(1, 9):
            judge.learn({"a": 1.0, "b": 1.0, "c": float(number > 5)}, f"round {number}")
    assert [record.message for record in caplog.records] == [
        "round 5: c is left out, its labels contradict those of the others",
        "round 6: c is not left out any more",
    ]


# At the tail.

RIGHT_BATCH = activations([[1, 0], [0, 1]], [1, 2])
WRONG_BATCH = activations([[1, 0], [0, 1]], [2, 1])
"""With w = (1, 2) the losses of the right one are 0; the gradient of the wrong one at w is (-1/2, 1/2)."""
THREE = (("a", RIGHT_BATCH, 1.0), ("b", RIGHT_BATCH, 1.0), ("c", WRONG_BATCH, 1.0))


def at_odds(server: Tail, *clients: str) -> None:
    """Remember some clients as ones that have not agreed for long."""
    server.filter.agreement |= dict.fromkeys(clients, 0.1)
    server.filter.out = sorted(clients)


def test_who_is_left_out_teaches_neither_tail_nor_head_and_is_answered_all_the_same(tmp_path: Path) -> None:
    server = make_tail(tmp_path, layer := linear(1, 2), FILTERED, head=(head := zero_head()))
    at_odds(server, "c")
    answer = server.run(TailStep(1, 0, THREE))
    assert isinstance(answer, TailStepped)
    assert set(answer.gradients) == {"a", "b", "c"}
    assert answer.samples == 6
    assert server.run(TailUpdate(1, 0)) is None
    assert server.filter.out == ["c"]
    assert layer.weight.tolist() == [[1, 2]]
    updates = (("a", update(1, 0.4), 1.0), ("b", update(1, 0.4), 1.0), ("c", update(1, 0.2), 1.0))
    closed = server.run(CloseRound(1, updates, evaluate=False))
    assert isinstance(closed, RoundClosed)
    assert closed.refused == {}
    assert head_vector(head).tolist() == pytest.approx([0.4] * 4)


def test_batches_that_arrive_apart_are_judged_together(tmp_path: Path) -> None:
    servers = [make_tail(tmp_path, linear(1, 2), FILTERED) for _ in range(2)]
    for number in range(1, 7):
        servers[0].run(TailStep(number, 0, THREE))
        for batch in THREE:
            servers[1].run(TailStep(number, 0, (batch,)))
        for server in servers:
            server.run(TailUpdate(number, 0))
    assert servers[0].filter == servers[1].filter
    assert servers[0].filter.out == ["c"]


def test_a_tail_that_goes_on_in_the_middle_of_a_step_judges_all_of_it(tmp_path: Path) -> None:
    whole, second = (make_tail(tmp_path, linear(1, 2), FILTERED) for _ in range(2))
    whole.run(TailStep(1, 0, THREE[:2]))
    second.restore(copy.deepcopy(whole.state()))
    for server in (whole, second):
        server.run(TailStep(1, 0, THREE[2:]))
        server.run(TailUpdate(1, 0))
    assert second.filter == whole.filter
    assert second.filter.agreement.keys() == {"a", "b", "c"}


def test_a_round_of_clients_that_are_all_left_out_changes_nothing_and_ends_nothing(tmp_path: Path) -> None:
    server = make_tail(tmp_path, layer := linear(1, 2), FILTERED, head=(head := zero_head()))
    at_odds(server, "c", "d")
    server.run(TailStep(1, 0, (("c", WRONG_BATCH, 1.0), ("d", WRONG_BATCH, 1.0))))
    assert server.run(TailUpdate(1, 0)) is None
    updates = (("c", update(1, 0.2), 1.0), ("d", update(1, 0.2), 1.0))
    closed = server.run(CloseRound(1, updates, evaluate=False))
    assert isinstance(closed, RoundClosed)
    assert layer.weight.tolist() == [[1, 2]]
    assert head_vector(head).tolist() == [0] * 4


def test_a_client_that_is_left_out_does_not_make_the_model_lost(tmp_path: Path) -> None:
    """Two of four are refused, one is left out: they are no majority."""
    server = make_tail(tmp_path, linear(1, 2), FILTERED, head=zero_head())
    at_odds(server, "c")
    updates = (("a", update(1, 2.0**63), 1.0), ("b", update(1, 2.0**63), 1.0))
    honest = tuple((name, update(1, 0.2), 1.0) for name in ("c", "d"))
    assert isinstance(server.run(CloseRound(1, updates + honest, evaluate=False)), RoundClosed)


@pytest.mark.parametrize("rule", ["mean", "clipped_mean", "trimmed_mean", "coordinate_median"])
def test_no_other_rule_leaves_anybody_out(tmp_path: Path, rule: str) -> None:
    server = make_tail(tmp_path, linear(1, 2), f"training.aggregation={rule}")
    for number in range(1, 7):
        server.run(TailStep(number, 0, THREE))
        server.run(TailUpdate(number, 0))
    assert server.filter == LabelFilter()


def test_fedavg_is_refused_since_its_server_sees_no_labels(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"training\.aggregation: filtered_mean goes with method: split"):
        small_scenario(tmp_path, FILTERED, "training.method=fedavg")


def test_a_task_with_several_classes_per_sample_is_refused() -> None:
    with pytest.raises(
        ScenarioError, match=r"training\.aggregation: filtered_mean needs one class per sample"
    ):
        load_scenario("debtags", [FILTERED])


# In the checkpoint.


async def served(folder: Path, rounds: int) -> LabelFilter:
    """Run, or go on, up to a round; gives what the last checkpoint remembers."""
    scenario, stop = small_scenario(folder, FILTERED, f"training.rounds={rounds}"), asyncio.Event()
    connect, names = MemoryBroker().transport, client_names(scenario)
    async with asyncio.TaskGroup() as group:
        group.create_task(host(scenario, connect, run="small", names=names, stop=stop))
        group.create_task(serve(scenario, connect, run="small", folder=folder / "run", stop=stop))
    return checkpoint.load(folder / "run" / checkpoint.FILE, Progress)[0].filter


async def test_a_server_that_goes_on_remembers_whom_it_has_left_out(tmp_path: Path) -> None:
    before = await served(tmp_path, 3)
    assert len(before.agreement) >= 3
    assert min(before.agreement.values()) > 0.3
    progress, tensors = checkpoint.load(tmp_path / "run" / checkpoint.FILE, Progress)
    progress.filter.agreement.update(dict.fromkeys(["c0", "c1", "c2", "c3"], 0.0))
    progress.filter.out.append("somebody")
    checkpoint.save(tmp_path / "run", progress, tensors)
    gone_on = await served(tmp_path, 4)
    assert max(gone_on.agreement.values()) <= 0.2  # after one more step
    assert "somebody" in gone_on.out


def test_a_checkpoint_from_before_this_rule_still_loads() -> None:
    whole = msgspec.to_builtins(Progress({}, [], Ledger()))
    del whole["filter"]
    assert msgspec.convert(whole, Progress).filter == LabelFilter()
