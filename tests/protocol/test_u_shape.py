"""A U-shape in the two state machines: which message is due when, and what follows when it does not come."""

from dataclasses import replace

import pytest

from broker.machine.actions import Compute, ComputeDone, Online, Publish, Received, TimerFired
from broker.wire.messages import (
    Activations,
    Ask,
    Assignment,
    FeatureGradient,
    Features,
    Gradient,
    HeadUpdate,
    Hello,
    Message,
    Progress,
    Released,
    RunState,
    Scores,
    Standing,
)
from edge_client.actions import ClientAction
from edge_client.core import ClientCore
from edge_client.jobs import BackwardStep, FirstBatch, TopStep
from server_node.protocol.admission import check_greeting
from server_node.vocabulary.jobs import CloseRound, TailForward, TailStep, TailUpdate
from server_node.vocabulary.ledger import CONTROL, FLOWS, U_SHAPE_FLOWS
from server_node.vocabulary.plan import Plan, RoundPolicy
from tests.protocol.test_server_core import PLAN, Server, progress, said

D, F, P = 4, 2, 3
U_SHAPE = replace(PLAN, steps=4, local_steps=2, features_size=F)
"""Rounds of two clients of three, each with two local steps of two exchanges."""


def activations(step: int = 0, *, targets: bytes = b"", n: int = 2) -> Activations:
    return Activations(1, 1, step, 1, n, bytes(4 * D * n), targets)


def returned(step: int = 1, *, n: int = 2, size: int = 8 * F) -> FeatureGradient:
    return FeatureGradient(1, 1, step, 1, n, bytes(size), 0.5)


def features(step: int = 0) -> Features:
    return Features(1, 1, step, 1, bytes(8 * F))


def update() -> HeadUpdate:
    return HeadUpdate(1, 1, 1, 4, 0.0, bytes(4 * P))


class Played(Server):
    """A server in its first round, with the members `one` and `other`."""

    def __init__(self, policy: RoundPolicy | None = None) -> None:
        super().__init__(replace(U_SHAPE, round_policy=policy or U_SHAPE.round_policy))
        self.one, self.other, *_ = self.begin()

    def jobs_now(self) -> list[type[object]]:
        return [type(job) for job in self.jobs]


def test_an_assignment_names_the_codecs_of_features_and_counts_all_exchanges() -> None:
    server = Server(U_SHAPE)
    server.handle(Online())
    server.work()
    actions = [action for client in ("a", "b", "c") for action in server.hear(client, Hello(1, "same", 9))]
    (first, _) = (message for _, message in said(actions) if isinstance(message, Assignment))
    assert (first.steps, first.features) == (4, ([0], [0]))


def test_a_step_is_two_exchanges_and_one_update_of_the_tail() -> None:
    played = Played()
    one, other = played.one, played.other
    played.hear(one, activations())
    assert said(played.work()) == [(one, features())]
    played.hear(one, returned())  # it need not wait for the other's activations
    played.hear(other, activations())
    assert played.jobs[:1] == [TailStep(1, 0, ((one, activations(), 1.0),), {one: returned()})]
    assert said(played.work()) == [(one, Gradient(1, 1, 1, 1, 0.5, bytes(4 * D)))]
    assert played.jobs == [TailForward(1, 0, ((other, activations()),))]
    played.work()
    assert played.jobs_now() == []  # the tail's step waits for the other's gradient
    played.hear(other, returned())
    played.work()
    assert played.jobs == [TailUpdate(1, 0)]


def test_features_come_before_gradients_when_both_wait() -> None:
    played = Played()
    one, other = played.one, played.other
    played.hear(one, activations())
    played.hear(other, activations())  # while the tail works
    played.work()
    played.hear(one, returned())
    assert played.jobs_now() == [TailForward]
    played.work()
    assert played.jobs_now() == [TailStep]


