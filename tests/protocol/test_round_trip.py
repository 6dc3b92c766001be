"""How long a client is waited for, worked out on paper (RFC 6298, section 2)."""

from server_node.protocol.round_trip import RoundTrip


def after(*took_s: float) -> RoundTrip:
    round_trip = RoundTrip()
    for seconds in took_s:
        round_trip.observe(seconds)
    return round_trip


def test_a_client_of_which_nothing_is_known_has_half_a_minute() -> None:
    assert after().wait_s == 30.0


def test_the_first_answer_gives_the_mean_and_half_of_it_as_deviation() -> None:
    first = after(8.0)
    assert (first.mean_s, first.deviation_s, first.wait_s) == (8.0, 4.0, 24.0)


def test_later_answers_move_the_mean_by_an_eighth_and_the_deviation_by_a_quarter() -> None:
    slower = after(8.0, 16.0)  # 8 + 8 / 8; 4 + (8 - 4) / 4
    assert (slower.mean_s, slower.deviation_s, slower.wait_s) == (9.0, 5.0, 29.0)
    faster = after(8.0, 2.0)  # 8 - 6 / 8; 4 + (6 - 4) / 4
    assert (faster.mean_s, faster.deviation_s, faster.wait_s) == (7.25, 4.5, 25.25)


def test_even_a_fast_client_has_five_seconds() -> None:
    assert after(0.01).wait_s == 5.0
    assert after(2.0).wait_s == 6.0
