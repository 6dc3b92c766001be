"""When messages arrive over a link: literal times, worked out by hand."""

import itertools
import math

import numpy as np
import pytest

from broker.wire.link_bytes import HEADER_BYTES, SEGMENT_BYTES, framed_bytes
from scenarios.schema.links import Link
from sim.network.links.changing_link import links_of
from sim.network.links.link import Carried, TcpLink
from sim.network.links.path import path_of


def tcp_link(**link: object) -> TcpLink:
    return tcp_link_of(7, **link)


def tcp_link_of(seed: int, **link: object) -> TcpLink:
    return TcpLink(path_of(Link.model_validate(link), "up"), seed=seed, owner=("c0", "up"))


def test_without_a_network_nothing_takes_time() -> None:
    assert tcp_link().path.instant
    assert tcp_link().carry(3.0, 10**7) == Carried(3.0, 3.0, 3.0)


def test_a_message_takes_its_bytes_and_headers_at_the_rate_then_the_latency() -> None:
    # 1000 bytes and one header of 52 at 8 kbit/s = 1000 byte/s
    assert tcp_link(uplink_kbps=8, latency_ms=250).carry(1.0, 1000) == Carried(1.0, 2.052, 2.302)


def test_every_packet_has_a_header() -> None:
    assert framed_bytes(SEGMENT_BYTES) == SEGMENT_BYTES + HEADER_BYTES
    assert framed_bytes(SEGMENT_BYTES + 1) == SEGMENT_BYTES + 1 + 2 * HEADER_BYTES


def test_messages_leave_one_after_another() -> None:
    slow = tcp_link(uplink_kbps=8)
    times = [slow.carry(now, 948) for now in (0.0, 0.5, 5.0)]  # a second each
    assert times == [Carried(0.0, 1.0, 1.0), Carried(1.0, 2.0, 2.0), Carried(5.0, 6.0, 6.0)]


def test_up_and_down_have_rates_of_their_own() -> None:
    link = Link(uplink_kbps=8, downlink_kbps=16)
    assert (path_of(link, "up").bytes_per_s, path_of(link, "down").bytes_per_s) == (1000, 2000)


def test_slow_start_pauses_until_a_window_fills_the_round_trip() -> None:
    # a full packet takes 1 ms; two and their acknowledgement 102 ms; windows of 10, 20, 40: 92, 82, 62 ms
    def pauses_s(segments: int) -> float:
        fast = tcp_link(uplink_kbps=12_000, latency_ms=50)
        assert fast.path.segment_s == pytest.approx(0.001)
        return fast.delay_s(0.0, segments * SEGMENT_BYTES)

    assert pauses_s(10) == 0.0
    assert pauses_s(11) == pytest.approx(0.092)
    assert pauses_s(30) == pytest.approx(0.092)
    assert pauses_s(71) == pytest.approx(0.092 + 0.082 + 0.062)


def test_a_window_that_was_not_half_used_does_not_grow() -> None:
    fast = tcp_link(uplink_kbps=12_000, latency_ms=50)
    assert fast.delay_s(0.0, 10 * SEGMENT_BYTES) == 0.0
    assert fast.delay_s(0.0, 10 * SEGMENT_BYTES) == 0.0  # 10 of 20 used
    assert fast.delay_s(0.0, 41 * SEGMENT_BYTES) == pytest.approx(0.082)  # 20 of 20 used: 40


def test_a_large_message_on_a_fast_long_link() -> None:
    # 70 full packets: 70 ms on the wire, pauses of 92 and 82 ms, 50 ms of latency
    carried = tcp_link(uplink_kbps=12_000, latency_ms=50).carry(0.0, 70 * SEGMENT_BYTES)
    assert carried.arrival_s == pytest.approx(0.070 + 0.092 + 0.082 + 0.050)


def test_a_slow_link_never_pauses() -> None:
    # ten packets take 469 ms at 256 kbit/s, longer than the round trip of 454 ms
    carried = tcp_link(uplink_kbps=256, latency_ms=180).carry(0.0, 100 * SEGMENT_BYTES)
    assert carried.arrival_s == pytest.approx(100 * 1500 * 8 / 256_000 + 0.18)


