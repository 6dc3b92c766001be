"""Calls in virtual time: when, and in which order."""

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
