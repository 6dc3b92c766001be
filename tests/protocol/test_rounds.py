"""Rounds one after the other: who is assigned what, which job the tail has, what comes of it."""

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.codecs import Float16, Float32, Int8
from broker.machine.actions import CancelTimer, Compute, Publish, Report, StartTimer
from broker.wire.errors import WireError
from broker.wire.messages import Activations, Assignment, Gradient, Message, Released
from scenarios.schema.flows import Codecs
from server_node.protocol.cohort import Cohort
from server_node.protocol.rounds import Rounds
from server_node.vocabulary.actions import ServerAction
from server_node.vocabulary.jobs import (
    ChangesEncoded,
    CloseRound,
    EncodeChanges,
    EncodeHead,
    HeadEncoded,
    RoundClosed,
    TailResult,
    TailStep,
    TailStepped,
    TailUpdate,
)
from server_node.vocabulary.ledger import Ledger
from server_node.vocabulary.plan import Plan, RoundPolicy
from server_node.vocabulary.reports import Dropped, RoundReport
from tests.protocol.test_server_core import HEAD, PLAN, activations, reports, said, update

if TYPE_CHECKING:
    from broker.wire.fields import CodecSpecs

ABC = replace(PLAN, clients=tuple("abc"), round_policy=RoundPolicy(3), rounds=9)
TEN = replace(ABC, clients=tuple("abcdefghij"))
CODECS = Codecs(Int8(), Float32(), Float16(), Float32())


class Played:
    """The rounds and members of a server whose whole fleet is online."""

    def __init__(self, plan: Plan, *, encoded: bool = True) -> None:
        self.plan = plan
        self.cohort = Cohort(plan, Ledger(), 0)
        self.rounds = Rounds(plan, self.cohort)
        if encoded:
            assert self.rounds.computed(EncodeHead(), HeadEncoded(HEAD), 0.0, online=3) == ([], {})

    def begin(self) -> list[ServerAction]:
        return self.rounds.begin(set(self.plan.clients), 7, 0.0)

    def comes(self, client: str, message: Activations | None = None) -> None:
        assert self.cohort.take_batch(client, message or activations(self.cohort.number), 0.0) is None

    def job(self) -> TailStep | TailUpdate | CloseRound:
        """Give the job that the tail gets now."""
        (action,) = self.rounds.next_job(0.0)
        assert isinstance(action, Compute)
        assert isinstance(action.job, TailStep | TailUpdate | CloseRound)
        return action.job

    def close(self, *clients: str) -> list[ServerAction]:
        """Let clients finish the round, and close it."""
        for client in clients:
            self.comes(client)
            step = self.job()
            self.rounds.computed(step, TailStepped({client: (b"", 0.0)}, 1.0, 1), 0.0, online=3)
            assert self.cohort.take_update(client, update(self.cohort.number), 0.0) is None
        actions: list[ServerAction] = []
        while self.cohort.round is not None:
            actions += self.rounds.next_job(0.0)
            job = actions[-1].job if isinstance(actions[-1], Compute) else None
            assert isinstance(job, TailUpdate | CloseRound)
            result = RoundClosed(HeadEncoded(b"next head"), None, {}) if isinstance(job, CloseRound) else None
            actions += self.rounds.computed(job, result, 0.0, online=3)[0]
        return actions


def assigned(actions: list[ServerAction]) -> list[str]:
    return [client for client, message in said(actions) if isinstance(message, Assignment)]


def test_no_round_begins_before_the_head_is_encoded() -> None:
    played = Played(ABC, encoded=False)
    assert played.rounds.encode_head() == Compute(EncodeHead())
    idle = [played.rounds.is_idle]
    played.rounds.computed(EncodeHead(), HeadEncoded(HEAD), 0.0, online=3)
    idle.append(played.rounds.is_idle)
    played.begin()
    assert [*idle, played.rounds.is_idle] == [False, True, False]


