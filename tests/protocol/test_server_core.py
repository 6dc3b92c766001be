"""The server's state machine: no broker, no clock, no tensors."""

import math
from dataclasses import replace

import pytest

from broker.codecs import Float32
from broker.codecs.targets import Labels
from broker.machine.actions import (
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
from broker.wire import topics
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
)
from scenarios.schema.flows import Codecs
from server_node.protocol.cohort import ASK
from server_node.protocol.core import ServerCore
from server_node.protocol.exchange import MAX_RESENDS, MAX_UNANSWERED
from server_node.protocol.round_trip import RoundTrip
from server_node.vocabulary.actions import ServerAction, ServerEvent
from server_node.vocabulary.jobs import (
    CloseRound,
    EncodeHead,
    HeadEncoded,
    RoundClosed,
    TailForward,
    TailForwarded,
    TailJob,
    TailStep,
    TailStepped,
    TailUpdate,
)
from server_node.vocabulary.ledger import Ledger
from server_node.vocabulary.plan import Plan, RoundPolicy
from server_node.vocabulary.reports import Dropped, RoundReport

D, P = 4, 3
FLEET = ("a", "b", "c")
CODECS = Codecs(Float32(), Float32(), Float32(), Float32())
PLAN = Plan(
    run="r",
    incarnation=1,
    digest="same",
    seed=1,
    clients=FLEET,
    rounds=2,
    cohort=2,
    round_policy=RoundPolicy(2),
    steps=1,
    local_steps=1,
    codecs=CODECS,
    cut_size=D,
    head_size=P,
    batch_size=2,
    targets=Labels(10),
    evaluate_every=2,
    rejoin_s=5.0,
    retry_s=600.0,
    alone=True,
)
HEAD = bytes(4 * P)


class Server:
    """A server core whose worker is played by the test."""

    def __init__(self, plan: Plan = PLAN, encoded: HeadEncoded = HeadEncoded(HEAD)) -> None:  # noqa: B008
        self.plan = plan
        self.encoded = encoded
        self.ledger = Ledger()
        self.core = ServerCore(plan, self.ledger)
        self.jobs: list[TailJob] = []
        self.now_s = 0.0

    def handle(self, event: ServerEvent) -> list[ServerAction]:
        actions = self.core.handle(event, self.now_s)
        self.jobs += [action.job for action in actions if isinstance(action, Compute)]
        return actions

    def hear(self, client: str, message: Message) -> list[ServerAction]:
        return self.handle(Received(client, message, 10))

    def wait(self, seconds: float) -> list[ServerAction]:
        """Let time pass, and then the timer fire that asks the silent."""
        self.now_s += seconds
        return self.handle(TimerFired(ASK))

    def work(self) -> list[ServerAction]:
        """Do the oldest job, as the tail would."""
        job = self.jobs.pop(0)
        match job:
            case EncodeHead():
                return self.handle(ComputeDone(job, self.encoded))
            case TailStep(batches=batches):
                done = TailStepped(
                    {name: (bytes(4 * D), 0.5) for name, _, _ in batches}, 1.0 * len(batches), len(batches)
                )
                return self.handle(ComputeDone(job, done))
            case TailForward(batches=forward):
                features = {name: bytes(4 * self.plan.features_size * m.count) for name, m in forward}
                return self.handle(ComputeDone(job, TailForwarded({**features})))
            case TailUpdate():
                return self.handle(ComputeDone(job, None))
            case CloseRound(evaluate=evaluate):
                return self.handle(ComputeDone(job, RoundClosed(self.encoded, 0.5 if evaluate else None, {})))
            case _:
                raise AssertionError(job)

    def begin(self) -> list[str]:
        """Let everybody join; gives the first round's cohort."""
        self.handle(Online())
        self.work()
        actions: list[ServerAction] = []
        for client in FLEET:
            actions = self.hear(client, hello())
        return [name for name, message in said(actions) if isinstance(message, Assignment)]


def said(actions: list[ServerAction]) -> list[tuple[str, Message]]:
    return [
        (topics.parse(action.topic).client, action.message)
        for action in actions
        if isinstance(action, Publish)
    ]


def reports(actions: list[ServerAction]) -> list[object]:
    return [action.fact for action in actions if isinstance(action, Report)]


