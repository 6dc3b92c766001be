"""How the server begins, greets, refuses and ends: its actions, one by one."""

from dataclasses import replace

import pytest

from broker.codecs.targets import Labels
from broker.machine.actions import (
    CancelTimer,
    Compute,
    ComputeDone,
    Done,
    Online,
    Publish,
    Received,
    Report,
    StartTimer,
    StopAsked,
    TimerFired,
    Undecodable,
)
from broker.wire.errors import WireError
from broker.wire.messages import (
    Activations,
    Ask,
    Assignment,
    Claim,
    HeadUpdate,
    Hello,
    Progress,
    Rejected,
    Released,
    RunState,
    Standing,
    Status,
    StopRun,
    Welcome,
)
from server_node.protocol.cohort import ASK
from server_node.vocabulary.jobs import Diverged, EncodeHead, TailStepped
from server_node.vocabulary.ledger import CONTROL
from server_node.vocabulary.plan import RoundPolicy
from server_node.vocabulary.reports import Dropped, Gathering, Refused
from tests.protocol.test_server_core import (
    PLAN,
    Server,
    activations,
    finish_member,
    hello,
    progress,
    reports,
    said,
    update,
)

STATE = "fl/3/r/state"


def state(phase: str, number: int = 0, reason: str = "") -> Publish:
    return Publish(STATE, RunState(phase, 1, 0, number, 2, reason), retain=True)  # type: ignore[arg-type]


def opened() -> Server:
    """A server that has encoded its head and waits for its fleet."""
    server = Server()
    server.handle(Online())
    server.work()
    return server


def quiet(client: str) -> StartTimer:
    return StartTimer(f"quiet:{client}", 1.0)


def test_alone_it_takes_charge_as_soon_as_it_is_connected() -> None:
    assert Server().handle(Online()) == [state("gathering"), Compute(EncodeHead()), StartTimer("join", 60.0)]


def test_with_others_it_claims_the_run_and_waits_five_seconds_for_one_at_work() -> None:
    server = Server(replace(PLAN, alone=False, token=50, join_s=9.0))
    assert server.handle(Online()) == [CancelTimer("claim"), Publish("fl/3/r/server", Claim(1, 50))]
    assert server.handle(Received("", RunState("running", 1, 3, 1, 2), 10)) == []
    assert server.handle(Received("", Claim(1, 50), 10)) == [StartTimer("claim", 5.0)]
    begun = Publish(STATE, RunState("gathering", 2, 50, 0, 2), retain=True)
    assert server.handle(TimerFired("claim")) == [Publish("fl/3/r/server", Claim(2, 50))]
    again = server.handle(Received("", Claim(2, 50), 10))
    assert again == [begun, Compute(EncodeHead()), StartTimer("join", 9.0)]
    assert server.handle(TimerFired("claim")) == []
    assert (server.core.incarnation, server.core.token) == (2, 50)
    assert server.handle(Received("", Claim(3, 60), 10)) == [Publish("fl/3/r/server", Claim(2, 50))]


def test_a_server_that_has_not_begun_claims_again_when_it_is_connected_again() -> None:
    server = Server(replace(PLAN, alone=False, token=50))
    claim = [CancelTimer("claim"), Publish("fl/3/r/server", Claim(1, 50))]
    assert [server.handle(Online()) for _ in range(2)] == [claim, claim]


def test_each_client_that_appears_is_reported_and_with_the_last_the_first_round_begins() -> None:
    server = opened()
    for number, client in enumerate("ab", start=1):
        appears = [CancelTimer(f"rejoin:{client}"), Report(Gathering(number)), quiet(client)]
        assert server.hear(client, hello()) == appears
    actions = server.hear("c", hello())
    assert actions[:3] == [CancelTimer("rejoin:c"), Report(Gathering(3)), quiet("c")]
    assert actions[3:6] == [Report(Gathering(3)), state("running"), CancelTimer("join")]
    assert [type(message) for _, message in said(actions[6:])] == [Assignment, Assignment]
    assert actions[-1] == StartTimer(ASK, 30.0)


def test_who_is_there_already_is_not_reported_again() -> None:
    server = opened()
    server.hear("a", hello())
    server.handle(TimerFired("quiet:a"))
    assert server.hear("a", hello()) == [quiet("a")]


def test_once_the_rounds_have_begun_nobody_is_reported_to_gather() -> None:
    server = Server()
    server.begin()
    server.hear("a", Status(online=False, session=1))
    assert server.hear("a", activations(number=1))[:1] == [CancelTimer("rejoin:a")]
    assert reports(server.hear("a", hello())) == []


def test_a_cohort_is_not_enough_before_the_fleet_had_its_time() -> None:
    server = opened()
    for client in "ab":
        assert reports(server.hear(client, hello())) != []
    assert server.jobs == []
    actions = server.handle(TimerFired("join"))
    assert actions[:2] == [state("gathering"), StartTimer("join", 60.0)]
    assert Report(Gathering(2)) in actions  # two are a cohort, so it begins at once
    assert CancelTimer("join") in actions
    assert server.handle(TimerFired("join")) == []


