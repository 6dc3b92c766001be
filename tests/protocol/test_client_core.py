"""A client's state machine: no broker, no clock, no tensors."""

from typing import Literal

import msgspec
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
    Ask,
    Assignment,
    Gradient,
    HeadUpdate,
    Hello,
    Message,
    Progress,
    Rejected,
    Released,
    RunState,
    Standing,
    Status,
    Welcome,
)
from edge_client.actions import ClientAction, ProtocolWarning
from edge_client.core import ClientCore
from edge_client.jobs import BackwardStep, FirstBatch

HELLO = Hello(0, "same", 9)
RUNNING = RunState("running", 1, 0, 1, 5)


def hello(session: int = 1) -> Hello:
    return Hello(session, "same", 9)


UP, STATUS = "fl/3/r/u/c1", "fl/3/r/status/c1"


def assignment(number: int = 1, steps: int = 1, attempt: int = 1) -> Assignment:
    return Assignment(1, number, attempt, steps, 0.1, ([], [], [], []), b"head")


def gradient(number: int = 1, step: int = 0, attempt: int = 1) -> Gradient:
    return Gradient(1, number, step, attempt, 0.0, b"gradient")


def activations(number: int = 1, step: int = 0, attempt: int = 1) -> Activations:
    return Activations(1, number, step, attempt, 1, b"z", b"y")


def update(number: int = 1, attempt: int = 1) -> HeadUpdate:
    return HeadUpdate(1, number, attempt, 1, 0.0, b"delta")


def hears(client: ClientCore, message: Message) -> list[ClientAction]:
    return client.handle(Received("", message, 10), 0.0)


@pytest.fixture
def client() -> ClientCore:
    """A client that is connected and has greeted the server."""
    core = ClientCore("r", "c1", HELLO)
    core.handle(Online(), 0.0)
    hears(core, RUNNING)
    return core


def test_it_says_that_it_is_online_and_greets_a_server_that_is_there() -> None:
    core = ClientCore("r", "c1", HELLO)
    assert core.handle(Online(), 0.0) == [Publish(STATUS, Status(online=True, session=1), retain=True)]
    assert hears(core, RunState("gathering", 1, 0, 0, 5)) == [Publish(UP, hello())]
    assert hears(core, RUNNING) == []  # greeted already


def test_it_greets_again_when_the_server_still_gathers() -> None:
    core = ClientCore("r", "c1", HELLO)
    core.handle(Online(), 0.0)
    gathering = RunState("gathering", 1, 0, 0, 5)
    assert hears(core, gathering) == [Publish(UP, hello())]
    assert hears(core, gathering) == [Publish(UP, hello())]  # the first one may have been lost


def job_of(actions: list[ClientAction]) -> FirstBatch | BackwardStep:
    (action,) = actions
    assert isinstance(action, Compute)
    assert isinstance(action.job, (FirstBatch, BackwardStep))
    return action.job


def test_a_round_from_assignment_to_head_update(client: ClientCore) -> None:
    start = job_of(hears(client, assignment(steps=2)))
    assert start == FirstBatch("c1", assignment(steps=2))
    assert client.handle(ComputeDone(start, activations()), 0.0) == [Publish(UP, activations())]
    learn = job_of(hears(client, gradient()))
    assert learn == BackwardStep("c1", gradient(), last=False)
    assert client.handle(ComputeDone(learn, activations(step=1)), 0.0) == [Publish(UP, activations(step=1))]
    learn = job_of(hears(client, gradient(step=1)))
    assert learn == BackwardStep("c1", gradient(step=1), last=True)
    assert client.handle(ComputeDone(learn, update()), 0.0) == [Publish(UP, update())]


def progress(number: int, round_number: int, step: int, standing: Standing) -> list[ClientAction]:
    return [Publish(UP, Progress(1, number, round_number, step, standing))]


def test_a_duplicate_of_what_it_has_answered_is_ignored(client: ClientCore) -> None:
    client.handle(ComputeDone(job_of(hears(client, assignment())), activations()), 0.0)
    assert hears(client, assignment(attempt=2)) == []
    client.handle(ComputeDone(job_of(hears(client, gradient())), update()), 0.0)
    assert hears(client, gradient(attempt=2)) == []


