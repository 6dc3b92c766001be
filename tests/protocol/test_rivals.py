"""Which of two servers of one run goes on."""

from dataclasses import replace

import pytest

from broker.machine.actions import Done, Online, Publish, Received, StartTimer, StopAsked, TimerFired
from broker.wire.messages import Claim, Message, RunState, StopRun
from server_node.protocol.core import END_S, ServerCore
from server_node.protocol.rivals import Rivals, Verdict
from server_node.vocabulary.actions import ServerAction
from server_node.vocabulary.ledger import Ledger
from server_node.vocabulary.plan import Plan
from tests.protocol.test_server_core import PLAN, said
from tests.protocol.world import World

ALONE = replace(PLAN, alone=False, incarnation=1, token=50)


def server(plan: Plan = ALONE) -> ServerCore:
    """A server whose connection stands; it has said its claim and does not know yet who else is there."""
    core = ServerCore(plan, Ledger())
    assert said(core.handle(Online(), 0.0)) == [("", Claim(1, plan.token, plan.takeover))]
    return core


def hears(core: ServerCore, message: Message) -> list[ServerAction]:
    return core.handle(Received("", message, 10), 0.0)


def state(actions: list[ServerAction]) -> RunState | None:
    states = [a.message for a in actions if isinstance(a, Publish) and isinstance(a.message, RunState)]
    return states[-1] if states else None


def test_with_nobody_else_it_begins_when_its_own_claim_comes_back() -> None:
    core = server()
    assert state(hears(core, Claim(1, 50))) == RunState("gathering", 1, 50, 0, 2)


@pytest.mark.parametrize("phase", ["away", "paused", "finished"])
def test_after_a_server_that_has_left_it_begins_with_the_next_number(phase: str) -> None:
    core = server()
    hears(core, RunState(phase, 7, 3, 1, 2))  # type: ignore[arg-type]
    assert state(hears(core, Claim(1, 50))) == RunState("gathering", 8, 50, 0, 2)


def test_it_waits_for_the_answer_of_a_server_that_seems_to_be_at_work() -> None:
    core = server()
    hears(core, RunState("running", 7, 3, 1, 2))
    assert state(hears(core, Claim(1, 50))) is None
    assert hears(core, Claim(7, 3)) == [Done("another server")]


def test_a_server_that_does_not_answer_is_dead() -> None:
    core = server()
    hears(core, RunState("running", 7, 3, 1, 2))
    hears(core, Claim(1, 50))
    assert core.handle(TimerFired("claim"), 5.0) == [Publish("fl/3/r/server", Claim(8, 50))]
    assert state(hears(core, Claim(8, 50))) == RunState("gathering", 8, 50, 0, 2)


def test_it_does_not_begin_while_it_is_cut_off_from_the_answer() -> None:
    core = server()
    hears(core, RunState("running", 7, 3, 1, 2))
    hears(core, Claim(1, 50))
    assert state(core.handle(TimerFired("claim"), 5.0)) is None  # the connection is lost, with this claim
    core.handle(Online(), 9.0)
    hears(core, RunState("running", 7, 3, 2, 2))
    assert hears(core, Claim(8, 50)) == [StartTimer("claim", 5.0)]
    assert hears(core, Claim(7, 3)) == [Done("another server")]


def test_told_to_take_over_it_begins_at_once_and_the_other_one_ends() -> None:
    old = server(replace(ALONE, token=99))
    hears(old, Claim(1, 99))
    new = server(replace(ALONE, takeover=True))
    hears(new, RunState("running", 1, 99, 1, 2))
    begun = state(hears(new, Claim(1, 50, takeover=True)))
    assert begun == RunState("gathering", 2, 50, 0, 2)
    assert hears(old, begun) == [Done("superseded")]


def test_a_server_that_wakes_up_after_another_one_began_applies_nothing_more() -> None:
    frozen = server()
    hears(frozen, Claim(1, 50))
    assert hears(frozen, RunState("running", 2, 7, 1, 2)) == [Done("superseded")]
    assert frozen.handle(StopAsked("stopped"), 0.0) == []
    assert hears(frozen, Claim(3, 9)) == []


