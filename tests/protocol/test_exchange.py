"""One client's exchange with the server: what is said, asked and repeated."""

import pytest

from broker.wire.messages import Ask, Assignment, Gradient, HeadUpdate, Progress, Standing
from server_node.protocol.exchange import MAX_UNANSWERED, Exchange, Repair, Turn
from server_node.protocol.round_trip import RoundTrip
from tests.protocol.test_server_core import PLAN, activations, update

ASSIGNMENT = Assignment(1, 3, 1, 9, 0.1, ([], [], [], []), b"head")


def exchange(steps_done: int = 0) -> Exchange:
    """A member of round 3 that waits for no answer but that to the message of its step."""
    member = Exchange(ASSIGNMENT, RoundTrip(), 600.0, 0.0, PLAN.codecs, PLAN.whole_head)
    for step in range(steps_done):
        member.take_batch(activations(3, step, n=2), 0.0)
        member.answer(0.5, b"gradient", 0.0)
    return member


def asked(member: Exchange) -> int:
    """Ask a member; gives the number of the question."""
    ask = member.ask(0.0)
    assert ask is not None
    return ask.number


def test_the_turns_of_one_step() -> None:
    member = exchange()
    assert (member.turn, member.step, member.samples) == (Turn.CLIENT, 0, 0)
    member.take_batch(activations(3, n=2), 10.0)
    assert (member.turn, member.activations) == (Turn.TAIL, activations(3, n=2))
    assert member.answer(0.5, b"gradient", 20.0) == Gradient(1, 3, 0, 1, 0.5, b"gradient")
    assert (member.turn, member.step, member.samples) == (Turn.CLIENT, 1, 2)
    assert (member.activations, member.sent_s) == (None, 20.0)
    member.take_update(update(3), 30.0)
    assert (member.turn, member.update) == (Turn.DONE, update(3))


def test_the_samples_of_all_steps_are_added_up() -> None:
    assert exchange(steps_done=3).samples == 6


def test_a_question_tells_the_round_and_the_step_that_is_owed() -> None:
    assert exchange(steps_done=2).ask(0.0) == Ask(1, 1, 3, 2, resend=False)
    assert exchange(steps_done=2).ask(0.0, resend=True) == Ask(1, 1, 3, 2, resend=True)


def test_the_wait_doubles_with_every_question_up_to_the_longest() -> None:
    member = exchange()
    assert member.ask_at_s == 30.0
    times = []
    for _ in range(6):
        member.ask(member.ask_at_s)
        times.append(member.ask_at_s)
    assert times == [90.0, 210.0, 450.0, 930.0, 1530.0, 2130.0]


def test_a_sign_of_life_takes_back_all_questions_before_it() -> None:
    member = exchange()
    for _ in range(3):
        assert [member.ask(0.0) is None for _ in range(MAX_UNANSWERED)] == [False] * MAX_UNANSWERED
        member.told(Progress(1, 0, 3, 0, Standing.WORKING))
    assert [member.ask(0.0) is None for _ in range(MAX_UNANSWERED + 1)][-1]