def test_an_assignment_has_the_rounds_number_rate_and_head_and_the_clients_codecs() -> None:
    usual = Codecs(Float32(), Float32(), Float32(), Float32())
    plan = replace(ABC, steps=4, head_lr_in=lambda n: n / 8, codecs=usual, by_link={"b": CODECS})
    actions = Played(plan).begin()
    same: CodecSpecs = ([0], [0], [0], [0])
    other: CodecSpecs = ([2], [0], [1], [0])
    assert said(actions) == [
        ("a", Assignment(7, 1, 1, 4, 0.125, same, HEAD)),
        ("b", Assignment(7, 1, 1, 4, 0.125, other, HEAD)),
        ("c", Assignment(7, 1, 1, 4, 0.125, same, HEAD)),
    ]
    first, _, third = [action.message for action in actions if isinstance(action, Publish)]
    assert first is third  # it is encoded once for all who are alike


def test_the_next_round_has_the_next_number_and_head() -> None:
    played = Played(ABC)
    played.begin()
    played.close("a", "b", "c")
    (_, message), *_ = said(played.begin())
    assert isinstance(message, Assignment)
    assert (message.round, message.head) == (2, b"next head")


def asked(actions: list[ServerAction]) -> EncodeChanges:
    """Give the job that a round begins with if each client is sent a change of the head that it has."""
    (action,) = actions
    assert isinstance(action, Compute)
    assert isinstance(action.job, EncodeChanges)
    return action.job


def encoded(played: Played, job: EncodeChanges) -> list[tuple[str, int, bytes]]:
    """Let the job be done; gives of each assignment who has it, since when, and the head."""
    heads = {client: client.encode() for client in job.since}
    actions, refused = played.rounds.computed(job, ChangesEncoded(heads), 0.0, online=3)
    assert not refused
    messages = [(who, message) for who, message in said(actions) if isinstance(message, Assignment)]
    return [(who, message.since, message.head) for who, message in messages]


def test_each_client_is_sent_a_change_of_the_head_that_it_answered_last() -> None:
    played = Played(replace(ABC, head_since_last=True, round_policy=RoundPolicy(3, enough=2)))
    job = asked(played.begin())
    assert (job, played.rounds.is_idle) == (EncodeChanges(1, {"a": 0, "b": 0, "c": 0}), False)
    assert encoded(played, job) == [("a", 0, b"a"), ("b", 0, b"b"), ("c", 0, b"c")]
    played.close("a", "b")  # c is dropped
    job = asked(played.begin())
    assert job == EncodeChanges(2, {"a": 1, "b": 1, "c": 0})
    assert encoded(played, job) == [("a", 1, b"a"), ("b", 1, b"b"), ("c", 0, b"c")]
    played.cohort.needs("a", b"")  # it greets in the middle of the round
    played.close("a", "c")
    played.cohort.needs("c", b"")  # and this one after it
    job = asked(played.begin())
    assert job == EncodeChanges(3, {"a": 0, "b": 1, "c": 0})
    encoded(played, job)
    played.close("b", "c")
    assert asked(played.begin()) == EncodeChanges(4, {"a": 0, "b": 3, "c": 3})


SOME = st.sets(st.sampled_from("abc"))


@given(st.lists(st.tuples(SOME, SOME, SOME, st.permutations("abc"), st.integers(1, 3)), max_size=8))
@settings(max_examples=200, deadline=None)
def test_a_change_is_sent_of_nothing_but_what_server_and_device_have_alike(
    rounds: list[tuple[set[str], set[str], set[str], list[str], int]],
) -> None:
    """Devices are started anew at any time, and some answer. A head is named by what it is made of."""
    played = Played(replace(ABC, head_since_last=True, round_policy=RoundPolicy(3, enough=1), rounds=99))
    heads: dict[str, dict[int, bytes]] = {client: {} for client in "abc"}  # of devices
    made: dict[str, dict[int, bytes]] = {client: {0: b""} for client in "abc"}  # of them, by the server

    def start_anew(clients: set[str]) -> None:
        for client in sorted(clients):
            heads[client] = {}
            played.cohort.needs(client, b"")

    for number, (before, meanwhile, after, order, answers) in enumerate(rounds, start=1):
        start_anew(before)
        job = asked(played.begin())
        start_anew(meanwhile)
        for client, since in job.since.items():
            made[client][number] = made[client][since] + client.encode()
        for client, since, head in encoded(played, job):
            assert not since or heads[client][since] == made[client][since]
            heads[client] |= {number: (heads[client][since] if since else b"") + head}
        start_anew(after)
        played.close(*order[:answers])