def test_one_at_work_answers_a_claim_and_takes_back_the_retained_state() -> None:
    core = server()
    hears(core, Claim(1, 50))
    assert said(hears(core, Claim(1, 7))) == [("", Claim(1, 50))]
    assert state(hears(core, RunState("away", 1, 7))) == RunState("gathering", 1, 50, 0, 2)
    assert state(hears(core, RunState("away", 1, 50))) == RunState("gathering", 1, 50, 0, 2)


def test_of_two_that_start_at_once_one_goes_on() -> None:
    one, two = server(replace(ALONE, token=1)), server(replace(ALONE, token=2))
    gives_way = hears(one, Claim(1, 2))
    stays = hears(two, Claim(1, 1))
    assert gives_way == [Done("another server")]
    assert stays == []
    assert state(hears(two, Claim(1, 2))) == RunState("gathering", 2, 2, 0, 2)


def test_a_stop_before_it_has_begun_leaves_the_run_to_others() -> None:
    core = server()
    assert core.handle(StopAsked("stopped"), 0.0) == [Done("stopped")]


def test_a_server_takes_over_only_when_it_is_told_to() -> None:
    assert Rivals(3, 50).claim() == Claim(3, 50, takeover=False)
    assert Rivals(3, 50, takeover=True).claim() == Claim(3, 50, takeover=True)


@pytest.mark.parametrize(
    ("message", "verdict"),
    [
        # The server at work is number 5 with token 50.
        pytest.param(Claim(5, 50), Verdict.SAY_STATE, id="its own claim, after a new connection"),
        pytest.param(RunState("gathering", 5, 50), Verdict.NOTHING, id="its own state, just said"),
        pytest.param(RunState("running", 5, 50), Verdict.NOTHING, id="and when it runs"),
        pytest.param(RunState("away", 1, 50), Verdict.SAY_STATE, id="its own will, late"),
        pytest.param(Claim(1, 7), Verdict.ANSWER, id="somebody starts"),
        pytest.param(Claim(9, 7), Verdict.ANSWER, id="somebody starts with a high number"),
        pytest.param(RunState("away", 5, 7), Verdict.SAY_STATE, id="somebody who starts has vanished"),
        pytest.param(RunState("away", 9, 7), Verdict.SUPERSEDED, id="a later server has come and gone"),
        pytest.param(Claim(6, 7, takeover=True), Verdict.SUPERSEDED, id="a takeover"),
        pytest.param(Claim(5, 51, takeover=True), Verdict.SUPERSEDED, id="one of the same number, more luck"),
        pytest.param(Claim(5, 49, takeover=True), Verdict.ANSWER, id="one of the same number, less luck"),
        pytest.param(Claim(4, 99, takeover=True), Verdict.ANSWER, id="a takeover that has not heard of it"),
        pytest.param(RunState("running", 6, 7), Verdict.SUPERSEDED, id="a later server at work"),
        pytest.param(RunState("running", 5, 51), Verdict.SUPERSEDED, id="one that began at the same moment"),
        pytest.param(RunState("running", 5, 49), Verdict.SAY_STATE, id="the same, less luck"),
        pytest.param(RunState("paused", 4, 99), Verdict.SAY_STATE, id="an earlier server's state"),
        pytest.param(RunState("finished", 4, 99), Verdict.SAY_STATE, id="the end of an earlier run"),
    ],
)
def test_what_a_server_at_work_does_about_others(message: Claim | RunState, verdict: Verdict) -> None:
    assert Rivals(5, 50).hear(message, begun=True) is verdict


@pytest.mark.parametrize("takeover", [False, True])
@pytest.mark.parametrize("phase", ["gathering", "running", "away", "paused", "finished"])
def test_a_starting_server_decides_when_its_own_claim_comes_back(phase: str, takeover: bool) -> None:
    rivals = Rivals(1, 50, takeover=takeover)
    assert rivals.hear(RunState(phase, 7, 3), begun=False) is Verdict.NOTHING  # type: ignore[arg-type]
    assert rivals.incarnation == 8
    waits = phase in ("gathering", "running") and not takeover
    assert rivals.hear(rivals.claim(), begun=False) is (Verdict.WAIT if waits else Verdict.BEGIN)