def hello() -> Hello:
    return Hello(1, "same", 9)


def progress(number: int, step: int, standing: Standing, question: int = 1) -> Progress:
    return Progress(1, question, number, step, standing)


def activations(number: int = 1, step: int = 0, n: int = 1) -> Activations:
    return Activations(1, number, step, 1, n, bytes(4 * D * n), bytes((n * 4 + 7) // 8))


def update(number: int = 1, samples: int = 1) -> HeadUpdate:
    return HeadUpdate(1, number, 1, samples, 0.25, bytes(4 * P))


def test_it_waits_for_the_whole_fleet() -> None:
    server = Server()
    assert said(server.handle(Online())) == [("", RunState("gathering", 1, 0, 0, 2))]
    server.work()
    assert not [m for _, m in said(server.hear("a", hello())) if isinstance(m, Assignment)]
    assert not [m for _, m in said(server.hear("b", hello())) if isinstance(m, Assignment)]
    actions = server.hear("c", hello())
    assert len([m for _, m in said(actions) if isinstance(m, Assignment)]) == 2


def test_when_the_fleet_had_its_time_a_cohort_is_enough() -> None:
    server = Server()
    server.handle(Online())
    server.work()
    server.hear("a", hello())
    assert said(server.handle(TimerFired("join"))) == [("", RunState("gathering", 1, 0, 0, 2))]
    actions = server.hear("c", hello())
    assert [name for name, m in said(actions) if isinstance(m, Assignment)] == ["a", "c"]


def test_the_cohort_hangs_on_the_seed_alone() -> None:
    assert Server().begin() == Server().begin()
    cohorts = {tuple(Server(replace(PLAN, seed=seed)).begin()) for seed in range(20)}
    assert len(cohorts) == 3


def test_a_round_from_assignment_to_report() -> None:
    server = Server()
    one, two = server.begin()
    server.hear(one, activations())
    server.hear(two, activations())  # the tail is busy with the first
    first = server.work()
    assert said(first) == [(one, Gradient(1, 1, 0, 1, 0.5, bytes(4 * D)))]
    assert said(server.work()) == [(two, Gradient(1, 1, 0, 1, 0.5, bytes(4 * D)))]
    assert server.jobs == [TailUpdate(1, 0)]
    server.work()
    server.hear(one, update())
    server.hear(two, update())
    assert server.jobs == [CloseRound(1, ((one, update(), 1.0), (two, update(), 1.0)), evaluate=False)]
    actions = server.work()
    expected = RoundReport(
        round=1,
        loss=1.0,
        metric=None,
        clients=2,
        client_steps=2,
        quantization_error=0.25,
        staleness=0.0,
        online=3,
    )
    assert reports(actions) == [expected]
    assert len([m for _, m in said(actions) if isinstance(m, Assignment) and m.round == 2]) == 2


def test_batches_that_wait_go_through_the_tail_together() -> None:
    server = Server(replace(PLAN, round_policy=RoundPolicy(3)))
    server.begin()
    server.hear("c", activations())
    server.hear("b", activations())
    server.hear("a", activations())
    server.work()
    job = server.jobs[0]
    assert isinstance(job, TailStep)
    assert [name for name, _, _ in job.batches] == ["a", "b"]


def test_each_round_tells_its_learning_rate() -> None:
    server = Server(replace(PLAN, head_lr_in=lambda number: 1.0 / number))
    first = server.begin()
    assignments = [m for _, m in said(run_round(server, first, 1)) if isinstance(m, Assignment)]
    assert [m.head_lr for m in assignments] == [0.5, 0.5]


def run_round(server: Server, cohort: list[str], number: int) -> list[ServerAction]:
    actions: list[ServerAction] = []
    for client in cohort:
        server.hear(client, activations(number))
    while server.jobs:
        actions = server.work()
    for client in cohort:
        server.hear(client, update(number))
    while server.jobs:
        actions = server.work()
    return actions


def test_the_last_round_is_evaluated_and_ends_the_run() -> None:
    server = Server()
    actions = run_round(server, server.begin(), 1)
    cohort = [name for name, message in said(actions) if isinstance(message, Assignment)]
    actions = run_round(server, cohort, 2)
    assert [fact.metric for fact in reports(actions) if isinstance(fact, RoundReport)] == [0.5]
    assert actions[-1] == Done("complete")
    assert said(actions)[-1] == ("", RunState("finished", 1, 0, 2, 2, "complete"))
    assert server.hear(cohort[0], update(2)) == []


def test_steps_wait_for_the_whole_cohort() -> None:
    server = Server(replace(PLAN, steps=2, local_steps=2))
    one, two = server.begin()
    server.hear(one, activations(step=0))
    server.work()
    server.hear(one, activations(step=1))
    assert server.jobs == []  # the tail is not stepped before the slower client's step 0
    server.hear(two, activations(step=0))
    server.work()
    assert server.jobs == [TailUpdate(1, 0)]
    server.work()
    assert server.jobs == [TailStep(1, 1, ((one, activations(step=1), 1.0),))]


def test_a_duplicate_is_counted_and_never_answered_with_a_tensor() -> None:
    server = Server()
    one, _ = server.begin()
    server.hear(one, activations())
    assert said(server.hear(one, activations())) == []  # it waits for the tail
    server.work()
    assert said(server.hear(one, activations())) == []
    server.hear(one, update())
    assert said(server.hear(one, update())) == []
    assert server.ledger.duplicates == 3


def test_who_repeats_a_step_that_was_answered_is_asked_what_it_lacks() -> None:
    server = Server()
    one, _ = server.begin()
    server.hear(one, activations())
    server.work()
    server.hear(one, activations())
    assert said(server.wait(1.0)) == [(one, Ask(1, 1, 1, 1))]
    answer = said(server.hear(one, progress(1, 0, Standing.ANSWERED)))
    assert answer == [(one, Gradient(1, 1, 0, 2, 0.5, bytes(4 * D)))]


def test_a_reordered_step_is_rejected() -> None:
    server = Server(replace(PLAN, steps=3, local_steps=3))
    one, _ = server.begin()
    server.handle(TimerFired(f"quiet:{one}"))
    (answer,) = said(server.hear(one, activations(step=1)))
    assert answer[0] == one
    assert isinstance(answer[1], Rejected)
    assert answer[1].reason == "order"
    server.hear(one, update())
    server.hear(one, activations(number=7))
    assert server.ledger.rejected == {"order": 3}


def test_a_late_answer_is_discarded_and_counted() -> None:
    server = Server()
    cohort = server.begin()
    outsider = next(client for client in FLEET if client not in cohort)
    assert server.hear(outsider, activations()) == []
    run_round(server, cohort, 1)
    server.hear(cohort[0], update(1))
    assert server.ledger.discarded_late == 2


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        pytest.param(Activations(1, 1, 0, 1, 1, bytes(4 * D + 1), bytes(1)), "shape", id="payload too long"),
        pytest.param(Activations(1, 1, 0, 1, 1, b"", bytes(1)), "shape", id="payload empty"),
        pytest.param(Activations(1, 1, 0, 1, 2, bytes(8 * D), b""), "shape", id="targets missing"),
        pytest.param(Activations(1, 1, 0, 1, 3, bytes(12 * D), bytes(2)), "shape", id="batch too large"),
        pytest.param(
            Assignment(1, 1, 1, 1, 0.1, ([], [], [], []), HEAD), "direction", id="a server's message"
        ),
        pytest.param(Hello(1, "other", 9), "scenario", id="another scenario"),
    ],
)
def test_what_does_not_fit_is_rejected_and_starts_no_job(message: Message, reason: str) -> None:
    server = Server()
    one, two = server.begin()
    server.handle(TimerFired(f"quiet:{one}"))
    answers = said(server.hear(one, message))
    assert [(name, m.reason) for name, m in answers if isinstance(m, Rejected)] == [(one, reason)]
    assert server.jobs == []
    assert server.ledger.rejected == {reason: 1}
    run_round(server, [one, two], 1)