def test_an_evaluation_does_not_hide_that_a_device_was_started_anew() -> None:
    played = Played(replace(ABC, head_since_last=True))
    encoded(played, asked(played.begin()))
    played.close("a", "b", "c")
    played.cohort.needs("a", b"")
    evaluation = Assignment(7, 1, 1, 3, 0.1, ([], [], [], []), HEAD, first_step=2)
    for client in "ab":
        played.cohort.assign(client, evaluation, 0.0)
        played.cohort.drop(client)
    assert asked(played.begin()).since == {"a": 0, "b": 1, "c": 1}


def test_who_is_started_anew_while_heads_are_encoded_is_sent_the_change_since_the_start() -> None:
    """And the next one, too: what the server made of the change is not what the device has."""
    played = Played(replace(ABC, head_since_last=True))
    encoded(played, asked(played.begin()))
    played.close("a", "b", "c")
    job = asked(played.begin())
    played.cohort.needs("b", b"")
    assert encoded(played, job) == [("a", 1, b"a"), ("b", 0, b"next head"), ("c", 1, b"c")]
    played.close("a", "b", "c")
    assert asked(played.begin()).since == {"a": 2, "b": 0, "c": 2}


def test_who_leaves_while_heads_are_encoded_is_not_assigned() -> None:
    played, online = Played(replace(ABC, head_since_last=True)), set("abc")
    job = asked(played.rounds.begin(online, 7, 0.0))
    online.remove("b")
    assert [client for client, _, _ in encoded(played, job)] == ["a", "c"]


def test_each_round_draws_anew() -> None:
    played = Played(replace(TEN, round_policy=RoundPolicy(3)))
    cohorts = set()
    for _ in range(5):
        drawn = assigned(played.begin())
        cohorts.add(tuple(drawn))
        played.close(*drawn)
    assert len(cohorts) > 1


def test_only_a_policy_with_a_deadline_starts_its_timer() -> None:
    def timers(policy: RoundPolicy) -> list[ServerAction]:
        actions = Played(replace(ABC, round_policy=policy)).begin()
        return [action for action in actions if isinstance(action, StartTimer)]

    assert timers(RoundPolicy(3)) == []
    assert timers(RoundPolicy(3, deadline_s=4.0)) == [StartTimer("deadline", 4.0)]


def test_with_late_members_kept_a_round_draws_as_many_as_are_missing() -> None:
    played = Played(replace(TEN, round_policy=RoundPolicy(4, enough=2, max_staleness=2)))
    one, two, *late = assigned(played.begin())
    played.close(one, two)
    again = assigned(played.begin())
    assert len(again) == 2
    assert set(again).isdisjoint(late)
    assert sorted(played.cohort.members) == sorted([*late, *again])


@pytest.mark.parametrize("max_staleness", [0, 1, 2])
def test_members_that_are_too_late_are_dropped_as_a_round_begins(max_staleness: int) -> None:
    policy = RoundPolicy(3, enough=1, max_staleness=max_staleness)
    played = Played(replace(ABC, round_policy=policy))
    played.begin()
    facts: list[list[object]] = []
    for _ in range(3):
        played.close("a")
        facts.append(reports(played.begin()))
    drops: list[list[object]] = [[], [], [], []]
    drops[max_staleness] = [Dropped(max_staleness + 2, "b"), Dropped(max_staleness + 2, "c")]
    assert facts[: max_staleness + 1] == drops[: max_staleness + 1]