def who_shares_a_bundle(**changes: object) -> ServerCore:
    return server(replace(ALONE, one_connection=True, **changes))  # type: ignore[arg-type]


def test_with_the_same_bundle_it_takes_no_last_will_for_a_death() -> None:
    core = who_shares_a_bundle()
    hears(core, RunState("away", 7, 3, 1, 2))  # it has ended the other's connection
    assert hears(core, Claim(1, 50)) == [StartTimer("claim", 5.0)]
    assert core.number_of_will == 1  # should it die now, its own will must not end the other
    core.handle(TimerFired("claim"), 5.0)
    assert state(hears(core, Claim(8, 50))) == RunState("gathering", 8, 50, 0, 2)  # nobody has come back
    assert core.number_of_will == 8


def test_with_the_same_bundle_it_leaves_when_the_other_has_ended_its_connection_twice() -> None:
    core = who_shares_a_bundle()
    for _ in range(2):
        hears(core, RunState("away", 7, 3, 1, 2))
        assert state(hears(core, Claim(8, 50))) is None
        last = core.handle(Online(), 0.1)
    assert last == [Done("another server")]


def test_lost_connections_alone_keep_no_server_from_a_run_that_nobody_serves() -> None:
    core = who_shares_a_bundle()
    for number in range(5):
        assert said(core.handle(Online(), number)) == [("", Claim(1, 50))]
    assert state(hears(core, Claim(1, 50))) is not None


def test_with_the_same_bundle_a_takeover_leaves_for_nobody() -> None:
    core = who_shares_a_bundle(takeover=True)
    for _ in range(5):
        hears(core, RunState("away", 7, 3, 1, 2))
        core.handle(Online(), 0.1)
    assert state(hears(core, Claim(8, 50, takeover=True))) == RunState("gathering", 8, 50, 0, 2)


def test_a_state_with_its_own_token_does_not_start_a_server() -> None:
    assert Rivals(1, 50).hear(RunState("away", 1, 50), begun=False) is Verdict.NOTHING


@pytest.mark.parametrize(
    ("takeover", "message", "verdict"),
    [
        (False, Claim(1, 51), Verdict.GIVE_WAY),
        (False, Claim(1, 49), Verdict.NOTHING),
        (True, Claim(1, 51), Verdict.NOTHING),
        (True, Claim(1, 51, takeover=True), Verdict.GIVE_WAY),
        (True, Claim(1, 49, takeover=True), Verdict.NOTHING),
    ],
)
def test_of_two_that_start_the_one_that_takes_over_goes_on_else_the_one_with_more_luck(
    takeover: bool, message: Claim, verdict: Verdict
) -> None:
    rivals = Rivals(1, 50, takeover=takeover)
    assert rivals.hear(message, begun=False) is verdict
    assert rivals.incarnation == 2


def test_numbers_only_rise() -> None:
    rivals = Rivals(9, 50)
    rivals.hear(RunState("paused", 3, 7), begun=False)
    assert rivals.incarnation == 9


def test_a_server_that_wakes_after_another_one_has_come_and_gone_ends() -> None:
    """Clients that have followed the other one take nothing more from this one."""
    core = server()
    hears(core, Claim(1, 50))
    assert hears(core, RunState("away", 4, 3, 0, 2)) == [Done("superseded")]


def test_a_server_that_comes_back_says_its_state_only_when_it_knows_that_nobody_has_followed_it() -> None:
    core = server()
    hears(core, Claim(1, 50))
    assert said(core.handle(Online(), 9.0)) == [("", Claim(1, 50))]
    assert state(hears(core, Claim(1, 50))) == RunState("gathering", 1, 50, 0, 2)
    assert said(core.handle(Online(), 10.0)) == [("", Claim(1, 50))]
    assert hears(core, RunState("gathering", 2, 7, 0, 2)) == [Done("superseded")]


def test_a_run_that_ends_while_a_server_starts_is_not_begun_again() -> None:
    core = server()
    hears(core, RunState("running", 7, 3, 1, 2))
    assert hears(core, RunState("finished", 7, 3, 2, 2)) == [Done("another server")]


