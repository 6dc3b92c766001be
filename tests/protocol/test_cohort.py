"""The members: what is taken from them, and when they are asked."""

from dataclasses import replace

import msgspec
import pytest

from broker.codecs import Float16, Int8
from broker.machine.actions import CancelTimer, Publish, Report, StartTimer
from broker.wire.errors import WireError
from broker.wire.messages import Ask, Assignment, Gradient, Progress, Released, Standing
from server_node.protocol.cohort import ASK, Cohort
from server_node.vocabulary.ledger import Ledger
from server_node.vocabulary.plan import Plan
from server_node.vocabulary.reports import Dropped
from tests.protocol.test_server_core import CODECS, PLAN, D, P, activations, reports, said, update

TWO_STEPS = replace(PLAN, steps=2, local_steps=2)
COARSE = CODECS._replace(activations_up=Float16(), head_update_up=Int8())


def assignment(number: int = 1) -> Assignment:
    return Assignment(1, number, 1, 2, 0.1, ([], [], [], []), b"head")


class Played(Cohort):
    """A cohort in round 1, with its ledger at hand."""

    def __init__(self, *clients: str, plan: Plan = TWO_STEPS) -> None:
        self.ledger = Ledger()
        super().__init__(plan, self.ledger, 1)
        for client in clients:
            self.assign(client, assignment(), 0.0)

    def step(self, client: str, step: int, now_s: float = 0.0) -> Publish:
        """Let a member's activations come and go through the tail."""
        assert self.take_batch(client, activations(step=step), now_s) is None
        answer = self.answer(client, 0.5, b"gradient", now_s)
        assert answer is not None
        return answer

    def asked(self, now_s: float) -> list[tuple[str, int]]:
        """Let the timer fire; gives who is asked for which step."""
        questions = [(client, m) for client, m in said(self.ask_the_silent(now_s)) if isinstance(m, Ask)]
        return [(client, message.step) for client, message in questions]


def why(error: WireError | None) -> str:
    assert error is not None
    return str(error)


def test_a_member_is_told_and_its_head_counted_once() -> None:
    cohort = Played()
    assert cohort.assign("a", assignment(), 0.0) == Publish("fl/3/r/d/a", assignment())
    assert cohort.ledger.flows["head_state_down"].raw_float32_bytes == 4 * P


def test_answers_to_what_was_not_said_yet_are_out_of_order() -> None:
    cohort = Played("a")
    assert why(cohort.take_batch("a", activations(2), 0.0)) == "order: round 2 has not begun"
    not_next = "order: round 1, step 1 is not what comes next"
    assert why(cohort.take_batch("a", activations(step=1), 0.0)) == not_next
    assert why(cohort.take_update("a", update(), 0.0)) == "order: round 1, step 2 is not what comes next"
    cohort.step("a", 0)
    cohort.step("a", 1)
    assert why(cohort.take_batch("a", activations(step=2), 0.0)) == "order: step 2 of 2"


def test_answers_from_who_is_no_member_any_more_are_late_and_each_is_counted() -> None:
    cohort = Played("a")
    cohort.drop("a")
    for _ in range(2):
        assert cohort.take_batch("a", activations(), 0.0) is None
        assert cohort.take_update("a", update(), 0.0) is None
    assert cohort.ledger.discarded_late == 4


def test_answers_of_an_earlier_round_than_the_members_own_are_late() -> None:
    cohort = Played()
    cohort.number = 3
    cohort.assign("a", assignment(3), 0.0)
    assert cohort.take_batch("a", activations(2), 0.0) is None
    assert cohort.ledger.discarded_late == 1
    cohort.assign("b", assignment(2), 0.0)  # it is late itself and has heard nothing of round 3
    not_next = "order: round 3, step 0 is not what comes next"
    assert why(cohort.take_batch("b", activations(3), 0.0)) == not_next