def test_without_a_round_the_tail_has_nothing_to_do() -> None:
    assert Played(ABC).rounds.next_job(0.0) == []


def test_the_tail_has_one_job_at_a_time() -> None:
    played = Played(ABC)
    played.begin()
    assert played.rounds.next_job(0.0) == []
    played.comes("a")
    assert played.job() == TailStep(1, 0, (("a", activations(), 1.0),))
    played.comes("b")
    assert played.rounds.next_job(0.0) == []


def test_who_is_behind_when_a_step_ends_is_dropped_each_by_name() -> None:
    played = Played(replace(ABC, round_policy=RoundPolicy(3, enough=1)))
    played.begin()
    played.comes("b")
    played.rounds.computed(played.job(), TailStepped({"b": (b"", 0.0)}, 1.0, 1), 0.0, online=3)
    actions = played.rounds.next_job(0.0)
    assert sorted(map(str, reports(actions))) == [str(Dropped(1, "a")), str(Dropped(1, "c"))]
    assert actions[-1] == Compute(TailUpdate(1, 0))
    assert list(played.cohort.members) == ["b"]


def test_one_refused_batch_leaves_the_others_of_its_job_their_gradients() -> None:
    played = Played(ABC)
    played.begin()
    for client in "abc":
        played.comes(client)
    error = WireError("range", "code 9")
    result = TailStepped({"a": (b"g", 0.5), "b": error, "c": (b"h", 0.25)}, 2.0, 2)
    actions, refused = played.rounds.computed(played.job(), result, 0.0, online=3)
    expected: list[tuple[str, Message]] = [
        ("a", Gradient(1, 1, 0, 1, 0.5, b"g")),
        ("b", Released(7, 1, greet=False)),
        ("c", Gradient(1, 1, 0, 1, 0.25, b"h")),
    ]
    assert said(actions) == expected
    assert reports(actions) == [Dropped(1, "b")]
    assert refused == {"b": error}


def test_a_gradient_for_a_member_that_was_dropped_meanwhile_is_not_sent() -> None:
    played = Played(ABC)
    played.begin()
    played.comes("a")
    played.comes("b")
    job = played.job()
    played.cohort.drop("a")
    result = TailStepped({"a": (b"g", 0.5), "b": (b"h", 0.5)}, 2.0, 2)
    actions, _ = played.rounds.computed(job, result, 0.0, online=3)
    assert said(actions) == [("b", Gradient(1, 1, 0, 1, 0.5, b"h"))]


def test_a_closed_round_ends_its_deadline_is_reported_and_has_no_members_left() -> None:
    played = Played(replace(ABC, steps=0))
    played.begin()
    for client in "abc":
        played.cohort.take_update(client, update(), 0.0)
    error = WireError("range", "code 9")
    result = RoundClosed(HeadEncoded(b"next head"), 0.5, {"b": error})
    (timer, report), refused = played.rounds.computed(played.job(), result, 0.0, online=8)
    assert timer == CancelTimer("deadline")
    assert isinstance(report, Report)
    assert isinstance(report.fact, RoundReport)
    assert (report.fact.round, report.fact.clients, report.fact.online) == (1, 2, 8)
    assert refused == {"b": error}
    assert played.cohort.members == {}
    assert played.rounds.is_idle


@pytest.mark.parametrize(
    ("result", "what"), [(None, "EncodeHead gave NoneType"), (TailStepped({}, 0.0, 0), "gave TailStepped")]
)
def test_a_result_of_another_kind_than_the_jobs_is_a_mistake_in_the_program(
    result: TailResult, what: str
) -> None:
    with pytest.raises(TypeError, match=what):
        Played(ABC, encoded=False).rounds.computed(EncodeHead(), result, 0.0, online=3)
