"""One round: who is waited for, when that is enough, and what is reported of it."""

import math
from dataclasses import replace

import pytest

from broker.wire.errors import WireError
from broker.wire.messages import Assignment, HeadUpdate
from server_node.protocol.exchange import Exchange
from server_node.protocol.round import Round
from server_node.protocol.round_trip import RoundTrip
from server_node.vocabulary.jobs import (
    CloseRound,
    HeadEncoded,
    RoundClosed,
    TailStep,
    TailStepped,
    TailUpdate,
)
from server_node.vocabulary.plan import Plan, RoundPolicy
from tests.protocol.test_server_core import HEAD, PLAN, activations, update

BUFFERED = RoundPolicy(3, enough=2, max_staleness=5)


class Played:
    """A round and its members, without the server around them."""

    def __init__(self, policy: RoundPolicy, *, steps: int = 2, number: int = 4, plan: Plan = PLAN) -> None:
        self.members: dict[str, Exchange] = {}
        for client in ("a", "b", "c"):
            self.join(client, number)
        self.round = Round(number, replace(plan, steps=steps, round_policy=policy), self.members)

    def join(self, client: str, number: int) -> None:
        """Make a client a member since a round; what it does is told to the round from here on."""
        assignment = Assignment(1, number, 1, 2, 0.1, ([], [], [], []), b"")
        self.members[client] = Exchange(assignment, RoundTrip(), 600.0, 0.0, PLAN.codecs, PLAN.whole_head)

    def comes(self, client: str) -> None:
        """Let a member's activations come."""
        self.members[client].take_batch(activations(4, self.members[client].step), 0.0)
        self.round.activations_came(client)

    def passes(self, *clients: str) -> None:
        """Let members' activations come and go through the tail."""
        for client in clients:
            self.comes(client)
            self.members[client].answer(0.0, b"", 0.0)
            self.round.answered(client)

    def finishes(self, client: str, *, number: int = 4) -> None:
        """Let a member's update come."""
        self.members[client].take_update(update(number), 0.0)
        self.round.update_came(client)

    def ready(self) -> list[str]:
        """Give those whose activations wait for the tail."""
        job = self.round.batches()
        return [] if job is None else [client for client, *_ in job.batches]


def test_a_new_round_waits_for_every_member() -> None:
    played = Played(RoundPolicy(3))
    assert (played.round.number, played.round.step, played.round.overdue) == (4, 0, False)
    assert played.round.behind == {"a", "b", "c"}
    assert not played.round.is_enough()
    assert played.round.batches() is None


def test_activations_that_wait_are_one_job_sorted_by_client() -> None:
    played = Played(RoundPolicy(3))
    played.comes("b")
    played.comes("a")
    assert played.round.batches() == TailStep(4, 0, (("a", activations(4), 1.0), ("b", activations(4), 1.0)))
    played.round.answered("a")
    assert played.ready() == ["b"]


def test_the_step_ends_when_all_have_been_answered() -> None:
    played = Played(RoundPolicy(3))
    played.passes("a", "b")
    assert played.round.behind == {"c"}
    played.comes("c")
    assert not played.round.is_enough()
    played.members["c"].answer(0.0, b"", 0.0)
    played.round.answered("c")
    assert played.round.is_enough()
    assert played.round.next_job() == TailUpdate(4, 0)
    assert (played.round.step, played.round.behind) == (1, {"a", "b", "c"})


def test_a_member_that_is_a_step_ahead_waits_for_the_others() -> None:
    played = Played(RoundPolicy(3))
    played.passes("a")
    played.comes("a")  # its second step
    assert played.ready() == []
    played.passes("b", "c")
    assert played.round.next_job() == TailUpdate(4, 0)
    assert played.ready() == ["a"]
    played.passes("b")
    assert played.round.behind == {"a", "c"}


def test_after_the_last_step_head_updates_are_waited_for_and_averaged() -> None:
    played = Played(RoundPolicy(3), steps=1)
    awaited_before = played.round.awaits_updates
    played.passes("a", "b", "c")
    assert played.round.next_job() == TailUpdate(4, 0)
    assert (awaited_before, played.round.awaits_updates) == (False, True)
    assert played.round.behind == {"a", "b", "c"}
    for client in "cba":
        assert not played.round.is_enough()
        played.finishes(client)
    updates = tuple((client, update(4), 1.0) for client in "abc")
    assert played.round.next_job() == CloseRound(4, updates, evaluate=True)


def test_who_was_first_with_its_update_is_not_waited_for_at_the_end() -> None:
    played = Played(RoundPolicy(3), steps=1)
    played.passes("a", "b", "c")
    played.finishes("a")
    played.round.next_job()
    assert played.round.behind == {"b", "c"}


def test_who_has_left_is_neither_ready_nor_waited_for() -> None:
    played = Played(RoundPolicy(3))
    played.comes("a")
    played.passes("b", "c")
    del played.members["a"]
    played.round.left("a")
    assert played.round.behind == set()
    assert played.ready() == []
    assert played.round.is_enough()


@pytest.mark.parametrize(
    ("policy", "overdue", "needed"),
    [
        pytest.param(RoundPolicy(3), False, 3, id="wait for all"),
        pytest.param(RoundPolicy(3, enough=2), False, 2, id="over-selection"),
        pytest.param(RoundPolicy(3, enough=9), False, 3, id="more than there are"),
        pytest.param(RoundPolicy(3, deadline_s=9.0, minimum=1), False, 3, id="before the deadline"),
        pytest.param(RoundPolicy(3, deadline_s=9.0, minimum=1), True, 1, id="after the deadline"),
        pytest.param(RoundPolicy(3, deadline_s=9.0, minimum=7), True, 3, id="a minimum above all"),
        pytest.param(RoundPolicy(3, enough=1, deadline_s=9.0, minimum=2), True, 1, id="enough anyway"),
    ],
)
def test_so_many_answers_are_enough(policy: RoundPolicy, overdue: bool, needed: int) -> None:
    played = Played(policy)
    played.round.overdue = overdue
    enough = []
    for client in "abc":
        enough.append(played.round.is_enough())
        played.passes(client)
    assert [*enough, played.round.is_enough()] == [answers >= needed for answers in range(4)]