def test_a_whole_round_counts_its_samples_once_and_each_flow() -> None:
    played = Played()
    for step in (0, 2):
        for client in (played.one, played.other):
            played.hear(client, activations(step))
            played.work()
            played.hear(client, returned(step + 1))
            played.work()
        played.work()
    for client in (played.one, played.other):
        played.hear(client, update())
    assert isinstance(played.jobs[0], CloseRound)
    assert played.ledger.rejected == {}
    flows = played.ledger.flows
    assert {name: flows[name].messages for name in (*FLOWS, *U_SHAPE_FLOWS)} == {
        "activations_up": 4, "gradient_down": 4, "head_update_up": 2, "head_state_down": 2,
        "features_down": 4, "feature_gradient_up": 4,
    }  # fmt: skip
    assert [flows[name].raw_float32_bytes for name in U_SHAPE_FLOWS] == [4 * 4 * 2 * F] * 2
    assert flows["features_down"].payload_bytes == flows["feature_gradient_up"].payload_bytes == 4 * 8 * F


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        pytest.param(activations(1), "order", id="activations where the gradient of features is due"),
        pytest.param(returned(n=1, size=4 * F), "shape", id="fewer samples than features were sent"),
        pytest.param(returned(size=8 * F - 1), "shape", id="a payload that is too short"),
        pytest.param(returned(3), "order", id="a step that is not due"),
    ],
)
def test_what_is_not_due_is_refused_and_the_member_goes_on(message: Message, reason: str) -> None:
    played = Played()
    played.hear(played.one, activations())
    played.work()
    played.hear(played.one, message)
    assert played.ledger.rejected == {reason: 1}
    played.hear(played.one, returned())
    assert played.jobs_now() == [TailStep]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        pytest.param(activations(targets=b"\0"), "shape", id="targets"),
        pytest.param(returned(0), "order", id="a gradient where activations are due"),
    ],
)
def test_what_does_not_begin_a_step_is_refused(message: Message, reason: str) -> None:
    played = Played()
    played.hear(played.one, message)
    assert played.ledger.rejected == {reason: 1}
    assert played.jobs == []


def test_in_split_learning_nobody_returns_a_gradient() -> None:
    server = Server()
    one, *_ = server.begin()
    before = server.ledger.flows[CONTROL].messages
    server.hear(one, returned(0))
    assert server.ledger.rejected == {"order": 1}
    assert server.ledger.flows[CONTROL].messages == before + 1


def test_features_that_were_lost_are_said_again_and_nothing_is_computed_twice() -> None:
    played = Played()
    played.hear(played.one, activations())
    played.work()
    asked = [m for _, m in said(played.wait(100.0)) if isinstance(m, Ask)]
    assert [ask.step for ask in asked] == [1, 0]  # of one the gradient is due, of the other the activations
    behind = progress(1, 0, Standing.ANSWERED)
    assert said(played.hear(played.one, behind)) == [(played.one, Features(1, 1, 0, 2, bytes(8 * F)))]
    assert played.jobs == []


def test_who_starts_anew_after_its_features_is_told_the_round_again_and_then_the_features() -> None:
    played = Played()
    one = played.one
    played.hear(one, activations())
    played.work()
    (ask,) = [m for name, m in said(played.wait(100.0)) if isinstance(m, Ask) and name == one]
    (again,) = said(played.hear(one, Progress(1, ask.number, 0, 0, Standing.MISSING)))
    assert isinstance(again[1], Assignment)
    played.hear(one, activations())
    assert played.jobs == []  # the tail has had this batch
    (ask,) = [m for name, m in said(played.wait(0.5)) if isinstance(m, Ask) and name == one]
    answers = said(played.hear(one, Progress(1, ask.number, 1, 0, Standing.ANSWERED)))
    assert [type(message) for _, message in answers] == [Features]