def test_the_window_stays_open_while_messages_follow_each_other() -> None:
    fast = tcp_link(uplink_kbps=12_000, latency_ms=50)
    first = fast.carry(0.0, 70 * SEGMENT_BYTES)
    second = fast.carry(first.arrival_s, 70 * SEGMENT_BYTES)
    assert second.arrival_s - first.arrival_s == pytest.approx(0.070 + 0.050)


def test_the_window_halves_for_every_timeout_of_silence() -> None:
    # silence began when the last flight joined the queue, and the timeout is longer by that queue
    fast = tcp_link(uplink_kbps=12_000, latency_ms=50)  # timeout: 302 ms and the queue
    sent_s = fast.carry(0.0, 70 * SEGMENT_BYTES).sent_s  # a window of 80; the last flight was 40 ms long
    assert fast.delay_s(sent_s + 0.30, 40 * SEGMENT_BYTES) == 0.0  # 0.340 < 0.342; again 40 ms long
    assert fast.delay_s(sent_s + 0.65, 40 * SEGMENT_BYTES) == pytest.approx(0.082)  # 0.690 > 0.684: to 20
    assert fast.delay_s(sent_s + 9.00, 20 * SEGMENT_BYTES) == pytest.approx(0.092)  # and to 10


def test_a_timeout_remembers_how_long_windows_waited_for_the_line() -> None:
    # the longest flight is 320 packets, 0.96 s
    slow = tcp_link(uplink_kbps=4_000, latency_ms=300)
    sent_s = slow.carry(0.0, 400 * SEGMENT_BYTES).sent_s
    sent_s = slow.carry(sent_s, 400 * SEGMENT_BYTES).sent_s
    window = slow._window
    sent_s = slow.carry(sent_s, SEGMENT_BYTES).sent_s
    timeout_s = slow.path.round_trip_s + slow._usually_queued_s + slow._margin_s
    assert timeout_s > 0.606 + 0.8 + 0.9
    slow._age(sent_s + timeout_s - 0.01)
    assert slow._window == window
    slow._age(sent_s + timeout_s + 0.01)
    assert slow._window == window // 2


def test_acknowledgements_of_packets_that_come_the_other_way_end_a_silence() -> None:
    # 40 ms of queue and a timeout of 0.3 s and more: one second is three of them, but not in six pieces
    def window(packets: int) -> int:
        fast = tcp_link(uplink_kbps=12_000, latency_ms=50)
        sent_s = fast.carry(0.0, 70 * SEGMENT_BYTES).sent_s
        fast.acknowledge(sent_s, sent_s + 1.0, packets)
        return fast._window

    assert window(packets=1) == 10
    assert window(packets=6) == 80


def test_a_new_connection_starts_slowly_again() -> None:
    fast = tcp_link(uplink_kbps=12_000, latency_ms=50)
    first = fast.carry(0.0, 70 * SEGMENT_BYTES)
    fast.reset()
    again = fast.carry(first.arrival_s, 70 * SEGMENT_BYTES)
    assert again.arrival_s - again.start_s == pytest.approx(first.arrival_s)


@pytest.mark.parametrize("loss", [0.003, 0.01, 0.03])
def test_loss_bounds_the_rate_of_reno_as_mathis_says(loss: float) -> None:
    # one segment in RTT sqrt(2 p / 3), Mathis et al. 1997; recovery and timeouts make it a little slower
    lossy, _ = links_of(Link(uplink_kbps=100_000, latency_ms=50, loss=loss), seed=7, owner="c0", tcp="reno")
    segments = int(300 / loss)
    seconds = lossy.carry(0.0, segments * SEGMENT_BYTES).arrival_s
    mathis_s = segments * lossy.path.round_trip_s * math.sqrt(2 * loss / 3)
    assert 0.88 * mathis_s < seconds < 1.25 * mathis_s