@pytest.mark.parametrize(
    ("round_number", "step", "standing", "repair"),
    [
        # The member is in round 3 and owes step 4.
        pytest.param(3, 4, Standing.ANSWERED, Repair.ASK_AGAIN, id="its answer was lost"),
        pytest.param(3, 4, Standing.WORKING, Repair.NOTHING, id="it is at work"),
        pytest.param(3, 4, Standing.MISSING, Repair.NOTHING, id="it lacks what was never said"),
        pytest.param(3, 4, Standing.REFUSED, Repair.DROP, id="it cannot use the last message"),
        pytest.param(3, 3, Standing.ANSWERED, Repair.SAY_AGAIN, id="the last gradient was lost"),
        pytest.param(3, 3, Standing.MISSING, Repair.SAY_AGAIN, id="it says so itself"),
        pytest.param(3, 3, Standing.WORKING, Repair.NOTHING, id="it works its way up to that step"),
        pytest.param(3, 3, Standing.REFUSED, Repair.SAY_AGAIN, id="it could not use the message before"),
        pytest.param(3, 2, Standing.ANSWERED, Repair.DROP, id="the gradient before is not kept"),
        pytest.param(3, 5, Standing.ANSWERED, Repair.NOTHING, id="it is ahead"),
        pytest.param(3, 5, Standing.MISSING, Repair.NOTHING, id="it is ahead and waits"),
        pytest.param(2, 4, Standing.ANSWERED, Repair.DROP, id="it has never heard of the round"),
        pytest.param(2, 4, Standing.REFUSED, Repair.DROP, id="it refused something of an earlier round"),
        pytest.param(4, 4, Standing.ANSWERED, Repair.NOTHING, id="it is in a later round"),
        pytest.param(4, 4, Standing.REFUSED, Repair.NOTHING, id="it refused something of a later round"),
    ],
)
def test_what_follows_from_where_a_client_says_it_is(
    round_number: int, step: int, standing: Standing, repair: Repair
) -> None:
    member = exchange(steps_done=4)
    assert member.told(Progress(1, asked(member), round_number, step, standing)) is repair


@pytest.mark.parametrize(
    ("steps_done", "repair"), [(0, Repair.START_OVER), (1, Repair.START_OVER), (2, Repair.DROP)]
)
def test_who_has_lost_the_round_may_begin_it_anew_after_one_step_at_most(
    steps_done: int, repair: Repair
) -> None:
    member = exchange(steps_done)
    assert member.told(Progress(1, asked(member), 0, 0, Standing.MISSING)) is repair


def test_while_the_tail_or_the_round_has_its_answer_nothing_is_repaired() -> None:
    member = exchange()
    number = asked(member)
    member.take_batch(activations(3), 0.0)
    assert member.told(Progress(1, number, 3, 0, Standing.REFUSED)) is Repair.NOTHING
    member.take_update(update(3), 0.0)
    assert member.told(Progress(1, number, 3, 0, Standing.REFUSED)) is Repair.NOTHING


def test_a_repair_makes_answers_to_older_questions_worthless() -> None:
    member = exchange(steps_done=1)
    first, second = asked(member), asked(member)
    lost = Standing.ANSWERED
    assert member.told(Progress(1, first, 3, 0, lost)) is Repair.SAY_AGAIN
    assert member.told(Progress(1, second, 3, 0, lost)) is Repair.NOTHING  # asked before that was said again
    assert member.told(Progress(1, asked(member), 3, 0, lost)) is Repair.SAY_AGAIN


def test_a_new_message_makes_answers_to_older_questions_worthless() -> None:
    member = exchange()
    number = asked(member)
    member.take_batch(activations(3), 0.0)
    member.answer(0.5, b"gradient", 0.0)
    assert member.told(Progress(1, number, 3, 0, Standing.ANSWERED)) is Repair.NOTHING
    assert member.told(Progress(1, asked(member), 3, 0, Standing.ANSWERED)) is Repair.SAY_AGAIN


def test_what_is_said_again_counts_its_attempts() -> None:
    member = exchange()
    assert [member.again().attempt for _ in range(2)] == [2, 3]
    member.take_batch(activations(3), 0.0)
    member.answer(0.5, b"gradient", 0.0)
    assert member.again() == Gradient(1, 3, 0, 2, 0.5, b"gradient")
    assert member.again() == Gradient(1, 3, 0, 3, 0.5, b"gradient")
    assert member.start_over().attempt == 4


def test_only_an_answer_to_what_was_said_once_tells_how_long_a_client_takes() -> None:
    member = exchange()
    member.take_batch(activations(3), 8.0)
    assert member.round_trip.mean_s == 8.0
    member.answer(0.5, b"gradient", 10.0)
    member.told(Progress(1, asked(member), 3, 0, Standing.ANSWERED))  # the gradient is said again
    member.take_update(HeadUpdate(1, 3, 1, 1, 0.0, b""), 500.0)
    assert member.round_trip.mean_s == 8.0
