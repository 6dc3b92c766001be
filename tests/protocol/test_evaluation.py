"""Evaluation on what devices keep for it, and devices without samples: both state machines."""

from dataclasses import replace
from typing import TypeVar

import pytest

from broker.machine.actions import Compute, ComputeDone, Done, Online, Publish, Received, Report, TimerFired
from broker.wire.errors import WireError
from broker.wire.messages import (
    Activations,
    Ask,
    Assignment,
    Gradient,
    HeadUpdate,
    Hello,
    Message,
    Progress,
    Released,
    RunState,
    Standing,
    Status,
)
from edge_client.core import LOOK, LOOK_S, ClientCore
from edge_client.jobs import FirstBatch, HeldOutBatch, LookAtData, Stock
from server_node.protocol.rounds import MAX_HELD_OUT
from server_node.vocabulary.actions import ServerAction
from server_node.vocabulary.jobs import CloseRound, HeadEncoded, RoundClosed, ScoreBatches, Scored
from server_node.vocabulary.plan import Plan, RoundPolicy
from server_node.vocabulary.reports import Dropped, Gathering, Noticed, RoundReport
from tests.protocol.test_server_core import PLAN, D, P, Server
from tests.protocol.test_server_core import said as said_by_server

F = TypeVar("F")
EVALUATING = replace(PLAN, held_out=True, evaluate_every=1)
FIRST = PLAN.steps + 1
HELD_OUT = {"a": 3, "b": 0, "c": 2}
"""Samples; the batch size is 2."""


def batch(step: int, number: int = 1, count: int = 2) -> Activations:
    return Activations(1, number, step, 1, count, bytes(4 * count * D), b"\x21")


def reports(actions: list[ServerAction], kind: type[F]) -> list[F]:
    return [action.fact for action in actions if isinstance(action, Report) and isinstance(action.fact, kind)]


def evaluating(
    plan: Plan = EVALUATING, held_out: dict[str, int] = HELD_OUT
) -> tuple[Server, list[ServerAction]]:
    """Give a server whose first round has just closed, and what it does then."""
    server = Server(plan)
    server.handle(Online())
    actions = server.work()
    for client in PLAN.clients:
        actions += server.hear(client, Hello(1, "same", 9, held_out=held_out[client]))
    cohort = [client for client, message in said_by_server(actions) if isinstance(message, Assignment)]
    for client in cohort:
        server.hear(client, batch(0))
    while server.jobs:
        server.work()
    for client in cohort:
        server.hear(client, HeadUpdate(1, 1, 1, 2, 0.0, bytes(4 * P)))
    job = server.jobs.pop()
    assert isinstance(job, CloseRound)
    return server, server.handle(ComputeDone(job, RoundClosed(HeadEncoded(b"new head"), None, {})))


def score(server: Server, **scores: tuple[float, int] | WireError) -> list[ServerAction]:
    job = server.jobs.pop(0)
    assert isinstance(job, ScoreBatches)
    assert {client for client, _ in job.batches} == set(scores)
    return server.handle(ComputeDone(job, Scored(dict(scores))))


def test_after_a_round_all_who_keep_samples_are_asked_for_them() -> None:
    _, actions = evaluating()
    asked = {
        client: message for client, message in said_by_server(actions) if isinstance(message, Assignment)
    }
    assert asked.keys() == {"a", "c"}
    assert [(m.round, m.first_step, m.steps, m.head) for m in asked.values()] == [
        (1, FIRST, FIRST + 2, b"new head"),
        (1, FIRST, FIRST + 1, b"new head"),
    ]
    assert not reports(actions, RoundReport)


def test_the_metric_is_weighted_by_samples_and_the_next_round_begins() -> None:
    server, _ = evaluating()
    server.hear("a", batch(FIRST))
    assert said_by_server(score(server, a=(2.0, 2))) == [("a", Gradient(1, 1, FIRST, 1, 0.0, b""))]
    server.hear("a", batch(FIRST + 1, count=1))
    assert said_by_server(score(server, a=(1.0, 1))) == []
    server.hear("c", batch(FIRST))
    actions = score(server, c=(0.0, 2))
    (report,) = reports(actions, RoundReport)
    assert report.metric == 3 / 5
    assert [m.round for _, m in said_by_server(actions) if isinstance(m, Assignment)] == [2, 2]


def test_batches_that_wait_are_scored_together_and_every_one_counts_in_the_ledger() -> None:
    server, _ = evaluating()
    flow = server.ledger.flows["activations_up"]
    before, paper = flow.raw_float32_bytes, server.ledger.paper_bits[0]
    server.hear("a", batch(FIRST))
    server.hear("c", batch(FIRST))
    score(server, a=(2.0, 2))
    score(server, c=(2.0, 2))
    assert flow.raw_float32_bytes - before == 4 * D * 4
    assert server.ledger.paper_bits[0] - paper == 64 * D * 4
    assert server.ledger.flows["gradient_down"].raw_float32_bytes == before