@pytest.mark.parametrize(("latency_ms", "loss"), [(100, 0.001), (200, 0.001)])
def test_loss_bounds_the_rate_of_cubic_as_its_rfc_says(latency_ms: float, loss: float) -> None:
    # RFC 9438, 5.1: a window of 1.054 RTT^(3/4) p^(-3/4) on long links, where Reno's is smaller
    cubic = tcp_link(uplink_kbps=1_000_000, latency_ms=latency_ms, loss=loss)
    cubic.carry(0.0, 20_000 * SEGMENT_BYTES)  # slow start is over
    segments, round_trip_s = 100_000, cubic.path.round_trip_s
    window = 1.054 * (round_trip_s / loss) ** 0.75
    start_s = cubic.free_s
    took_s = cubic.carry(start_s, segments * SEGMENT_BYTES).sent_s - start_s
    assert took_s == pytest.approx(segments * round_trip_s / window, rel=0.3)


def test_loss_does_not_slow_a_link_that_is_slower_anyway() -> None:
    slow = tcp_link(uplink_kbps=64, latency_ms=5, loss=0.001)
    took_s = slow.carry(0.0, 10_000 * SEGMENT_BYTES).sent_s
    assert took_s < 1.02 * 10_000 * slow.path.segment_s


def test_a_single_packet_is_repaired_by_the_timeout_as_often_as_packets_are_lost() -> None:
    links = [tcp_link_of(seed, latency_ms=50, loss=0.1) for seed in range(3000)]
    delays = np.array([link.carry(0.0, 100).arrival_s - 0.05 for link in links])
    assert set(np.round(delays, 9)) <= {0.0, 0.3, 0.6, 0.9, 1.2}  # repetitions get lost, too
    assert np.mean(delays > 0) == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("jitter", ["normal", "lognormal", "uniform"])
def test_jitter_has_the_mean_and_deviation_asked_for(jitter: str) -> None:
    shaky = tcp_link(latency_ms=100, jitter_ms=20, jitter=jitter)
    times = np.array([shaky.propagation_s() for _ in range(20_000)])
    assert times.mean() == pytest.approx(0.1, abs=0.001)
    assert times.std() == pytest.approx(0.02, abs=0.001)


@pytest.mark.parametrize("link", [{"latency_ms": 50, "jitter_ms": 10}, {"latency_ms": 50, "loss": 0.1}])
def test_every_owner_and_direction_has_a_weather_of_its_own_that_comes_back_with_the_seed(
    link: dict[str, float],
) -> None:
    def weather(seed: int, owner: str) -> list[tuple[float, ...]]:
        both = links_of(Link.model_validate(link), seed=seed, owner=owner)
        return [tuple(way.carry(9.0 * n, 50 * SEGMENT_BYTES).arrival_s for n in range(20)) for way in both]

    assert weather(1, "c0") == weather(1, "c0")
    assert len({*weather(1, "c0"), *weather(1, "c1"), *weather(2, "c0")}) == 6


def test_losses_and_jitter_do_not_change_each_other() -> None:
    def one_way_s(loss: float) -> list[float]:
        shaky = tcp_link(latency_ms=50, jitter_ms=10, jitter="uniform", loss=loss)
        return [c.arrival_s - c.sent_s for c in (shaky.carry(9.0 * n, 10_000) for n in range(30))]

    assert one_way_s(loss=0.2) == pytest.approx(one_way_s(loss=0.0))


def test_jitter_never_delivers_before_the_message_left_nor_out_of_order() -> None:
    shaky = tcp_link(latency_ms=10, jitter_ms=50)
    carried = [shaky.carry(n * 0.01, 100) for n in range(500)]
    assert all(c.arrival_s >= c.sent_s for c in carried)
    assert all(a.arrival_s <= b.arrival_s for a, b in itertools.pairwise(carried))


def test_with_a_duty_cycle_a_link_rests_after_each_message() -> None:
    # a second for each message, and 99 s of rest; a new connection changes nothing of that
    lora = tcp_link(uplink_kbps=8, duty_cycle=0.01)
    assert lora.carry(0.0, 948) == Carried(0.0, 1.0, 1.0)
    assert lora.carry(5.0, 948).start_s == 100.0
    lora.reset()
    assert lora.carry(101.5, 948).start_s == 200.0
    assert lora.carry(900.0, 948).start_s == 900.0
