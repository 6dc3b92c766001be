"""Calls in virtual time: when, and in which order."""

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from hypothesis import given
from hypothesis import strategies as st

from sim.network.clock import Clock


def test_what_is_due_at_the_same_time_runs_in_the_order_of_the_calls_whenever_these_were() -> None:
    clock, log = Clock(), list[tuple[int, float]]()

    def plan(number: int) -> None:
        clock.at(7.7, lambda: log.append((number, clock.now)))

    for number in range(70):
        clock.at(number / 10, plan, number)
    clock.run()
    assert log == [(number, 7.7) for number in range(70)]


def test_what_is_due_in_the_past_runs_at_once_after_what_is_due_now() -> None:
    clock, log = Clock(), list[tuple[str, float]]()

    def call(name: str) -> None:
        log.append((name, clock.now))

    clock.at(1.0, lambda: clock.at(0.5, call, "late"))
    clock.at(1.0, call, "now")
    clock.run()
    assert log == [("now", 1.0), ("late", 1.0)]


def test_time_passes_to_a_moment_unless_something_is_due_up_to_then() -> None:
    clock = Clock()
    clock.at(2.0, lambda: None)
    assert (clock.passes_to(1.5), clock.now) == (True, 1.5)
    assert (clock.passes_to(2.0), clock.now) == (False, 1.5)
    clock.step()
    assert (clock.passes_to(9.0), clock.now) == (True, 9.0)


@given(
    st.lists(st.tuples(st.sampled_from(["at", "together", "next"]), st.integers(0, 5)), max_size=30),
    st.integers(0, 3),
)
def test_calls_that_stand_together_are_made_when_and_in_the_order_in_which_they_would_be_alone(
    asked: list[tuple[str, int]], later_s: int
) -> None:
    """`next` asks, when its time comes, for one more call."""

    def made(together: Callable[[Clock], AbstractContextManager[None]]) -> list[tuple[int, float]]:
        clock, log = Clock(), list[tuple[int, float]]()

        def call(number: int, again: bool) -> None:
            log.append((number, clock.now))
            if again:
                clock.at(clock.now + later_s, call, 100 + number, False)

        for where, part in itertools.groupby(enumerate(asked), lambda each: each[1][0]):
            with together(clock) if where == "together" else nullcontext():
                for number, (_, time_s) in part:
                    clock.at(time_s, call, number, where == "next")
        clock.run()
        return log

    assert made(Clock.together) == made(lambda _clock: nullcontext())


def test_an_event_of_simpy_may_stand_among_calls() -> None:
    clock, log = Clock(), list[float]()
    with clock.together():
        clock.at(3.0, lambda: log.append(clock.now))
        clock.timeout(2.0).callbacks.append(lambda _event: log.append(clock.now))
        clock.at(1.0, lambda: log.append(clock.now))
    clock.run()
    assert log == [1.0, 2.0, 3.0]


def test_calls_in_turn_are_made_at_their_times_and_one_at_a_time_stands_in_the_queue() -> None:
    clock, log = Clock(), list[tuple[str, float]]()

    def call(name: str) -> None:
        log.append((name, clock.now))

    clock.at(2.0, call, "alone")
    clock.in_turn((at_s, call, (f"at {at_s}",)) for at_s in (1.0, 2.0, 2.0, 3.5))
    assert len(clock._queue) == 2
    clock.at(2.0, call, "later")
    clock.run()
    assert log == [
        ("at 1.0", 1.0),
        ("alone", 2.0),
        ("at 2.0", 2.0),
        ("at 2.0", 2.0),
        ("later", 2.0),
        ("at 3.5", 3.5),
    ]