def test_who_is_dropped_between_the_halves_leaves_the_step_to_the_others() -> None:
    played = Played(RoundPolicy(2, deadline_s=50.0, minimum=1))
    one, other = played.one, played.other
    for client in (one, other):
        played.hear(client, activations())
        played.work()
    played.hear(one, returned())
    played.work()
    assert played.jobs == []
    actions = played.handle(TimerFired("deadline"))
    assert [name for name, message in said(actions) if isinstance(message, Released)] == [other]
    assert played.jobs == [TailUpdate(1, 0)]


def test_a_client_without_the_tasks_code_is_told_that_it_cannot_take_part() -> None:
    greeting = Hello(1, "", 9, wants_welcome=True)
    assert check_greeting(PLAN, greeting) is None
    error = check_greeting(U_SHAPE, greeting)
    assert error is not None
    assert error.reason == "scenario"


# The device.


ROUND = Assignment(1, 1, 1, 4, 0.1, ([], [], [], []), b"head", features=(["a"], ["b"]))


@pytest.fixture
def client() -> ClientCore:
    """A client that is connected and has greeted the server."""
    core = ClientCore("r", "c1", Hello(0, "same", 9))
    core.handle(Online(), 0.0)
    hears(core, RunState("running", 1, 0, 1, 5))
    return core


def hears(client: ClientCore, message: Message) -> list[ClientAction]:
    return client.handle(Received("", message, 10), 0.0)


def does(
    client: ClientCore, actions: list[ClientAction], answer: Activations | FeatureGradient | HeadUpdate
) -> object:
    """Let a client do its job, and publish what comes of it; gives the job."""
    (action,) = actions
    assert isinstance(action, Compute)
    (publish,) = client.handle(ComputeDone(action.job, answer), 0.0)
    assert isinstance(publish, Publish)
    assert publish.message == answer
    return action.job


def test_a_device_does_the_four_jobs_of_each_step(client: ClientCore) -> None:
    learned = Gradient(1, 1, 1, 1, 0.0, b"g")
    last = Gradient(1, 1, 3, 1, 0.0, b"g")
    assert does(client, hears(client, ROUND), activations()) == FirstBatch("c1", ROUND)
    assert does(client, hears(client, features()), returned()) == TopStep("c1", features())
    assert does(client, hears(client, learned), activations(2)) == BackwardStep("c1", learned, last=False)
    assert does(client, hears(client, features(2)), returned(3)) == TopStep("c1", features(2))
    assert does(client, hears(client, last), update()) == BackwardStep("c1", last, last=True)


def test_a_device_takes_no_answer_of_the_other_kind(client: ClientCore) -> None:
    does(client, hears(client, ROUND), activations())
    assert hears(client, Gradient(1, 1, 0, 1, 0.0, b"g")) == []
    does(client, hears(client, features()), returned())
    assert hears(client, features()) == []  # a duplicate
    assert hears(client, features(1)) == []


def test_in_split_learning_a_device_takes_no_features(client: ClientCore) -> None:
    does(client, hears(client, Assignment(1, 1, 1, 2, 0.1, ([], [], [], []), b"head")), activations())
    assert hears(client, features()) == []


def test_a_device_says_its_gradient_again_when_it_is_asked_to(client: ClientCore) -> None:
    does(client, hears(client, ROUND), activations())
    does(client, hears(client, features()), returned())
    (publish,) = hears(client, Ask(1, 1, 1, 1, resend=True))
    assert isinstance(publish, Publish)
    assert publish.message == FeatureGradient(1, 1, 1, 2, 2, bytes(8 * F), 0.5)


@pytest.mark.parametrize("plan", [PLAN, U_SHAPE], ids=["split", "u-shape"])
@pytest.mark.parametrize("step", [0, 3])
def test_scores_are_for_the_end_of_an_evaluation(plan: Plan, step: int) -> None:
    server = Server(plan)
    one, *_ = server.begin()
    server.hear(one, Scores(1, 1, step, 1, 5, 5.0))
    assert server.ledger.rejected == {"order": 1}
    assert one in server.core.members