def test_a_stranger_is_rejected() -> None:
    server = Server()
    server.begin()
    ((name, answer),) = said(server.hear("mallory", hello()))
    why = "roster: 'mallory' is no client of this run; the fleet has 3 clients: a, b, c"
    assert (name, answer) == ("mallory", Rejected("roster", why))


def test_a_flood_of_bad_messages_gets_one_answer_and_starts_one_timer() -> None:
    server = Server()
    server.begin()
    actions: list[ServerAction] = []
    for number in range(1000):
        actions += server.handle(Undecodable(f"m{number}", WireError("malformed", "noise")))
    assert len(said(actions)) == 1
    assert len([action for action in actions if isinstance(action, StartTimer)]) == 1
    assert server.ledger.rejected == {"malformed": 1000}
    server.handle(TimerFired("quiet:"))
    assert len(said(server.handle(Undecodable("m1", WireError("malformed", "noise"))))) == 1


def test_a_flood_of_greetings_is_answered_once_and_again_when_the_quiet_ends() -> None:
    server = Server()
    one, _ = server.begin()
    server.handle(TimerFired(f"quiet:{one}"))
    answers: list[tuple[str, Message]] = []
    for _ in range(1000):
        answers += said(server.hear(one, hello()))
    assert answers == [(one, Ask(1, 1, 1, 0))]
    assert said(server.handle(TimerFired(f"quiet:{one}"))) == [(one, Ask(1, 2, 1, 0))]


