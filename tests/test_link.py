"""When messages arrive over a link: literal times, worked out by hand."""

import itertools
import math

import numpy as np
import pytest

from scenarios.links import Link
from sim.draws import Draws
from sim.link import (
    HEADER_BYTES,
    SEGMENT_BYTES,
    Carried,
    Line,
    framed_bytes,
    path_of,
    window_pauses,
)


def line(**link: object) -> Line:
    return Line(path_of(Link.model_validate(link), "up"), Draws(np.random.default_rng(7)))


def test_without_a_network_nothing_takes_time() -> None:
    assert line().path.instant
    assert line().carry(3.0, 10**7) == Carried(3.0, 3.0, 3.0)


def test_a_message_takes_its_bytes_and_headers_at_the_rate_then_the_latency() -> None:
    # 1000 bytes and one header of 52 at 8 kbit/s = 1000 byte/s
    assert line(uplink_kbps=8, latency_ms=250).carry(1.0, 1000) == Carried(1.0, 2.052, 2.302)


def test_every_packet_has_a_header() -> None:
    assert framed_bytes(SEGMENT_BYTES) == SEGMENT_BYTES + HEADER_BYTES
    assert framed_bytes(SEGMENT_BYTES + 1) == SEGMENT_BYTES + 1 + 2 * HEADER_BYTES


def test_messages_leave_one_after_another() -> None:
    slow = line(uplink_kbps=8)
    times = [slow.carry(now, 948) for now in (0.0, 0.5, 5.0)]  # a second each
    assert times == [Carried(0.0, 1.0, 1.0), Carried(1.0, 2.0, 2.0), Carried(5.0, 6.0, 6.0)]


def test_up_and_down_have_rates_of_their_own() -> None:
    link = Link(uplink_kbps=8, downlink_kbps=16)
    assert (path_of(link, "up").bytes_per_s, path_of(link, "down").bytes_per_s) == (1000, 2000)


def test_slow_start_pauses_until_a_window_fills_the_round_trip() -> None:
    # a full packet takes 1 ms; round trip 101 ms; windows of 10, 20, 40 leave pauses of 91, 81, 61 ms
    path = path_of(Link(uplink_kbps=12_000, latency_ms=50), "up")
    assert path.segment_s == pytest.approx(0.001)
    assert window_pauses(10, 10, path) == pytest.approx((0.0, 20))
    assert window_pauses(10, 11, path) == pytest.approx((0.091, 20))  # 1 of 20 used: does not grow
    assert window_pauses(10, 30, path) == pytest.approx((0.091, 40))
    assert window_pauses(10, 71, path) == pytest.approx((0.091 + 0.081 + 0.061, 80))
    assert window_pauses(128, 1000, path) == pytest.approx((0.0, 1024))


def test_a_large_message_on_a_fast_long_link() -> None:
    # 70 full packets: 70 ms on the wire, pauses of 91 and 81 ms, 50 ms of latency
    carried = line(uplink_kbps=12_000, latency_ms=50).carry(0.0, 70 * SEGMENT_BYTES)
    assert carried.arrival_s == pytest.approx(0.070 + 0.091 + 0.081 + 0.050)


def test_a_slow_link_never_pauses() -> None:
    # ten packets take 469 ms at 256 kbit/s, longer than the round trip of 447 ms
    carried = line(uplink_kbps=256, latency_ms=200).carry(0.0, 100 * SEGMENT_BYTES)
    assert carried.arrival_s == pytest.approx(100 * 1500 * 8 / 256_000 + 0.2)


def test_the_window_stays_open_while_messages_follow_each_other() -> None:
    fast = line(uplink_kbps=12_000, latency_ms=50)
    first = fast.carry(0.0, 70 * SEGMENT_BYTES)
    second = fast.carry(first.arrival_s, 70 * SEGMENT_BYTES)
    assert second.arrival_s - first.arrival_s == pytest.approx(0.070 + 0.050)