def test_while_too_few_are_there_they_are_called_again_and_again() -> None:
    server = opened()
    server.hear("a", hello())
    for _ in range(3):
        assert server.handle(TimerFired("join")) == [state("gathering"), StartTimer("join", 60.0)]


def test_a_client_without_the_scenario_is_told_what_it_must_know() -> None:
    plan = replace(PLAN, batch_size=7, local_steps=3, cut_size=6, targets=Labels(10, (5,)), packet_bytes=7000)
    server = Server(replace(plan, initial_head=b"head"))
    server.handle(Online())
    actions = server.hear("a", Hello(1, "same", 9, wants_welcome=True))
    assert actions[-1] == Publish("fl/3/r/d/a", Welcome(1, 7, 3, 6, 10, 5, 7000, b"head", []))
    assert server.hear("b", hello())[-1] == quiet("b")


def test_a_device_with_another_scenario_is_told_both_digests_and_does_not_count_as_there() -> None:
    server = opened()
    why = "scenario: the device's scenario other is not the server's same: give both the same file and --set"
    assert server.hear("a", Hello(1, "other", 9)) == [
        quiet("a"),
        Report(Refused("a", why)),
        Publish("fl/3/r/d/a", Rejected("scenario", why)),
    ]
    assert server.ledger.refused_of == {"a": why}
    assert reports(server.hear("b", hello())) == [Gathering(1)]


def test_strangers_share_one_limit_and_one_line_of_the_ledger() -> None:
    server = opened()
    why = "roster: 'mallory' is no client of this run; the fleet has 3 clients: a, b, c"
    assert server.hear("mallory", hello()) == [
        quiet(""),
        Report(Refused("mallory", why)),
        Publish("fl/3/r/d/mallory", Rejected("roster", why)),
    ]
    assert server.hear("eve", hello()) == []
    assert server.ledger.rejected == {"roster": 2}
    assert server.ledger.refused_of == {
        "strangers": "roster: 'eve' is no client of this run; the fleet has 3 clients: a, b, c"
    }


def test_a_client_has_a_limit_of_its_own() -> None:
    server = opened()
    bad = Undecodable("a", WireError("malformed", "noise"))
    assert len(server.handle(bad)) == 3
    assert server.handle(bad) == []
    assert len(server.handle(Undecodable("b", WireError("malformed", "noise")))) == 3
    assert server.ledger.refused_of == {"a": "malformed: noise", "b": "malformed: noise"}
    server.handle(TimerFired("quiet:a"))
    assert len(server.handle(bad)) == 3


def test_who_sent_a_tensor_that_does_not_fit_is_told() -> None:
    server = Server(replace(PLAN, steps=0))
    one, two = server.begin()
    for client, message in ((one, activations()), (two, HeadUpdate(1, 1, 1, 1, 0.0, b""))):
        server.handle(TimerFired(f"quiet:{client}"))
        ((name, answer),) = said(server.hear(client, message))
        assert isinstance(answer, Rejected)
        assert name == client


def test_whose_tensor_the_tail_refuses_is_told_and_leaves_the_round() -> None:
    server = Server()
    one, _ = server.begin()
    server.handle(TimerFired(f"quiet:{one}"))
    server.hear(one, activations())
    result = TailStepped({one: WireError("range", "code 9")}, 0.0, 0)
    actions = server.handle(ComputeDone(server.jobs.pop(), result))
    assert said(actions) == [
        (one, Rejected("range", "range: code 9")),
        (one, Released(1, 1, greet=False)),
    ]


def test_a_greeting_tells_the_clients_present_connection() -> None:
    server = Server()
    one, _ = server.begin()
    server.hear(one, Hello(5, "same", 9))
    assert server.hear(one, Status(online=False, session=4)) == []
    assert server.hear(one, Status(online=False, session=5)) == [StartTimer(f"rejoin:{one}", 5.0)]


def test_a_message_of_the_wrong_direction_is_refused_by_name() -> None:
    server = opened()
    server.hear("a", Claim(9, 9))
    assert server.ledger.refused_of == {"a": "direction: a client does not send Claim"}


def test_what_is_told_of_a_refusal_fits_into_a_message() -> None:
    server = opened()
    (_, answer) = said(server.handle(Undecodable("a", WireError("malformed", "x" * 600))))[0]
    assert isinstance(answer, Rejected)
    assert answer.detail == "malformed: " + "x" * 501


def test_bytes_that_nobody_can_read_are_counted_and_those_of_servers_are_not_answered() -> None:
    server = opened()
    before = server.ledger.flows[CONTROL].wire_bytes
    assert server.handle(Undecodable("", WireError("malformed", "noise"), 70)) == []
    assert server.ledger.flows[CONTROL].wire_bytes == before + 70
    assert server.ledger.rejected == {}


def test_what_clients_say_is_counted_and_what_servers_say_among_themselves_is_not() -> None:
    server = opened()
    sent, received = server.ledger.sent, server.ledger.received
    bytes_before = server.ledger.flows[CONTROL].wire_bytes
    server.handle(Received("a", hello(), 33))
    server.handle(Received("", hello(), 44))
    assert (server.ledger.sent, server.ledger.received) == (sent, received + 1)
    assert server.ledger.flows[CONTROL].wire_bytes == bytes_before + 33