def test_a_greeting_held_back_is_forgotten_when_the_client_vanishes() -> None:
    server = Server()
    one, _ = server.begin()
    server.hear(one, hello())
    server.hear(one, Status(online=False, session=1))
    server.handle(TimerFired(f"quiet:{one}"))
    assert Dropped(1, one) in reports(server.handle(TimerFired(f"rejoin:{one}")))


def test_a_refused_batch_drops_its_client_from_the_round_only() -> None:
    server = Server()
    one, two = server.begin()
    server.hear(one, activations())
    job = server.jobs.pop()
    actions = server.handle(ComputeDone(job, TailStepped({one: WireError("range", "code 9")}, 0.0, 0)))
    assert Dropped(1, one) in reports(actions)
    server.hear(two, activations())
    while server.jobs:
        server.work()
    server.hear(two, update())
    actions = server.work()
    (report,) = reports(actions)
    assert isinstance(report, RoundReport)
    assert report.clients == 1


def test_silence_is_answered_by_questions_that_come_ever_more_rarely_and_at_last_by_going_on() -> None:
    server = Server()
    one, two = server.begin()
    finish_member(server, two)
    assert said(server.wait(29.0)) == []  # it may just be slow
    asked_s: list[float] = []
    actions: list[ServerAction] = []
    while not reports(actions):
        actions = server.wait(1.0)
        asked_s += [server.now_s for _, message in said(actions) if isinstance(message, Ask)]
    assert asked_s == [30, 90, 210, 450, 930, *range(1530, 12331, 600)]
    assert len(asked_s) == MAX_UNANSWERED
    assert said(actions)[0] == (one, Released(1, 1, greet=True))
    assert Dropped(1, one) in reports(actions)
    assert isinstance(server.jobs[0], TailUpdate)


def test_who_was_dropped_for_its_silence_is_there_again_when_it_speaks() -> None:
    server = Server()
    one, two = server.begin()
    for _ in range(MAX_UNANSWERED + 1):
        server.wait(700.0)
        server.hear(two, progress(1, 0, Standing.WORKING))
    server.hear(one, hello())
    actions = run_round(server, [two], 1)
    assert one in {name for name, message in said(actions) if isinstance(message, Assignment)} | set(FLEET)
    assert [fact.online for fact in reports(actions) if isinstance(fact, RoundReport)] == [3]


def test_who_is_at_work_is_left_in_peace() -> None:
    server = Server()
    one, _ = server.begin()
    for _ in range(100):
        asked = [message for name, message in said(server.wait(700.0)) if name == one]
        assert [type(message) for message in asked] == [Ask]
        assert said(server.hear(one, progress(1, 0, Standing.WORKING))) == []


