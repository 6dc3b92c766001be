"""Jitter of each packet (jitter_per: packet): order, means, streams, and what TCP meets."""

import itertools
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.wire.link_bytes import SEGMENT_BYTES, framed_bytes
from scenarios.schema.links import Link
from sim.network.links.changing_link import links_of
from sim.network.links.link import TcpLink
from sim.network.links.path import Path, path_of
from sim.network.links.random_stream import RandomStream
from sim.network.links.tcp.delays import Delays

UNIFORM = {"latency_ms": 50, "jitter_ms": 20, "jitter": "uniform", "jitter_per": "packet"}
HALF_WIDTH_S = math.sqrt(3) * 0.02

SENDS = st.lists(st.tuples(st.floats(0, 3), st.integers(1, 150_000)), min_size=1, max_size=8)
KINDS = st.sampled_from([{}, {"loss": 0.03}, {"trace": "walk-5g", "start": "together"}, {"duty_cycle": 0.5}])


def uplink(**link: object) -> TcpLink:
    return links_of(Link.model_validate(link), seed=7, owner="c0")[0]


def path(**link: object) -> Path:
    return path_of(Link.model_validate(UNIFORM | link), "up")


def draws(stream: str, way: str = "up") -> RandomStream:
    return RandomStream(7, stream, "c0", way)


def one_way_s(stream: RandomStream) -> float:
    return 0.05 + HALF_WIDTH_S * (2 * stream.uniform() - 1)


def test_a_message_waits_for_the_slowest_of_its_packets() -> None:
    fast = uplink(**UNIFORM | {"jitter_ms": 1})
    assert fast.carry(0.0, 8 * SEGMENT_BYTES).arrival_s > 0.05
    own, stream = uplink(**UNIFORM), draws("jitter")
    for number in range(20):
        carried = own.carry(9.0 * number, 8 * SEGMENT_BYTES)  # a window, on a link of unlimited rate
        assert carried.arrival_s - carried.start_s == pytest.approx(max(one_way_s(stream) for _ in range(8)))


def test_what_is_acknowledged_late_opens_the_window_late() -> None:
    # ten segments fill the first window; the eleventh leaves when the first acknowledgement is back
    own, packets, answers = uplink(**UNIFORM), draws("jitter"), draws("jitter of answers")
    carried = own.carry(0.0, 11 * SEGMENT_BYTES)
    first_s = one_way_s(packets)
    ten_s = max(first_s, *(one_way_s(packets) for _ in range(9)))
    left_s = first_s + one_way_s(answers)
    assert carried.sent_s == pytest.approx(left_s)
    assert carried.arrival_s == pytest.approx(max(ten_s, left_s + one_way_s(packets)))


@given(KINDS, SENDS)
def test_order_is_kept_and_nothing_comes_sooner_than_its_bytes_and_the_shortest_way(
    kind: dict[str, object], sends: list[tuple[float, int]]
) -> None:
    form = UNIFORM | {"uplink_kbps": 4000} | kind
    own, now_s, carried = uplink(**form), 0.0, []
    rate = 44_000e3 / 8 if "trace" in form else 500_000  # the trace is never faster
    for wait_s, size in sends:
        now_s += wait_s
        carried.append(own.carry(now_s, size))
        least_s = 0.0 if "trace" in form else 0.05 - HALF_WIDTH_S
        assert carried[-1].arrival_s >= carried[-1].start_s + least_s
        assert "trace" in form or carried[-1].sent_s >= carried[-1].start_s + framed_bytes(size) / rate - 1e-9
        arrivals = [at_s for at_s, _ in own._progress]
        assert arrivals == sorted(arrivals)
        assert arrivals[-1] == carried[-1].arrival_s
    assert all(a.arrival_s <= b.arrival_s for a, b in itertools.pairwise(carried))