def test_the_window_halves_for_every_timeout_of_silence() -> None:
    fast = line(uplink_kbps=12_000, latency_ms=50)  # timeout: 301 ms
    sent_s = fast.carry(0.0, 70 * SEGMENT_BYTES).sent_s  # leaves a window of 80
    assert fast.delay_s(sent_s + 0.30, 40 * SEGMENT_BYTES) == 0.0
    assert fast.delay_s(sent_s + 0.61, 40 * SEGMENT_BYTES) == pytest.approx(0.081)  # down to 20
    assert fast.delay_s(sent_s + 9.00, 20 * SEGMENT_BYTES) == pytest.approx(0.091)  # and to 10


def test_a_new_connection_starts_slowly_again() -> None:
    fast = line(uplink_kbps=12_000, latency_ms=50)
    first = fast.carry(0.0, 70 * SEGMENT_BYTES)
    fast.reset()
    again = fast.carry(first.arrival_s, 70 * SEGMENT_BYTES)
    assert again.arrival_s - again.start_s == pytest.approx(first.arrival_s)


def test_loss_bounds_the_rate_as_mathis_says() -> None:
    # loss 1.5 %: ten segments a round trip
    path = path_of(Link(uplink_kbps=12_000, latency_ms=50, loss=0.015), "up")
    assert window_pauses(10, 1000, path) == pytest.approx((99 * 0.091, 10))
    mathis_bytes_per_s = SEGMENT_BYTES / path.round_trip_s * math.sqrt(1.5) / math.sqrt(0.015)
    at_full_rate_s = 1000 * path.segment_s
    assert 1000 * SEGMENT_BYTES / (at_full_rate_s + 99 * 0.091) == pytest.approx(mathis_bytes_per_s, rel=0.02)


def test_slow_start_ends_at_the_window_that_losses_allow() -> None:
    # loss 0.24 %: 25 segments; windows of 10, 20, 25, 25 leave pauses of 91, 81, 76, 76 ms
    path = path_of(Link(uplink_kbps=12_000, latency_ms=50, loss=0.0024), "up")
    assert window_pauses(10, 100, path) == pytest.approx((0.091 + 0.081 + 0.076 + 0.076, 25))


def test_loss_does_not_slow_a_link_that_is_slower_anyway() -> None:
    path = path_of(Link(uplink_kbps=64, latency_ms=50, loss=0.001), "up")
    assert window_pauses(10, 1000, path)[0] == 0.0


def test_a_single_packet_is_repaired_by_the_timeout_as_often_as_packets_are_lost() -> None:
    lossy = line(latency_ms=50, loss=0.1)
    delays = np.array([lossy.delay_s(0.0, 100) for _ in range(5000)])
    assert set(np.round(delays, 9)) == {0.0, 0.3}
    assert np.mean(delays > 0) == pytest.approx(0.1, abs=0.015)


def test_a_loss_inside_a_message_is_repaired_in_a_round_trip() -> None:
    lossy = line(latency_ms=50, loss=0.02)  # a window of 9
    delays = np.array([lossy.delay_s(0.0, 9 * SEGMENT_BYTES) for _ in range(5000)])
    assert set(np.round(delays, 9)) == {0.0, 0.1, 0.3}
    assert np.mean(delays == 0.0) == pytest.approx(0.98**9, abs=0.02)
    assert np.mean(delays > 0.2) == pytest.approx(0.98**6 * (1 - 0.98**3), abs=0.02)


@pytest.mark.parametrize("jitter", ["normal", "lognormal", "uniform"])
def test_jitter_has_the_mean_and_deviation_asked_for(jitter: str) -> None:
    shaky = line(latency_ms=100, jitter_ms=20, jitter=jitter)
    times = np.array([shaky.propagation_s() for _ in range(20_000)])
    assert times.mean() == pytest.approx(0.1, abs=0.001)
    assert times.std() == pytest.approx(0.02, abs=0.001)


def test_jitter_never_delivers_before_the_message_left_nor_out_of_order() -> None:
    shaky = line(latency_ms=10, jitter_ms=50)
    carried = [shaky.carry(n * 0.01, 100) for n in range(500)]
    assert all(c.arrival_s >= c.sent_s for c in carried)
    assert all(a.arrival_s <= b.arrival_s for a, b in itertools.pairwise(carried))
