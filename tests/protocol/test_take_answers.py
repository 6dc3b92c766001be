"""Answers that are taken together: the server does and counts what it does of one after the other."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from broker.machine.actions import Compute, Received
from broker.wire.messages import Message, Status
from server_node.vocabulary.plan import RoundPolicy
from tests.protocol.test_server_core import FLEET, PLAN, Server, activations, hello, update

ANSWERS: tuple[Message, ...] = (
    activations(),
    activations(n=2),
    activations(step=1),
    activations(number=2),
    update(),
    update(samples=2),
    hello(),
    Status(online=False, session=1),
)
"""What many say is one object, as in a simulation; the last two are no answers, and are taken as well."""

WORKS = "works"


@st.composite
def schedules(draw: st.DrawFn) -> list[list[tuple[str, Message, int, float]] | str]:
    """Answers that come together, and between them jobs that the tail has done."""
    who = st.sampled_from((*FLEET, "stranger"))
    answer = st.tuples(who, st.sampled_from(ANSWERS), st.sampled_from((10, 11)), st.just(1.0))
    return draw(st.lists(st.lists(answer, max_size=8) | st.just(WORKS), max_size=10))


@given(schedules())
def test_together_is_as_one_by_one(schedule: list[list[tuple[str, Message, int, float]] | str]) -> None:
    plan = replace(PLAN, round_policy=RoundPolicy(3), cohort=3)
    alone, together = Server(plan), Server(plan)
    for server in (alone, together):
        server.begin()
    for part in schedule:
        if isinstance(part, str):
            assert bool(alone.jobs) == bool(together.jobs)
            if alone.jobs:
                assert alone.work() == together.work()
            continue
        one_by_one = [
            action
            for sender, message, wire_bytes, now_s in part
            for action in alone.core.handle(Received(sender, message, wire_bytes), now_s)
        ]
        answers, taken = iter(part), together.core.take_answers(iter(()))
        for _ in part:  # each call takes one at least, while there are any
            taken += together.core.take_answers(answers)
        assert taken == one_by_one
        for server in (alone, together):
            server.jobs += [action.job for action in one_by_one if isinstance(action, Compute)]
    assert alone.ledger == together.ledger


def test_no_more_is_taken_when_something_is_to_be_done() -> None:
    server = Server(replace(PLAN, round_policy=RoundPolicy(3), cohort=3))
    server.begin()
    answers = iter([("a", activations(), 10, 1.0), ("b", activations(), 10, 2.0)])
    actions = server.core.take_answers(answers)
    assert [type(action) for action in actions] == [Compute]
    assert next(answers)[0] == "b"