def test_after_the_last_round_the_run_ends_with_its_metric() -> None:
    server, _ = evaluating(replace(EVALUATING, rounds=1))
    server.hear("a", batch(FIRST))
    score(server, a=(2.0, 2))
    server.hear("a", batch(FIRST + 1))
    score(server, a=(2.0, 2))
    server.hear("c", batch(FIRST))
    actions = score(server, c=(2.0, 2))
    assert [report.metric for report in reports(actions, RoundReport) if isinstance(report, RoundReport)] == [
        1
    ]
    assert Done("complete") in actions


def test_when_nobody_keeps_samples_the_round_has_no_metric() -> None:
    _, actions = evaluating(held_out=dict.fromkeys(PLAN.clients, 0))
    (report,) = reports(actions, RoundReport)
    assert report.metric is None


def test_who_vanishes_or_is_refused_is_left_out_of_the_metric() -> None:
    server, _ = evaluating()
    server.hear("a", batch(FIRST))
    actions = score(server, a=WireError("range", "a score is not finite"))
    assert [client for client, m in said_by_server(actions) if isinstance(m, Released)] == ["a"]
    server.hear("c", Status(online=False, session=1))
    actions = server.handle(TimerFired("rejoin:c"))
    assert reports(actions, Dropped) == [Dropped(1, "c")]
    (report,) = reports(actions, RoundReport)
    assert report.metric is None


def test_an_evaluation_keeps_the_deadline_of_a_round() -> None:
    plan = replace(EVALUATING, round_policy=RoundPolicy(2, deadline_s=9.0))
    server, _ = evaluating(plan)
    server.hear("a", batch(FIRST))
    score(server, a=(1.0, 2))
    actions = server.handle(TimerFired("deadline"))
    (report,) = reports(actions, RoundReport)
    assert report.metric == 0.5
    assert {fact.client for fact in reports(actions, Dropped)} == {"a", "c"}