def test_among_servers_only_their_own_messages_and_a_stop_are_heard() -> None:
    assert opened().handle(Received("", hello(), 10)) == []


@pytest.mark.parametrize(
    ("message", "reason"), [(StopRun("enough"), "enough"), (StopRun(), "stopped for good")]
)
def test_an_operator_can_end_the_run_for_good(message: StopRun, reason: str) -> None:
    server = opened()
    assert server.handle(Received("", message, 10)) == [state("finished", 0, reason), Done(reason)]
    assert server.handle(Online()) == []


def test_a_model_that_is_lost_ends_the_run_and_says_why() -> None:
    server = Server()
    one, _ = server.begin()
    server.hear(one, activations())
    reason = "diverged: the loss is NaN"
    actions = server.handle(ComputeDone(server.jobs[0], Diverged("the loss is NaN")))
    assert actions == [state("finished", 1, reason), Done(reason)]


def test_a_stop_during_a_round_pauses_and_nothing_follows_it() -> None:
    server = Server()
    server.begin()
    server.now_s = 100.0
    assert server.handle(StopAsked("stopped")) == [state("paused", 1, "stopped"), Done("stopped")]


def test_any_sign_of_life_brings_a_client_back() -> None:
    server = Server()
    one, two = server.begin()
    for client, message in ((one, activations()), (two, progress(1, 0, Standing.WORKING))):
        server.hear(client, Status(online=False, session=1))
        assert server.hear(client, message)[0] == CancelTimer(f"rejoin:{client}")
        assert server.handle(TimerFired(f"rejoin:{client}")) == []


def test_an_update_brings_a_client_back_too() -> None:
    server = Server(replace(PLAN, steps=0))
    one, _ = server.begin()
    server.hear(one, Status(online=False, session=1))
    assert server.hear(one, update())[0] == CancelTimer(f"rejoin:{one}")


def test_a_status_alone_does_not_make_a_client_ready() -> None:
    server = opened()
    assert server.hear("a", Status(online=True, session=4)) == [StartTimer("call", 10.0)]
    assert said(server.handle(TimerFired("call"))) == [("a", Released(1, 0, greet=True))]
    assert reports(server.hear("b", hello())) == [Gathering(1)]


def test_who_vanishes_without_being_a_member_leaves_no_timer_but_is_not_drawn() -> None:
    server = Server()
    cohort = server.begin()
    (outsider,) = {"a", "b", "c"} - set(cohort)
    assert server.hear(outsider, Status(online=False, session=1)) == []
    for client in cohort:
        actions = finish_member(server, client)
    assert [name for name, m in said(actions) if isinstance(m, Assignment)] == sorted(cohort)


def test_a_vanished_member_that_was_dropped_otherwise_is_not_dropped_twice() -> None:
    server = Server()
    one, _ = server.begin()
    server.hear(one, Status(online=False, session=1))
    server.hear(one, Progress(1, 1, 1, 0, Standing.REFUSED))
    server.hear(one, Status(online=False, session=1))
    assert server.handle(TimerFired(f"rejoin:{one}")) == []


def test_when_everybody_has_gone_the_round_closes_and_the_next_waits_for_somebody() -> None:
    server = Server()
    cohort = server.begin()
    for client in "abc":
        server.hear(client, Status(online=False, session=1))
    actions = [action for client in cohort for action in server.handle(TimerFired(f"rejoin:{client}"))]
    while server.jobs:
        actions = server.work()
    assert said(actions) == []
    server.handle(TimerFired("quiet:b"))
    ((name, message),) = said(server.hear("b", hello()))
    assert isinstance(message, Assignment)
    assert (name, message.round) == ("b", 2)


def test_a_deadline_between_two_rounds_does_not_shorten_the_next() -> None:
    server = Server(replace(PLAN, round_policy=RoundPolicy(2, deadline_s=4.0)))
    assert server.handle(TimerFired("deadline")) == []
    one, _ = server.begin()
    finish_member(server, one)
    assert server.jobs == []
    actions = server.handle(TimerFired("deadline"))
    assert [fact for fact in reports(actions) if isinstance(fact, Dropped)] != []


def test_messages_for_another_server_are_late_whether_earlier_or_later() -> None:
    server = Server(replace(PLAN, incarnation=2))
    one, _ = server.begin()
    for incarnation in (1, 3):
        server.hear(one, Activations(incarnation, 1, 0, 1, 1, bytes(16), bytes(1)))
        server.hear(one, Progress(incarnation, 1, 1, 0, Standing.REFUSED))
    assert server.ledger.discarded_late == 4
    assert server.ledger.rejected == {}


def test_connected_again_it_says_its_state_and_asks_who_owes() -> None:
    server = Server()
    one, two = server.begin()
    assert server.handle(Online()) == [
        state("running", 1),
        Publish(f"fl/3/r/d/{one}", Ask(1, 1, 1, 0)),
        Publish(f"fl/3/r/d/{two}", Ask(1, 1, 1, 0)),
    ]