def test_only_what_is_missing_is_said_again() -> None:
    server = Server()
    one, two = server.begin()
    assert said(server.wait(30.0)) == [(one, Ask(1, 1, 1, 0)), (two, Ask(1, 1, 1, 0))]
    (answer,) = said(server.hear(one, progress(0, 0, Standing.MISSING)))
    assert isinstance(answer[1], Assignment)
    assert answer[1].attempt == 2
    assert said(server.hear(two, progress(1, 0, Standing.ANSWERED))) == [(two, Ask(1, 2, 1, 0, resend=True))]
    server.hear(two, activations())
    server.work()
    assert server.wait(30.0)
    assert said(server.hear(two, progress(1, 1, Standing.WORKING, question=3))) == []
    (answer,) = said(server.hear(two, progress(1, 0, Standing.ANSWERED, question=3)))
    assert answer[1] == Gradient(1, 1, 0, 2, 0.5, bytes(4 * D))


def test_an_answer_to_an_old_question_proves_nothing() -> None:
    server = Server()
    one, _ = server.begin()
    server.wait(30.0)
    server.hear(one, activations())  # crosses the question
    server.work()
    assert said(server.hear(one, progress(1, 0, Standing.ANSWERED))) == []


def test_a_message_that_never_comes_through_costs_its_receiver_the_round() -> None:
    server = Server()
    one, _ = server.begin()
    sent: list[Message] = []
    for _ in range(MAX_RESENDS + 1):
        sent += [message for _, message in said(server.hear(one, progress(0, 0, Standing.MISSING)))]
    assert [type(message).__name__ for message in sent] == ["Assignment"] * MAX_RESENDS + ["Released"]


def test_who_cannot_use_what_it_was_sent_is_released() -> None:
    server = Server()
    one, _ = server.begin()
    actions = server.hear(one, progress(1, 0, Standing.REFUSED))
    assert (one, Released(1, 1, greet=False)) in said(actions)
    assert Dropped(1, one) in reports(actions)


def test_waits_follow_how_long_a_client_usually_takes() -> None:
    server = Server(replace(PLAN, steps=3, local_steps=3))
    one, two = server.begin()
    for step in (0, 1):
        server.now_s += 100.0
        server.hear(one, activations(step=step))
        server.hear(two, activations(step=step))
        while server.jobs:
            server.work()
    usual = RoundTrip()
    usual.observe(100.0)
    usual.observe(100.0)
    assert said(server.wait(usual.wait_s - 1)) == []
    assert said(server.wait(1.0)) == [(one, Ask(1, 1, 1, 2)), (two, Ask(1, 1, 1, 2))]


def test_an_old_will_that_arrives_late_harms_nobody() -> None:
    server = Server()
    one, _ = server.begin()
    server.hear(one, Status(online=True, session=5))
    assert server.hear(one, Status(online=False, session=4)) == []
    assert [type(action) for action in server.hear(one, Status(online=False, session=5))] == [StartTimer]


def test_what_was_meant_for_an_earlier_server_is_late() -> None:
    server = Server(replace(PLAN, incarnation=2))
    one, _ = server.begin()
    assert server.hear(one, activations()) == []
    assert server.hear(one, Progress(1, 1, 1, 0, Standing.MISSING)) == []
    assert server.ledger.discarded_late == 2


def test_a_vanished_member_is_given_time_then_the_round_goes_on() -> None:
    server = Server()
    one, _ = server.begin()
    actions = server.hear(one, Status(online=False, session=1))
    assert StartTimer(f"rejoin:{one}", 5.0) in actions
    assert Dropped(1, one) in reports(server.handle(TimerFired(f"rejoin:{one}")))


def test_who_vanishes_after_its_update_still_counts() -> None:
    server = Server()
    one, two = server.begin()
    finish_member(server, one)
    server.hear(one, Status(online=False, session=1))
    server.hear(two, activations())
    while server.jobs:
        server.work()
    server.hear(two, update())
    assert isinstance(server.jobs[0], CloseRound)
    assert reports(server.handle(TimerFired(f"rejoin:{one}"))) == []  # while the round is being closed
    assert closed(server.work()) == [2]


def test_a_member_that_comes_back_in_time_stays() -> None:
    server = Server()
    one, _ = server.begin()
    server.handle(TimerFired(f"quiet:{one}"))
    server.hear(one, Status(online=False, session=1))
    assert said(server.hear(one, hello())) == [(one, Ask(1, 1, 1, 0))]
    assert reports(server.handle(TimerFired(f"rejoin:{one}"))) == []