def test_asked_it_says_how_far_it_is(client: ClientCore) -> None:
    assert hears(client, Ask(1, 7, 1, 0)) == progress(7, 0, 0, Standing.MISSING)
    job = job_of(hears(client, assignment()))
    assert hears(client, Ask(1, 8, 1, 0)) == progress(8, 1, 0, Standing.WORKING)
    client.handle(ComputeDone(job, activations()), 0.0)
    assert hears(client, Ask(1, 9, 1, 0)) == progress(9, 1, 0, Standing.ANSWERED)
    assert hears(client, Ask(1, 10, 1, 1)) == progress(10, 1, 0, Standing.MISSING)  # no gradient has come
    assert hears(client, Ask(1, 11, 2, 0)) == progress(11, 1, 0, Standing.MISSING)  # no second round


def test_it_sends_its_answer_again_only_when_asked_for_that(client: ClientCore) -> None:
    job = job_of(hears(client, assignment()))
    assert hears(client, Ask(1, 1, 1, 0, resend=True)) == progress(1, 1, 0, Standing.WORKING)
    client.handle(ComputeDone(job, activations()), 0.0)
    assert hears(client, Ask(1, 2, 1, 0, resend=True)) == [Publish(UP, activations(attempt=2))]
    client.handle(ComputeDone(job_of(hears(client, gradient())), update()), 0.0)
    assert hears(client, Ask(1, 3, 1, 1, resend=True)) == [Publish(UP, update(attempt=2))]
    assert hears(client, Ask(1, 4, 1, 0, resend=True)) == []  # an old question


def test_released_it_stops_working_and_greets_when_it_must(client: ClientCore) -> None:
    job = job_of(hears(client, assignment()))
    assert hears(client, Released(1, 1, greet=False)) == []
    assert client.handle(ComputeDone(job, activations()), 0.0) == []
    job_of(hears(client, assignment(2)))
    assert hears(client, Released(1, 1, greet=False)) == []  # of a round that is over anyway
    assert hears(client, Ask(1, 1, 2, 0)) == progress(1, 2, 0, Standing.WORKING)
    assert hears(client, Released(1, 2, greet=True)) == [Publish(UP, hello())]


def test_it_takes_nothing_from_a_server_that_another_has_followed(client: ClientCore) -> None:
    hears(client, RunState("running", 2, 0, 1, 5))
    assert hears(client, assignment()) == []
    assert hears(client, Ask(1, 1, 1, 0)) == []
    assert hears(client, Released(1, 0, greet=True)) == []
    assert hears(client, RUNNING) == []
    assert hears(client, RunState("finished", 1, 0, 5, 5, "complete")) == []


def test_it_greets_a_server_that_it_first_hears_of_by_an_assignment_and_then_serves_it(
    client: ClientCore,
) -> None:
    anew = msgspec.structs.replace(assignment(), server=2)
    assert hears(client, anew) == [Publish(UP, hello())]
    assert hears(client, RunState("running", 2, 0, 1, 5)) == []  # greeted already
    assert hears(client, Ask(2, 1, 1, 0)) == [Publish(UP, Progress(2, 1, 0, 0, Standing.MISSING))]
    assert job_of(hears(client, anew)) == FirstBatch("c1", anew)


def test_it_works_for_no_server_that_it_has_not_greeted() -> None:
    core = ClientCore("r", "c1", HELLO)
    core.handle(Online(), 0.0)
    assert hears(core, assignment()) == [Publish(UP, hello())]


@pytest.mark.parametrize("message", [Welcome(1, 1, 1, 1, 1, 1, 1, b""), HELLO, activations()])
def test_what_is_not_for_it_is_ignored(client: ClientCore, message: Message) -> None:
    assert hears(client, message) == []


def test_a_new_connection_has_a_new_session() -> None:
    core = ClientCore("r", "c1", HELLO, first_session=40)
    assert core.handle(Online(2), 0.0) == [Publish(STATUS, Status(online=True, session=42), retain=True)]
    assert hears(core, RUNNING) == [Publish(UP, hello(42))]


@pytest.mark.parametrize("phase", ["away", "paused"])
def test_a_server_that_was_away_is_greeted_again(
    client: ClientCore, phase: Literal["away", "paused"]
) -> None:
    assert hears(client, RunState(phase, 1)) == []
    assert hears(client, RUNNING) == [Publish(UP, hello())]


OTHER_VERSION = Undecodable("", WireError("version", "the server speaks protocol 3"))


def test_a_server_of_another_version_cannot_be_served() -> None:
    core = ClientCore("r", "c1", HELLO)
    core.handle(Online(), 0.0)
    assert core.handle(OTHER_VERSION, 0.0)[-1] == Done("version: the server speaks protocol 3")


