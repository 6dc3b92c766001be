"""Windows of Reno and Cubic."""

import pytest

from scenarios.schema.links import Tcp
from sim.network.links.tcp.round_trips import RoundTrips
from sim.network.links.tcp.window import Cubic, Reno, window_of


def grow(window: Reno, round_trips: int, round_trip_s: float, begun_s: float = 0.0) -> None:
    for number in range(round_trips):
        for _ in range(window.size // 2):
            window.grow(2, begun_s + number * round_trip_s)


@pytest.mark.parametrize("tcp", ["cubic", "reno"])
def test_slow_start_doubles_the_window_each_round_trip(tcp: Tcp) -> None:
    window = window_of(tcp)
    grow(window, 3, 0.1)
    assert window.size == 80


def test_reno_halves_the_window_and_widens_it_by_one_each_round_trip() -> None:
    window = Reno()
    window.size = 40
    window.size = window.threshold = window.reduced()
    grow(window, 10, 0.1)
    assert 29 <= window.size <= 31


def test_cubic_keeps_seven_tenths_and_is_back_after_the_time_of_its_rfc() -> None:
    # RFC 9438, 4.2: K = cubic root of W (1 - 0.7) / 0.4
    window = Cubic()
    window.size = 400
    window.sampled(0.0, 0.1, 0, 400)
    window.size = window.threshold = window.reduced()
    assert window.size == 280
    grow(window, 67, 0.1)
    assert window.size == pytest.approx(400, rel=0.03)
    begun = window.size
    grow(window, 20, 0.1, begun_s=6.7)
    assert window.size < 1.05 * begun  # it is flat there


def test_cubic_is_as_quick_as_reno_where_the_cubic_function_is_slower() -> None:
    window = Cubic()
    window.size = 20
    window.sampled(0.0, 0.01, 0, 20)
    window.size = window.threshold = window.reduced()
    grow(window, 40, 0.01)
    assert 14 + 40 * 0.4 <= window.size <= 14 + 40 * 0.65  # 0.53 a round trip, RFC 9438, 4.3


def test_a_second_loss_before_the_window_is_back_makes_room_for_others() -> None:
    window = Cubic()
    window.size = 100
    window.size = window.reduced()
    assert (window.size, window.reduced()) == (70, 49)
    assert window._before == int(70 * (1 + Cubic.BETA) / 2)  # RFC 9438, 4.7


def test_slow_start_of_cubic_ends_when_round_trips_grow_by_an_eighth() -> None:
    window = Cubic()
    window.size = 64
    for number in range(9):
        window.sampled(0.02 * number, 0.1, number, 64)
    for number in range(10):
        window.sampled(1.0 + 0.02 * number, 0.114, 64 + number, 128)
    assert window.threshold == 64


def test_slow_start_of_cubic_ends_when_acknowledgements_come_without_a_pause_for_half_a_round_trip() -> None:
    window = Cubic()
    window.size = 64
    for number in range(60):
        window.sampled(0.001 * number, 0.1, number, 64)
    assert window.threshold == 64
    slow = Cubic()
    slow.size = 64
    for number in range(60):
        slow.sampled(0.003 * number, 0.1, number, 64)
    assert slow.threshold > 64


def test_the_timeout_is_three_first_round_trips_and_falls_by_a_quarter_a_flight() -> None:
    times = RoundTrips(0.6)
    assert times.timeout_s == pytest.approx(1.8)
    margins = []
    for _ in range(12):
        times.note(0.6)
        times.end_flight()
        margins.append(times.timeout_s - 0.6)
    assert margins[0] == pytest.approx(1.2)  # the first flight is that of the handshake
    assert margins[1] == pytest.approx(1.2 - (1.2 - 4 * 0.3 * 0.75**2) / 4)
    assert margins == sorted(margins, reverse=True)
    assert margins[-1] < 0.4


def test_round_trips_that_vary_make_the_timeout_longer() -> None:
    times = RoundTrips(0.1)
    for number in range(100):
        times.note(0.1 if number % 2 else 0.5)
    assert times.timeout_s > 0.3 + 3.5 * 0.2
    assert times.least_s == 0.1