def test_a_device_that_lost_its_state_starts_its_round_again() -> None:
    server = Server()
    one, _ = server.begin()
    server.handle(TimerFired(f"quiet:{one}"))
    server.hear(one, activations())
    server.work()
    assert said(server.hear(one, hello())) == [(one, Ask(1, 1, 1, 1))]
    (answer,) = said(server.hear(one, progress(0, 0, Standing.MISSING)))
    assert isinstance(answer[1], Assignment)
    assert said(server.hear(one, activations())) == []  # the same again; it has been through the tail
    assert said(server.wait(1.0)) == [(one, Ask(1, 2, 1, 1))]
    (answer,) = said(server.hear(one, progress(1, 0, Standing.ANSWERED, question=2)))
    assert isinstance(answer[1], Gradient)


def test_a_device_that_lost_several_steps_leaves_the_round() -> None:
    server = Server(replace(PLAN, round_policy=RoundPolicy(1), steps=3, local_steps=3))
    (one,) = server.begin()
    server.handle(TimerFired(f"quiet:{one}"))
    for step in (0, 1):
        server.hear(one, activations(step=step))
        while server.jobs:
            server.work()
    assert said(server.hear(one, hello())) == [(one, Ask(1, 1, 1, 2))]
    assert Dropped(1, one) in reports(server.hear(one, progress(0, 0, Standing.MISSING)))


def test_after_its_own_connection_was_lost_the_server_asks_all_who_owe() -> None:
    server = Server()
    one, two = server.begin()
    server.hear(one, activations())
    server.work()
    answers = said(server.handle(Online()))
    assert answers[1:] == [(one, Ask(1, 1, 1, 1)), (two, Ask(1, 1, 1, 0))]
    assert isinstance(answers[0][1], RunState)


def test_a_stop_pauses_the_run_at_once() -> None:
    server = Server()
    server.begin()
    actions = server.handle(StopAsked("stopped"))
    assert said(actions) == [("", RunState("paused", 1, 0, 1, 2, "stopped"))]
    assert actions[-1] == Done("stopped")


def test_every_byte_is_in_one_flow() -> None:
    server = Server()
    cohort = server.begin()
    run_round(server, cohort, 1)
    flows = server.ledger.flows
    assert flows["activations_up"].messages == 2
    assert flows["activations_up"].wire_bytes == 20
    assert flows["activations_up"].raw_float32_bytes == 2 * 4 * D
    assert flows["head_update_up"].payload_bytes == 2 * 4 * P
    assert flows["gradient_down"].payload_bytes == 2 * 4 * D
    assert flows["head_state_down"].messages == 4  # two rounds have begun


def finish_member(server: Server, client: str, number: int = 1) -> list[ServerAction]:
    """Let one member do its whole round."""
    actions: list[ServerAction] = []
    for message in (activations(number), update(number)):
        actions += server.hear(client, message)
        while server.jobs:
            actions += server.work()
    return actions


def closed(actions: list[ServerAction]) -> list[int]:
    """Give the clients of each round that was closed."""
    return [fact.clients for fact in reports(actions) if isinstance(fact, RoundReport)]


def test_deadline_makes_do_with_the_minimum() -> None:
    server = Server(replace(PLAN, round_policy=RoundPolicy(3, deadline_s=4.0, minimum=2)))
    server.handle(Online())
    server.work()
    actions = [action for client in FLEET for action in server.hear(client, hello())]
    assert StartTimer("deadline", 4.0) in actions
    assert closed(finish_member(server, "a")) == []
    assert reports(server.handle(TimerFired("deadline"))) == []  # one is fewer than two
    actions = finish_member(server, "b")
    assert closed(actions) == [2]
    assert Dropped(1, "c") in reports(actions)
    server.hear("c", activations(1))
    assert server.ledger.discarded_late == 1


def test_without_the_deadlines_timer_the_round_waits_for_all() -> None:
    server = Server(replace(PLAN, round_policy=RoundPolicy(3, deadline_s=4.0, minimum=2)))
    server.begin()
    assert closed(finish_member(server, "a")) == []
    assert closed(finish_member(server, "b")) == []
    assert closed(finish_member(server, "c")) == [3]