def test_a_batch_is_measured_by_the_codecs_of_its_client() -> None:
    cohort = Played("a", "b", plan=replace(TWO_STEPS, by_link={"a": COARSE}))
    half = msgspec.structs.replace(activations(), payload=bytes(1 + 2 * D))
    assert why(cohort.take_batch("b", half, 0.0)).startswith("shape: activations of 9 bytes")
    assert why(cohort.take_batch("a", activations(), 0.0)).startswith("shape: activations of 16 bytes")
    assert cohort.take_batch("a", half, 0.0) is None
    cohort.answer("a", 0.5, b"gradient", 0.0)
    assert cohort.ledger.paper_bits == [64 * D, COARSE.activations_up.paper_bits(1, D, 1 + 2 * D)]


def test_an_update_is_measured_by_the_codecs_of_its_client() -> None:
    cohort = Played("a", "b", plan=replace(PLAN, steps=0, by_link={"a": COARSE}))
    small = msgspec.structs.replace(update(), payload=bytes(Int8().size_bytes(1, P)))
    assert why(cohort.take_update("b", small, 0.0)).startswith("shape: head update of")
    assert why(cohort.take_update("a", update(), 0.0)).startswith("shape: head update of")
    assert cohort.take_update("a", small, 0.0) is None
    assert cohort.ledger.flows["head_update_up"].raw_float32_bytes == 4 * P


def test_an_update_weighs_the_samples_that_its_member_sent() -> None:
    cohort = Played("a")
    cohort.step("a", 0)
    cohort.step("a", 1)
    assert why(cohort.take_update("a", update(), 0.0)) == "samples: 1 samples, but 2 went through the tail"
    assert cohort.take_update("a", update(samples=2), 0.0) is None


def test_a_gradient_answers_a_batch_that_waits_and_none_that_was_dropped() -> None:
    cohort = Played("a", "b")
    assert cohort.step("a", 0) == Publish("fl/3/r/d/a", Gradient(1, 1, 0, 1, 0.5, b"gradient"))
    cohort.take_batch("b", activations(), 0.0)
    cohort.drop("b")
    assert cohort.answer("b", 0.5, b"gradient", 0.0) is None


def test_a_member_is_asked_when_its_time_is_over_and_others_are_not() -> None:
    cohort = Played("a", "b")
    cohort.step("b", 0, now_s=20.0)  # it is known to take 20 s now: 20 + 4 * 10
    assert cohort.asked(29.9) == []
    assert cohort.asked(30.0) == [("a", 0)]
    assert cohort.asked(80.0) == [("b", 1)]


def test_who_waits_for_the_server_is_not_asked() -> None:
    cohort = Played("a", "b")
    cohort.take_batch("a", activations(), 0.0)
    assert cohort.asked(1000.0) == [("b", 0)]
    assert said(cohort.ask_all(0.0)) == [("b", Ask(1, 2, 1, 0))]
    assert cohort.greeted("a", 0.0) == []
    assert said(cohort.greeted("b", 0.0)) == [("b", Ask(1, 3, 1, 0))]
    assert cohort.greeted("z", 0.0) == []


def test_the_timer_is_set_for_the_first_who_is_to_be_asked() -> None:
    cohort = Played()
    assert cohort.timer(0.0) == []
    cohort.assign("a", assignment(), 100.0)
    assert cohort.timer(100.0) == [StartTimer(ASK, 30.0)]
    cohort.assign("b", assignment(), 110.0)
    assert cohort.timer(110.0) == []  # it fires before that
    assert cohort.asked(130.0) == [("a", 0)]
    assert cohort.timer(130.0) == [StartTimer(ASK, 10.0)]  # b; a is asked again a minute after its question
    assert cohort.asked(140.0) == [("b", 0)]
    assert cohort.timer(140.0) == [StartTimer(ASK, 50.0)]


