"""A client's state machine: no broker, no clock, no tensors."""

import pytest

from broker.machine.actions import (
    Compute,
    ComputeDone,
    Done,
    Online,
    Publish,
    Received,
    Report,
    StopAsked,
    Undecodable,
)
from broker.wire.errors import WireError
from broker.wire.messages import (
    Activations,
    Assignment,
    Gradient,
    HeadUpdate,
    Hello,
    Rejected,
    RunState,
    Status,
)
from edge_client.core import BackwardStep, ClientAction, ClientCore, FirstBatch, ProtocolWarning

HELLO = Hello("same", 9, 0)
RUNNING = RunState("running", "i1", 1, 5)
UP, STATUS = "fl/r/up/c1", "fl/r/status/c1"


def assignment(number: int = 1, steps: int = 1, attempt: int = 1) -> Assignment:
    return Assignment(number, attempt, steps, ([], [], [], []), b"head")


def gradient(number: int = 1, step: int = 0, attempt: int = 1) -> Gradient:
    return Gradient(number, step, attempt, 0.0, b"gradient")


def activations(number: int = 1, step: int = 0, attempt: int = 1) -> Activations:
    return Activations(number, step, attempt, 1, b"z", b"y")


def update(number: int = 1, attempt: int = 1) -> HeadUpdate:
    return HeadUpdate(number, attempt, 1, 0.0, b"delta")


def hears(client: ClientCore, message: RunState | Assignment | Gradient | Rejected) -> list[ClientAction]:
    return client.handle(Received("", message, 10))


@pytest.fixture
def client() -> ClientCore:
    """A client that is connected and has greeted the server."""
    core = ClientCore("r", "c1", HELLO)
    core.handle(Online())
    hears(core, RUNNING)
    return core


def test_it_says_that_it_is_online_and_greets_a_server_that_is_there() -> None:
    core = ClientCore("r", "c1", HELLO)
    assert core.handle(Online()) == [Publish(STATUS, Status(online=True), retain=True)]
    assert hears(core, RunState("gathering", "i1", 0, 5)) == [Publish(UP, HELLO)]
    assert hears(core, RUNNING) == []  # greeted already


def test_it_greets_again_when_the_server_still_gathers() -> None:
    core = ClientCore("r", "c1", HELLO)
    core.handle(Online())
    gathering = RunState("gathering", "i1", 0, 5)
    assert hears(core, gathering) == [Publish(UP, HELLO)]
    assert hears(core, gathering) == [Publish(UP, HELLO)]  # the first one may have been lost


def job_of(actions: list[ClientAction]) -> FirstBatch | BackwardStep:
    (action,) = actions
    assert isinstance(action, Compute)
    assert isinstance(action.job, (FirstBatch, BackwardStep))
    return action.job


def test_a_round_from_assignment_to_head_update(client: ClientCore) -> None:
    start = job_of(hears(client, assignment(steps=2)))
    assert start == FirstBatch("c1", assignment(steps=2))
    assert client.handle(ComputeDone(start, activations())) == [Publish(UP, activations())]
    learn = job_of(hears(client, gradient()))
    assert learn == BackwardStep("c1", gradient(), last=False)
    assert client.handle(ComputeDone(learn, activations(step=1))) == [Publish(UP, activations(step=1))]
    learn = job_of(hears(client, gradient(step=1)))
    assert learn == BackwardStep("c1", gradient(step=1), last=True)
    assert client.handle(ComputeDone(learn, update())) == [Publish(UP, update())]


def test_asked_again_it_repeats_its_answer(client: ClientCore) -> None:
    client.handle(ComputeDone(job_of(hears(client, assignment())), activations()))
    assert hears(client, assignment(attempt=2)) == [Publish(UP, activations(attempt=2))]
    client.handle(ComputeDone(job_of(hears(client, gradient())), update()))
    assert hears(client, gradient(attempt=2)) == [Publish(UP, update(attempt=2))]
    assert hears(client, assignment(attempt=3)) == [Publish(UP, update(attempt=3))]


def test_a_duplicate_that_comes_during_the_work_is_ignored(client: ClientCore) -> None:
    job = job_of(hears(client, assignment()))
    assert hears(client, assignment()) == []
    client.handle(ComputeDone(job, activations()))
    job_of(hears(client, gradient()))
    assert hears(client, gradient()) == []


def test_a_gradient_of_another_round_is_ignored(client: ClientCore) -> None:
    client.handle(ComputeDone(job_of(hears(client, assignment(2))), activations(2)))
    assert hears(client, gradient(1)) == []
    assert hears(client, gradient(3)) == []


def test_an_assignment_of_an_earlier_round_is_ignored(client: ClientCore) -> None:
    job_of(hears(client, assignment(2)))
    assert hears(client, assignment(1)) == []


def test_a_new_round_overtakes_the_old_ones_work(client: ClientCore) -> None:
    old = job_of(hears(client, assignment(1)))
    new = job_of(hears(client, assignment(2)))
    assert client.handle(ComputeDone(old, activations(1))) == []
    assert client.handle(ComputeDone(new, activations(2))) == [Publish(UP, activations(2))]


def test_after_a_lost_connection_it_greets_again_and_says_which_round_it_holds(client: ClientCore) -> None:
    client.handle(ComputeDone(job_of(hears(client, assignment(3))), activations(3)))
    client.handle(Online())
    assert hears(client, RUNNING) == [Publish(UP, Hello("same", 9, 3))]


def test_a_restarted_server_is_greeted_and_may_begin_any_round_anew(client: ClientCore) -> None:
    client.handle(ComputeDone(job_of(hears(client, assignment(3))), activations(3)))
    assert hears(client, RunState("gathering", "i2", 0, 5)) == [Publish(UP, HELLO)]
    assert job_of(hears(client, assignment(3))) == FirstBatch("c1", assignment(3))


def test_it_waits_while_the_server_is_away(client: ClientCore) -> None:
    assert hears(client, RunState("away", "i1")) == []


def test_it_leaves_when_the_run_has_finished(client: ClientCore) -> None:
    assert hears(client, RunState("finished", "i1", 5, 5, "complete")) == [
        Publish(STATUS, Status(online=False), retain=True),
        Done("complete"),
    ]


def test_the_retained_end_of_an_earlier_run_is_no_reason_to_leave() -> None:
    core = ClientCore("r", "c1", HELLO)
    core.handle(Online())
    assert hears(core, RunState("finished", "yesterday", 5, 5, "complete")) == []


@pytest.mark.parametrize("reason", ["scenario", "roster"])
def test_it_leaves_when_it_cannot_take_part(client: ClientCore, reason: str) -> None:
    assert hears(client, Rejected(reason, "why"))[-1] == Done(f"{reason}: why")


def test_another_rejection_is_only_reported(client: ClientCore) -> None:
    (action,) = hears(client, Rejected("order", "why"))
    assert isinstance(action, Report)


def test_unreadable_messages_and_unusable_jobs_are_reported(client: ClientCore) -> None:
    (action,) = client.handle(Undecodable("", WireError("malformed", "noise")))
    assert action == Report(ProtocolWarning("c1", "unreadable message from the server: malformed: noise"))
    job = job_of(hears(client, assignment()))
    (action,) = client.handle(ComputeDone(job, WireError("shape", "head of 3 bytes")))
    assert isinstance(action, Report)
    assert hears(client, assignment(attempt=2)) == []


def test_a_stop_takes_leave(client: ClientCore) -> None:
    assert client.handle(StopAsked("stopped")) == [
        Publish(STATUS, Status(online=False), retain=True),
        Done("stopped"),
    ]