def test_over_selection_takes_the_first_and_discards_the_rest() -> None:
    server = Server(replace(PLAN, round_policy=RoundPolicy(3, enough=2)))
    assert server.begin() == ["a", "b", "c"]
    finish_member(server, "b")
    actions = finish_member(server, "c")
    assert closed(actions) == [2]
    assert Dropped(1, "a") in reports(actions)
    server.hear("a", activations(1))
    assert server.ledger.discarded_late == 1


def test_over_selection_holds_at_every_step() -> None:
    server = Server(replace(PLAN, round_policy=RoundPolicy(3, enough=2), steps=2, local_steps=2))
    server.begin()
    for client in ("a", "b"):
        server.hear(client, activations(step=0))
    facts: list[object] = []
    while server.jobs:
        facts += reports(server.work())
    assert facts == [Dropped(1, "c")]


BUFFERED = replace(PLAN, round_policy=RoundPolicy(3, enough=2, max_staleness=1), rounds=4)


def test_buffered_rounds_close_without_the_slow_and_keep_them_at_work() -> None:
    server = Server(BUFFERED)
    server.begin()
    finish_member(server, "a")
    actions = finish_member(server, "b")
    assert closed(actions) == [2]
    assert sorted(name for name, m in said(actions) if isinstance(m, Assignment)) == ["a", "b"]
    assert [fact for fact in reports(actions) if isinstance(fact, Dropped)] == []


def test_a_late_answer_counts_by_its_staleness() -> None:
    server = Server(BUFFERED)
    server.begin()
    finish_member(server, "a")
    finish_member(server, "b")
    server.hear("c", activations(1))
    assert server.jobs == [TailStep(2, 0, (("c", activations(1), 1 / math.sqrt(2)),))]
    (answer,) = said(server.work())
    assert answer == ("c", Gradient(1, 1, 0, 1, 0.5, bytes(4 * D)))
    server.hear("c", update(1))
    server.hear("a", activations(2))
    server.work()
    server.hear("a", update(2))
    while not isinstance(server.jobs[0], CloseRound):
        server.work()
    assert server.jobs == [
        CloseRound(2, (("a", update(2), 1.0), ("c", update(1), 1 / math.sqrt(2))), evaluate=True)
    ]
    assert [fact.staleness for fact in reports(server.work()) if isinstance(fact, RoundReport)] == [0.5]


def test_who_is_too_stale_is_dropped() -> None:
    server = Server(BUFFERED)
    server.begin()
    facts: list[object] = []
    for number in (1, 2):
        for client in ("a", "b"):
            facts += reports(finish_member(server, client, number))
    assert Dropped(3, "c") in facts
    server.hear("c", activations(1))
    assert server.ledger.discarded_late == 1


def test_a_step_beyond_the_last_is_out_of_order() -> None:
    server = Server()
    client, _ = server.begin()
    server.hear(client, activations())
    server.work()
    server.hear(client, activations(step=1))
    assert server.ledger.rejected == {"order": 1}


def test_without_steps_a_round_is_its_head_updates() -> None:
    server = Server(replace(PLAN, steps=0, local_steps=5))
    one, two = server.begin()
    server.hear(one, activations())
    assert server.ledger.rejected == {"order": 1}
    server.hear(one, update())
    server.hear(two, update())
    assert isinstance(server.jobs[0], CloseRound)
    (report,) = [fact for fact in reports(server.work()) if isinstance(fact, RoundReport)]
    assert (report.clients, report.client_steps) == (2, 10)


def test_a_client_that_is_online_and_does_not_greet_is_asked_to() -> None:
    """Its greeting was lost, for instance when the broker started anew and the server was not back yet."""
    server = Server()
    server.handle(Online())
    server.work()
    assert StartTimer("call", 10.0) in server.hear(FLEET[0], Status(online=True, session=1))
    server.hear(FLEET[1], Status(online=True, session=1))
    server.hear(FLEET[1], hello())
    actions = server.handle(TimerFired("call"))
    assert said(actions) == [(FLEET[0], Released(1, 0, greet=True))]
    assert StartTimer("call", 20.0) in actions
    server.hear(FLEET[0], hello())
    assert server.handle(TimerFired("call")) == []