def test_the_timer_is_set_anew_for_somebody_who_is_to_be_asked_before_it_fires() -> None:
    cohort = Played("a", "b")
    assert cohort.timer(0.0) == [StartTimer(ASK, 30.0)]
    cohort.step("a", 0, now_s=1.0)  # it is fast: 1 + 4 * 0.5 s, so the least time counts, 5 s
    assert cohort.timer(1.0) == [StartTimer(ASK, 5.0)]


def test_a_duplicate_shows_that_its_sender_may_lack_something_so_it_is_asked_soon() -> None:
    cohort = Played("a")
    cohort.step("a", 0)
    assert cohort.timer(0.0) == [StartTimer(ASK, 30.0)]
    assert cohort.take_batch("a", activations(), 2.0) is None
    assert cohort.ledger.duplicates == 1
    assert cohort.timer(2.0) == [StartTimer(ASK, 0.5)]
    assert cohort.asked(2.5) == [("a", 1)]


def test_a_duplicate_of_who_owes_nothing_is_only_counted() -> None:
    cohort = Played("a", "b", plan=replace(PLAN, steps=0))
    cohort.take_update("a", update(), 0.0)
    cohort.timer(0.0)
    assert cohort.take_update("a", update(), 2.0) is None
    assert cohort.take_update("a", update(), 2.0) is None
    assert cohort.ledger.duplicates == 2
    assert cohort.timer(2.0) == []


def test_with_nobody_to_ask_the_timer_rests() -> None:
    cohort = Played("a")
    cohort.timer(0.0)
    cohort.take_batch("a", activations(), 0.0)
    assert cohort.asked(30.0) == []
    assert cohort.timer(30.0) == []


@pytest.mark.parametrize(
    ("round_number", "standing", "answer"),
    [
        (0, Standing.MISSING, msgspec.structs.replace(assignment(), attempt=2)),
        (1, Standing.ANSWERED, Gradient(1, 1, 0, 2, 0.5, b"gradient")),
        (1, Standing.WORKING, None),
    ],
)
def test_what_a_member_lacks_is_said_again_to_it(
    round_number: int, standing: Standing, answer: Assignment | Gradient | None
) -> None:
    cohort = Played("a")
    cohort.step("a", 0)
    assert cohort.asked(1000.0) == [("a", 1)]
    actions = cohort.repair("a", Progress(1, 1, round_number, 0, standing), 1000.0)
    assert actions == ([] if answer is None else [Publish("fl/3/r/d/a", answer)])


def test_whose_answer_was_lost_is_asked_for_it_and_again_later() -> None:
    cohort = Played("a")
    assert cohort.asked(30.0) == [("a", 0)]
    actions = cohort.repair("a", Progress(1, 1, 1, 0, Standing.ANSWERED), 31.0)
    assert actions == [Publish("fl/3/r/d/a", Ask(1, 2, 1, 0, resend=True))]
    cohort.timer(31.0)
    assert cohort.asked(31.0 + 119.0) == []
    assert cohort.asked(31.0 + 120.0) == [("a", 0)]


def test_who_is_no_member_is_told_nothing() -> None:
    assert Played().repair("a", Progress(1, 1, 1, 0, Standing.MISSING), 0.0) == []
    assert Played().drop("a") == []


@pytest.mark.parametrize("greet", [False, True])
def test_who_is_dropped_is_released_reported_and_not_waited_for(greet: bool) -> None:
    cohort = Played("a", "b")
    assert cohort.drop("a", greet=greet) == [
        CancelTimer("rejoin:a"),
        Report(Dropped(1, "a")),
        Publish("fl/3/r/d/a", Released(1, 1, greet)),
    ]
    assert list(cohort.members) == ["b"]


def test_a_member_that_is_dropped_late_is_released_from_its_own_round() -> None:
    cohort = Played("a")
    cohort.number = 4
    actions = cohort.drop("a")
    assert reports(actions) == [Dropped(4, "a")]
    assert said(actions) == [("a", Released(1, 1, greet=False))]