@pytest.mark.parametrize("phase", ["away", "paused", "gathering", "running"])
def test_a_run_that_ends_while_a_server_waits_is_not_begun_again_whatever_it_was_before(phase: str) -> None:
    core = server()
    hears(core, RunState(phase, 7, 3, 1, 2))  # type: ignore[arg-type]
    assert hears(core, RunState("finished", 7, 3, 2, 2, "complete")) == [Done("another server")]


def begins_at_the_end() -> ServerCore:
    """A server that has just begun; the broker may have passed on before that that the run has ended."""
    core = server(replace(ALONE, takeover=True))
    hears(core, RunState("running", 7, 3, 1, 2))
    assert state(hears(core, Claim(8, 50, takeover=True))) == RunState("gathering", 8, 50, 0, 2)
    return core


def test_a_server_that_began_after_the_end_says_the_end_again_and_leaves() -> None:
    """Who listened has left. Who comes later, or has heard of this server, must hear of the end, too."""
    core = begins_at_the_end()
    assert hears(core, RunState("finished", 7, 3, 2, 2, "complete")) == [
        Publish("fl/3/r/state", RunState("finished", 8, 50, 2, 2, "complete"), retain=True),
        Done("another server"),
    ]


def test_a_server_that_began_before_the_end_goes_on() -> None:
    core = begins_at_the_end()
    hears(core, RunState("gathering", 8, 50, 0, 2))  # its own
    again = hears(core, RunState("finished", 7, 3, 2, 2, "complete"))
    assert again == [Publish("fl/3/r/state", RunState("gathering", 8, 50, 0, 2), retain=True)]


def test_a_run_that_was_over_before_a_server_came_may_be_gone_on_with() -> None:
    core = server()
    hears(core, RunState("finished", 7, 3, 2, 2, "complete"))
    hears(core, Claim(1, 50))
    core.handle(Online(), 1.0)  # and its first state was lost with the connection
    assert state(hears(core, RunState("finished", 7, 3, 2, 2, "complete"))) == RunState(
        "gathering", 8, 50, 0, 2
    )


def concluding() -> World:
    """A world whose server has closed the last round, and has said the claim that comes before the end."""
    world = World(has_rivals=True)
    while world.said["Claim"] < 2:
        world.do(next(world.busy()))
    assert world.rounds_done == world.plan.rounds
    assert world.said_last != "finished"
    return world


def test_the_end_of_a_run_is_said_when_a_claim_has_come_back() -> None:
    world = concluding()
    world.settle()
    assert world.said["Claim"] == 2
    assert [server.ended for server in world.servers] == ["complete"]


def test_a_server_that_another_one_followed_does_not_end_the_run() -> None:
    """It closed its last round while it was cut off; that one goes on from an earlier checkpoint."""
    world = concluding()
    world.rounds_done -= 1
    world.lose_server(world.servers[0])
    world.start_server(takeover=True)
    while world.servers[1].inbox:
        world.do("hear 1")
    world.start_client("a")  # which has heard of no server
    world.connect_server(world.servers[0])
    while world.servers[0].inbox:
        world.do("hear 0")
    assert world.servers[0].ended == "superseded"
    world.settle()
    assert world.servers[1].ended == "complete"


def test_a_server_whose_broker_stays_away_leaves_without_a_word_and_the_next_start_says_the_end() -> None:
    world = concluding()
    world.lose_server(world.servers[0])
    world.pass_time(END_S - 1)
    assert [server.ended for server in world.servers] == [None]
    world.pass_time(1)
    assert [server.ended for server in world.servers] == ["complete"]
    assert world.said_last == "away"
    world.settle()
    assert [server.ended for server in world.servers] == ["complete", "complete"]


@pytest.mark.parametrize("stop", [StopAsked("stopped"), Received("", StopRun("enough"), 10)])
def test_a_stop_does_not_take_back_that_a_run_is_complete(stop: StopAsked | Received) -> None:
    world = concluding()
    world.feed_server(world.server, stop)
    assert world.server.ended == "complete"