def test_a_server_of_another_version_that_follows_one_that_paused_cannot_be_served(
    client: ClientCore,
) -> None:
    hears(client, RunState("paused", 1))
    assert client.handle(OTHER_VERSION, 0.0)[-1] == Done("version: the server speaks protocol 3")


def test_a_server_of_another_version_takes_no_client_from_one_that_is_at_work(client: ClientCore) -> None:
    (action,) = client.handle(OTHER_VERSION, 0.0)
    assert isinstance(action, Report)


def test_a_duplicate_that_comes_during_the_work_is_ignored(client: ClientCore) -> None:
    job = job_of(hears(client, assignment()))
    assert hears(client, assignment()) == []
    client.handle(ComputeDone(job, activations()), 0.0)
    job_of(hears(client, gradient()))
    assert hears(client, gradient()) == []


def test_a_gradient_of_another_round_is_ignored(client: ClientCore) -> None:
    client.handle(ComputeDone(job_of(hears(client, assignment(2))), activations(2)), 0.0)
    assert hears(client, gradient(1)) == []
    assert hears(client, gradient(3)) == []


def test_an_assignment_of_an_earlier_round_is_ignored(client: ClientCore) -> None:
    job_of(hears(client, assignment(2)))
    assert hears(client, assignment(1)) == []


def test_a_new_round_overtakes_the_old_ones_work(client: ClientCore) -> None:
    old = job_of(hears(client, assignment(1)))
    new = job_of(hears(client, assignment(2)))
    assert client.handle(ComputeDone(old, activations(1)), 0.0) == []
    assert client.handle(ComputeDone(new, activations(2)), 0.0) == [Publish(UP, activations(2))]


def test_after_a_lost_connection_it_greets_again(client: ClientCore) -> None:
    client.handle(ComputeDone(job_of(hears(client, assignment(3))), activations(3)), 0.0)
    client.handle(Online(), 0.0)
    assert hears(client, RUNNING) == [Publish(UP, hello())]


def test_a_restarted_server_is_greeted_and_may_begin_any_round_anew(client: ClientCore) -> None:
    client.handle(ComputeDone(job_of(hears(client, assignment(3))), activations(3)), 0.0)
    assert hears(client, RunState("gathering", 2, 0, 0, 5)) == [Publish(UP, hello())]
    anew = msgspec.structs.replace(assignment(3), server=2)
    assert job_of(hears(client, anew)) == FirstBatch("c1", anew)


def test_it_leaves_when_the_run_has_finished(client: ClientCore) -> None:
    assert hears(client, RunState("finished", 1, 0, 5, 5, "complete")) == [
        Publish(STATUS, Status(online=False, session=1), retain=True),
        Done("complete"),
    ]


def test_who_comes_after_the_end_leaves_and_says_why() -> None:
    core = ClientCore("r", "c1", HELLO)
    core.handle(Online(), 0.0)
    assert hears(core, RunState("finished", 3, 0, 5, 5, "complete"))[-1] == Done("complete")


@pytest.mark.parametrize("reason", ["scenario", "model", "roster", "version"])
def test_it_leaves_when_it_cannot_take_part(client: ClientCore, reason: str) -> None:
    assert hears(client, Rejected(reason, "why"))[-1] == Done(f"{reason}: why")


def test_another_rejection_is_only_reported(client: ClientCore) -> None:
    warning = ProtocolWarning("c1", "rejected by the server: order: why")
    assert hears(client, Rejected("order", "why")) == [Report(warning)]


def test_unreadable_messages_and_unusable_jobs_are_reported(client: ClientCore) -> None:
    (action,) = client.handle(Undecodable("", WireError("malformed", "noise")), 0.0)
    assert action == Report(ProtocolWarning("c1", "unreadable message from the server: malformed: noise"))
    job = job_of(hears(client, assignment()))
    warning, told = client.handle(ComputeDone(job, WireError("shape", "head of 3 bytes")), 0.0)
    what = "refused a message of the server: shape: head of 3 bytes"
    assert warning == Report(ProtocolWarning("c1", what))
    assert [told] == progress(0, 1, 0, Standing.REFUSED)
    assert hears(client, Ask(1, 5, 1, 0)) == progress(5, 1, 0, Standing.REFUSED)


def test_a_stop_takes_leave(client: ClientCore) -> None:
    assert client.handle(StopAsked("stopped"), 0.0) == [
        Publish(STATUS, Status(online=False, session=1), retain=True),
        Done("stopped"),
    ]