def test_with_late_members_kept_updates_alone_close_a_round_and_the_tail_steps_once() -> None:
    played = Played(BUFFERED, steps=3)
    assert played.round.awaits_updates
    played.passes("a", "b", "c", "a", "b", "c")
    assert not played.round.is_enough()  # they have been answered, but none has finished
    played.finishes("a")
    assert not played.round.is_enough()
    played.finishes("b")
    assert played.round.is_enough()
    assert played.round.next_job() == TailUpdate(4, 0)
    updates = ("a", update(4), 1.0), ("b", update(4), 1.0)
    assert played.round.next_job() == CloseRound(4, updates, evaluate=True)


def test_with_late_members_kept_batches_of_any_step_go_through_the_tail_together() -> None:
    played = Played(BUFFERED)
    played.passes("a")
    played.comes("a")
    played.comes("b")
    assert played.ready() == ["a", "b"]


def test_late_batches_that_wait_as_a_round_begins_are_in_its_first_job() -> None:
    played = Played(BUFFERED)
    played.passes("a")
    played.comes("a")
    again = Round(5, replace(PLAN, steps=2, round_policy=BUFFERED), played.members)
    assert again.batches() == TailStep(5, 0, (("a", activations(4, 1), 1 / math.sqrt(2)),))


@pytest.mark.parametrize(("late", "weight"), [(0, 1.0), (1, 1 / math.sqrt(2)), (3, 0.5)])
def test_an_answer_weighs_less_the_more_rounds_it_is_late(late: int, weight: float) -> None:
    played = Played(BUFFERED)
    played.join("a", 4 - late)
    assert played.round.weight(played.members["a"]) == pytest.approx(weight)


def test_without_steps_a_round_begins_by_waiting_for_updates() -> None:
    played = Played(RoundPolicy(3), steps=0)
    assert played.round.awaits_updates
    for client in "abc":
        played.finishes(client)
    assert isinstance(played.round.next_job(), CloseRound)


@pytest.mark.parametrize(("number", "evaluate"), [(3, False), (4, True), (5, True)])
def test_every_second_round_is_evaluated_and_the_last(number: int, evaluate: bool) -> None:
    played = Played(RoundPolicy(3), steps=0, number=number, plan=replace(PLAN, rounds=5))
    assert played.round.next_job() == CloseRound(number, (), evaluate)


def close(*updates: HeadUpdate) -> CloseRound:
    return CloseRound(4, tuple((f"c{n}", each, 1.0) for n, each in enumerate(updates)), evaluate=True)


def stepped(losses: dict[str, float], *refused: str) -> TailStepped:
    gradients: dict[str, tuple[bytes, float] | WireError] = dict.fromkeys(losses, (b"", 0.0))
    gradients |= {name: WireError("range", "code 9") for name in refused}
    return TailStepped(gradients, sum(losses.values()), len(losses))


def test_the_report_adds_up_the_batches_of_all_steps_without_the_refused() -> None:
    played = Played(RoundPolicy(3))
    played.round.add_losses(stepped({"a": 1.0, "b": 2.0}, "c"))
    played.round.add_losses(stepped({"a": 6.0}))
    report = played.round.report(close(), RoundClosed(HeadEncoded(HEAD), 0.75, {}), online=7)
    assert (report.round, report.loss, report.client_steps) == (4, 3.0, 3)
    assert (report.metric, report.online) == (0.75, 7)


def test_the_report_weighs_quantization_errors_by_samples_and_takes_the_mean_staleness() -> None:
    played = Played(BUFFERED)
    one, two = HeadUpdate(1, 4, 1, 3, 0.5, b""), HeadUpdate(1, 2, 1, 1, 0.125, b"")
    report = played.round.report(close(one, two), RoundClosed(HeadEncoded(HEAD), None, {}), online=3)
    assert report.quantization_error == pytest.approx((3 * 0.5 + 1 * 0.125) / 4)
    assert (report.clients, report.staleness) == (2, 1.0)


def test_the_report_leaves_out_updates_that_were_refused() -> None:
    played = Played(BUFFERED)
    one, two = HeadUpdate(1, 4, 1, 3, 0.5, b""), HeadUpdate(1, 2, 1, 1, 0.125, b"")
    refused = {"c0": WireError("range", "code 9")}
    report = played.round.report(close(one, two), RoundClosed(HeadEncoded(HEAD), None, refused), online=3)
    assert (report.clients, report.quantization_error, report.staleness) == (1, 0.125, 2.0)


def test_the_report_of_a_round_in_which_nobody_took_part() -> None:
    played = Played(RoundPolicy(3))
    report = played.round.report(close(), RoundClosed(HeadEncoded(HEAD), None, {}), online=0)
    assert math.isnan(report.loss)
    assert (report.clients, report.client_steps) == (0, 0)
    assert (report.quantization_error, report.staleness) == (0.0, 0.0)


def test_where_clients_train_by_themselves_their_local_steps_are_reported() -> None:
    played = Played(RoundPolicy(3), steps=0, plan=replace(PLAN, local_steps=5))
    report = played.round.report(
        close(update(4), update(4)), RoundClosed(HeadEncoded(HEAD), None, {}), online=3
    )
    assert report.client_steps == 10