@given(KINDS, SENDS, st.sampled_from(["normal", "lognormal", "uniform"]))
def test_without_jitter_packets_arrive_as_on_the_same_link_that_has_no_such_key(
    kind: dict[str, object], sends: list[tuple[float, int]], jitter: str
) -> None:
    plain = {"uplink_kbps": 4000, "latency_ms": 30} | kind
    both = uplink(**plain), uplink(**plain | {"jitter_ms": 0, "jitter": jitter, "jitter_per": "packet"})
    now_s = 0.0
    for wait_s, size in sends:
        now_s += wait_s
        first, second = (way.carry(now_s, size) for way in both)
        assert first == second


@pytest.mark.parametrize("jitter", ["normal", "lognormal", "uniform"])
def test_times_of_single_packets_have_the_mean_and_deviation_asked_for(jitter: str) -> None:
    own = uplink(**UNIFORM | {"latency_ms": 100, "jitter": jitter})
    times = [own.carry(9.0 * number, 100).arrival_s - 9.0 * number for number in range(4000)]
    assert statistics.mean(times) == pytest.approx(0.1, abs=0.001)
    assert statistics.stdev(times) == pytest.approx(0.02, abs=0.001)


@given(st.lists(st.sampled_from(["answer", "puback"]), max_size=30), st.integers(1, 20))
def test_what_answers_draws_leaves_the_times_of_packets_alone(others: list[str], packets: int) -> None:
    quiet, busy = Delays(7, "c0", "up"), Delays(7, "c0", "up")
    for number in range(packets):
        for other in others:
            if other == "answer":
                busy.back_s(float(number), path())
            else:
                busy.there_and_back_s(path())
        assert busy.arrival_s(float(number), path()) == quiet.arrival_s(float(number), path())


@given(SENDS)
def test_messages_the_other_way_leave_the_times_of_packets_alone(sends: list[tuple[float, int]]) -> None:
    # their PUBACKs keep the window open and are timed, but single packets arrive as drawn
    link = Link.model_validate(UNIFORM)
    alone, (up, down) = links_of(link, seed=7, owner="c0")[0], links_of(link, seed=7, owner="c0")
    for number, (wait_s, size) in enumerate(sends):
        now_s = 20.0 * number
        back = down.carry(now_s + wait_s, size)
        up.acknowledge(back.start_s, back.arrival_s, 1, down)
        assert up.carry(now_s + 9, 900).arrival_s == alone.carry(now_s + 9, 900).arrival_s


def test_a_puback_has_two_times_of_its_own() -> None:
    delays, stream = Delays(7, "c0", "up"), draws("jitter of PUBACKs")
    for _ in range(5):
        assert delays.there_and_back_s(path()) == pytest.approx(one_way_s(stream) + one_way_s(stream))


def test_a_new_connection_forgets_what_was_on_its_way() -> None:
    delays = Delays(7, "c0", "up")
    delays.arrival_s(100.0, path())
    delays.back_s(100.0, path())
    delays.reset()
    assert delays.arrival_s(1.0, path()) < 2
    assert delays.back_s(1.0, path()) < 2


def test_every_owner_and_direction_has_times_of_its_own_that_come_back_with_the_seed() -> None:
    def times(seed: int, owner: str) -> list[tuple[float, ...]]:
        both = links_of(Link.model_validate(UNIFORM), seed=seed, owner=owner)
        return [tuple(way.carry(9.0 * n, 50 * SEGMENT_BYTES).arrival_s for n in range(20)) for way in both]

    assert times(1, "c0") == times(1, "c0")
    assert len({*times(1, "c0"), *times(1, "c1"), *times(2, "c0")}) == 6


def test_jitter_of_packets_makes_slow_start_end_early() -> None:
    # Linux's HyStart takes round trips that vary for a queue that grows: 10 % of the time one way is enough
    def took_s(**jitter: object) -> float:
        own = uplink(uplink_kbps=50_000, latency_ms=50, **jitter)
        return statistics.mean(own.carry(20.0 * n, 700_000).arrival_s - 20.0 * n for n in range(20))

    by_message = took_s(jitter_ms=10)
    assert took_s(jitter_ms=10, jitter_per="packet") > 1.15 * by_message