def test_a_client_makes_others_wait_for_so_many_samples_only() -> None:
    _, actions = evaluating(held_out={"a": 2**31 - 1, "b": 0, "c": 1})
    steps = {client: m.steps for client, m in said_by_server(actions) if isinstance(m, Assignment)}
    assert steps == {"a": FIRST + MAX_HELD_OUT // PLAN.batch_size, "c": FIRST + 1}


@pytest.mark.parametrize(
    "message",
    [batch(FIRST + 2), batch(FIRST, count=3), batch(FIRST, number=2)],
    ids=str,
)
def test_what_is_not_due_is_refused(message: Activations) -> None:
    server, _ = evaluating()
    server.hear("a", message)
    assert sum(server.ledger.rejected.values()) == 1
    assert not server.jobs


def test_a_late_update_of_the_round_is_a_duplicate_during_its_evaluation() -> None:
    server, _ = evaluating()
    server.hear("a", HeadUpdate(1, 1, 2, 2, 0.0, bytes(4 * P)))
    assert (server.ledger.duplicates, server.ledger.rejected) == (1, {})


def test_a_client_that_has_not_heard_of_the_evaluation_is_told_again() -> None:
    server, _ = evaluating()
    ask = next(m for c, m in said_by_server(server.wait(31.0)) if c == "a" and isinstance(m, Ask))
    answer = Progress(1, ask.number, 1, PLAN.steps, Standing.MISSING)
    (told,) = said_by_server(server.hear("a", answer))
    assert isinstance(told[1], Assignment)
    assert (told[0], told[1].first_step, told[1].attempt) == ("a", FIRST, 2)


# Devices without samples.


def greeted(**samples: int) -> tuple[Server, list[ServerAction]]:
    server = Server()
    server.handle(Online())
    actions = server.work()
    for client, count in samples.items():
        actions += server.hear(client, Hello(1, "same", count))
    return server, actions


def chosen(actions: list[ServerAction]) -> list[str]:
    return [client for client, message in said_by_server(actions) if isinstance(message, Assignment)]


def test_a_device_without_samples_is_waited_for_not_chosen_and_told_of_once() -> None:
    server, actions = greeted(a=9, b=0)
    assert not chosen(actions)
    actions += server.hear("b", Hello(1, "same", 0))
    actions += server.hear("c", Hello(1, "same", 9))
    assert chosen(actions) == ["a", "c"]
    assert reports(actions, Noticed) == [Noticed("b", "has no samples; it is not chosen before it has some")]
    actions += server.hear("b", Progress(1, 0, 0, 0, Standing.MISSING))
    assert reports(actions, Gathering)[-1] == Gathering(2)


def test_it_is_chosen_when_it_has_some_and_not_any_more_when_they_are_gone() -> None:
    server, actions = greeted(a=0, b=0, c=0)
    assert not chosen(actions)
    assert chosen(server.hear("b", Hello(1, "same", 1))) == ["b"]
    server.hear("b", Hello(1, "same", 0))
    server.hear("b", batch(0))
    while server.jobs:
        server.work()
    actions = server.hear("b", HeadUpdate(1, 1, 1, 2, 0.0, bytes(4 * P)))
    while server.jobs:
        actions += server.work()
    assert reports(actions, RoundReport)
    assert not chosen(actions)


def test_a_run_that_lacks_devices_begins_when_all_who_have_samples_are_there() -> None:
    server, actions = greeted(a=0, b=9)
    actions += server.handle(TimerFired("join"))
    assert not chosen(actions)  # c may have samples
    server, actions = greeted(a=0, b=0, c=9)
    assert chosen(actions) == ["c"]


# The client.


def hears(client: ClientCore, message: Message) -> list[object]:
    return list(client.handle(Received("", message, 10), 0.0))


def assignment(number: int = 1, first_step: int = 0, steps: int = 1) -> Assignment:
    return Assignment(1, number, 1, steps, 0.1, ([], [], [], []), b"head", first_step)


def client_in_charge(*, looks: bool = False) -> ClientCore:
    client = ClientCore("r", "c1", Hello(0, "same", 9), looks=looks)
    client.handle(Online(), 0.0)
    hears(client, RunState("running", 1, 0, 1, 5))
    return client


def test_a_client_sends_what_it_keeps_batch_by_batch_and_then_waits() -> None:
    client = client_in_charge()
    told = assignment(first_step=2, steps=4)
    assert hears(client, told) == [Compute(FirstBatch("c1", told))]
    first = Activations(1, 1, 2, 1, 1, b"z", b"y")
    assert client.handle(ComputeDone(FirstBatch("c1", told), first), 0.0) == []  # another object
    job = client._busy
    assert job is not None
    assert client.handle(ComputeDone(job, first), 0.0) == [Publish("fl/3/r/u/c1", first)]
    assert hears(client, Gradient(1, 1, 2, 1, 0.0, b"")) == [Compute(HeldOutBatch("c1", 1, 3))]
    job = client._busy
    assert job is not None
    last = Activations(1, 1, 3, 1, 1, b"z", b"y")
    assert client.handle(ComputeDone(job, last), 0.0) == [Publish("fl/3/r/u/c1", last)]
    assert hears(client, Gradient(1, 1, 3, 1, 0.0, b"")) == []
    assert hears(client, told) == []
    assert hears(client, assignment(2)) == [Compute(FirstBatch("c1", assignment(2)))]


def test_an_evaluation_follows_the_round_of_its_number_and_not_the_other_way_round() -> None:
    client = client_in_charge()
    hears(client, assignment())
    assert hears(client, assignment(first_step=2, steps=3))
    assert hears(client, assignment()) == []
    answer = Publish("fl/3/r/u/c1", Progress(1, 7, 1, 2, Standing.WORKING))
    assert hears(client, Ask(1, 7, 1, 2)) == [answer]


def test_a_client_looks_at_its_data_and_greets_again_when_they_are_another_number() -> None:
    client = ClientCore("r", "c1", Hello(0, "same", 0), looks=True)
    actions = client.handle(Online(), 0.0)
    assert [type(action).__name__ for action in actions] == ["Publish", "StartTimer"]
    assert [type(action).__name__ for action in client.handle(Online(2), 0.0)] == ["Publish"]  # one timer
    look = client.handle(TimerFired(LOOK), LOOK_S)
    assert look == [Compute(LookAtData("c1"))]
    same = client.handle(ComputeDone(LookAtData("c1"), Stock(4, 1)), LOOK_S)  # nobody is there to be told
    assert [type(action).__name__ for action in same] == ["StartTimer"]
    hello = Publish("fl/3/r/u/c1", Hello(2, "same", 4, held_out=1))
    assert hears(client, RunState("running", 1, 0, 1, 5)) == [hello]
    same = client.handle(ComputeDone(LookAtData("c1"), Stock(4, 1)), 2 * LOOK_S)
    assert [type(action).__name__ for action in same] == ["StartTimer"]
    grown, timer = client.handle(ComputeDone(LookAtData("c1"), Stock(5, 1)), 3 * LOOK_S)
    assert grown == Publish("fl/3/r/u/c1", Hello(2, "same", 5, held_out=1))
    assert type(timer).__name__ == "StartTimer"


def test_a_look_at_the_data_does_not_touch_the_round_that_is_under_way() -> None:
    client = client_in_charge(looks=True)
    hears(client, assignment())
    job = client._busy
    client.handle(ComputeDone(LookAtData("c1"), Stock(12, 0)), 10.0)
    assert client._busy is job


def test_a_client_whose_data_never_change_has_no_timer() -> None:
    client = ClientCore("r", "c1", Hello(0, "same", 0))
    assert [type(action).__name__ for action in client.handle(Online(), 0.0)] == ["Publish"]
