"""Which of two servers of one run goes on."""

from dataclasses import replace

import pytest

from broker.machine.actions import Done, Online, Publish, Received, StopAsked, TimerFired
from broker.wire.messages import Claim, Message, RunState
from server_node.protocol.actions import ServerAction
from server_node.protocol.core import ServerCore
from server_node.protocol.ledger import Ledger
from server_node.protocol.plan import Plan
from tests.protocol.test_server_core import PLAN, said

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
    assert state(core.handle(TimerFired("claim"), 5.0)) == RunState("gathering", 8, 50, 0, 2)


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
