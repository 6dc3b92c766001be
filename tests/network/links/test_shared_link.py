"""A device's link behind a bottleneck: literal event times, and alone it is as its own link."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scenarios.schema.links import LINKS, Link
from sim.network.clock import Clock
from sim.network.links.access_point import Direction
from sim.network.links.bottleneck import Bottleneck
from sim.network.links.link import TcpLink
from sim.network.links.packet_queue import PacketQueue
from sim.network.links.path import path_of
from sim.network.links.shared_link import SharedTcpLink

Times = list[tuple[float, float]]
"""When a message began to leave, and when it arrived."""

LOSSY = Link(uplink_kbps=5_000, latency_ms=30, jitter_ms=10, loss=0.02)

IDLE_S = 1e5
"""By then all is sent, on the slowest of the links."""

EVENTS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.01, 0.3, 1.5, 40.0]) | st.floats(0, 5),  # seconds since the event before
        st.sampled_from(["send", "send", "send", "acknowledge", "reset when idle"]),
        st.integers(1, 400_000),  # bytes
    ),
    max_size=12,
)


SENT_AT_ONCE = [(0.0, "send", size) for size in (198_377, 4_345, 7_241, 7_241)]


def own_link(**link: object) -> TcpLink:
    return TcpLink(path_of(Link.model_validate(link), "up"), seed=0, owner=("c0", "up"))


def shared_link(clock: Clock, point: Direction, **link: object) -> SharedTcpLink:
    return SharedTcpLink(clock, own_link(**link), point)


def own_times(link: TcpLink, events: list[tuple[float, str, int]]) -> Times:
    times, now_s = Times(), 0.0
    for wait_s, what, size in events:
        now_s += wait_s if what != "reset when idle" else IDLE_S
        if what == "send":
            carried = link.carry(now_s, size)
            times.append((carried.start_s, carried.arrival_s))
        elif what == "acknowledge":
            link.acknowledge(now_s - wait_s / 2, now_s, size % 5)
        else:
            link.reset()
    return times


def shared_times(link: SharedTcpLink, clock: Clock, events: list[tuple[float, str, int]]) -> Times:
    times, now_s = Times(), 0.0
    for wait_s, what, size in events:
        now_s += wait_s if what != "reset when idle" else IDLE_S
        if what == "send":
            clock.at(now_s, link.send, size, lambda start_s: times.append((start_s, clock.now)))
        elif what == "acknowledge":
            clock.at(now_s, link.acknowledge, now_s - wait_s / 2, now_s, size % 5)
        else:
            clock.at(now_s, link.reset)
    clock.run()
    return times


def test_tcps_pauses_pass_before_the_next_message_begins() -> None:
    clock, times = Clock(), Times()
    link = shared_link(clock, Bottleneck(clock, math.inf), uplink_kbps=12_000, latency_ms=35)
    for _ in range(4):
        link.send(100_000, lambda start_s: times.append((start_s, clock.now)))
    clock.run()
    # 103,640 bytes take 69.1 ms; the first message alone pauses, 62 ms after 10 segments and 52 after 20 more
    sent_s, pauses_s = 103_640 / 1_500_000, 0.062 + 0.052
    expected = [(0.0, sent_s + pauses_s + 0.035)]
    expected += [(n * sent_s + pauses_s, (n + 1) * sent_s + pauses_s + 0.035) for n in (1, 2, 3)]
    assert times == [pytest.approx(pair) for pair in expected]


@pytest.mark.parametrize("unlimited", [True, False])
@given(link=st.sampled_from([*LINKS.values(), LOSSY]), events=EVENTS)
@example(link=LOSSY, events=[*SENT_AT_ONCE, (0.0, "acknowledge", 1), (0.0, "send", 50_681)])
def test_alone_behind_an_idle_access_point_a_link_is_as_fast_as_its_own(
    unlimited: bool, link: Link, events: list[tuple[float, str, int]]
) -> None:
    clock, own = Clock(), own_link(**link.model_dump())
    kind = PacketQueue if own.by_segments else Bottleneck
    point = kind(clock, math.inf if unlimited else own.path.bytes_per_s)
    shared = shared_times(shared_link(clock, point, **link.model_dump()), clock, events)
    assert shared == [pytest.approx(pair, abs=1e-6, rel=0) for pair in own_times(own, events)]


def test_a_shared_link_alone_is_as_fast_as_its_own() -> None:
    clock, log = Clock(), list[tuple[float, float]]()
    link = shared_link(clock, Bottleneck(clock, math.inf), uplink_kbps=8, latency_ms=250)
    link.send(948, lambda start_s: log.append((start_s, clock.now)))
    link.send(948, lambda start_s: log.append((start_s, clock.now)))
    assert link.under_way == 2
    clock.run()
    assert log == [(0.0, 1.25), (1.0, 2.25)]


def test_two_devices_behind_one_access_point_take_twice_as_long() -> None:
    clock, log = Clock(), list[float]()
    bottleneck = Bottleneck(clock, 1000)
    for _ in range(2):
        shared_link(clock, bottleneck, latency_ms=250).send(948, lambda _: log.append(clock.now))
    clock.run()
    assert log == [2.25, 2.25]


def test_a_lost_connection_takes_its_messages_with_it() -> None:
    clock, log = Clock(), list[tuple[float, float]]()
    bottleneck = Bottleneck(clock, 1000)
    leaves = shared_link(clock, bottleneck, latency_ms=250)
    stays = shared_link(clock, bottleneck)
    for link in (leaves, leaves, stays):
        link.send(948, lambda start_s: log.append((start_s, clock.now)))
    clock.at(1.0, leaves.reset)
    clock.at(1.2, leaves.send, 948, lambda start_s: log.append((start_s, clock.now)))
    clock.run()
    # stays: 500 bytes by 1.0, 200 alone by 1.2, 300 more by 1.8; the new message has 700 left then
    assert [start_s for start_s, _ in log] == [0.0, 1.2]
    assert [end_s for _, end_s in log] == pytest.approx([1.8, 1.8 + 0.7 + 0.25])


def test_messages_in_the_air_are_lost_with_each_connection() -> None:
    clock, log = Clock(), list[float]()
    link = shared_link(clock, Bottleneck(clock, 1000), latency_ms=250)
    for begin_s in (0.0, 10.0, 20.0):  # in the air from a second later, for a quarter of one
        clock.at(begin_s, link.send, 948, lambda _: log.append(clock.now))
        clock.at(begin_s + 1.1, link.reset)
    clock.run()
    assert log == []


def test_a_connection_that_is_lost_while_tcp_pauses_leaves_an_idle_link() -> None:
    clock, log = Clock(), list[tuple[float, float]]()
    link = shared_link(clock, Bottleneck(clock, math.inf), uplink_kbps=12_000, latency_ms=35)
    link.send(100_000, lambda start_s: log.append((start_s, clock.now)))  # 69 ms, then pauses of 114 ms
    clock.at(0.1, link.reset)
    for _ in range(3):  # 10 ms each, and so the second one is under way when the pauses would have ended
        clock.at(0.17, link.send, 10 * 1448, lambda start_s: log.append((start_s, clock.now)))
    clock.run()
    assert log == [pytest.approx((start_s, start_s + 0.045)) for start_s in (0.17, 0.18, 0.19)]


def test_acknowledgements_that_come_while_it_sends_change_nothing() -> None:
    # at half of the link's rate the second message takes 0.8 s: no silence, though PUBACKs come late in it
    def arrivals_s(acknowledgements: int) -> list[float]:
        clock, log = Clock(), list[float]()
        link = shared_link(clock, Bottleneck(clock, 750_000), uplink_kbps=12_000, latency_ms=35)
        for at_s, size in ((0.0, 140_000), (0.5, 600_000)):
            clock.at(at_s, link.send, size, lambda _: log.append(clock.now))
        for at_s in (1.1, 1.2)[:acknowledgements]:
            clock.at(at_s, link.acknowledge, at_s, at_s, 1)
        clock.run()
        return log

    assert arrivals_s(acknowledgements=2) == arrivals_s(acknowledgements=0)


def test_it_tells_what_its_own_link_is_like_and_how_much_is_under_way() -> None:
    clock, log = Clock(), list[tuple[float, int]]()
    link = shared_link(clock, Bottleneck(clock, 1000), uplink_kbps=800, latency_ms=250)
    assert (link.latency_s, link.path.bytes_per_s, link.under_way) == (0.25, 100_000, 0)
    for _ in range(3):
        link.send(948, lambda _: log.append((clock.now, link.under_way)))
    assert link.under_way == 3
    clock.at(2.5, link.reset)
    clock.at(2.6, lambda: log.append((clock.now, link.under_way)))
    clock.run()
    assert log == [(1.25, 2), (2.25, 1), (2.6, 0)]


def test_what_is_delivered_gets_its_start_and_its_own_arguments() -> None:
    clock, log = Clock(), list[tuple[float, str, int]]()
    link = shared_link(clock, Bottleneck(clock, 1000))
    link.send(948, lambda *what: log.append(what), "first", 1)
    link.send(948, lambda *what: log.append(what), "second", 2)
    clock.run()
    assert log == [(0.0, "first", 1), (1.0, "second", 2)]


def test_acknowledgements_that_come_while_it_is_silent_keep_the_window_open() -> None:
    def window(packets: int) -> int:
        clock = Clock()
        link = shared_link(clock, Bottleneck(clock, math.inf), uplink_kbps=12_000, latency_ms=50)
        link.send(70 * 1448, lambda _: None)
        clock.run()
        link.acknowledge(clock.now, clock.now + 1.0, packets)
        return link._link._window

    assert (window(1), window(6)) == (10, 80)


def test_a_lost_connection_begins_anew_with_the_initial_window() -> None:
    clock = Clock()
    link = shared_link(clock, Bottleneck(clock, math.inf), uplink_kbps=12_000, latency_ms=50)
    link.send(70 * 1448, lambda _: None)
    clock.run()
    assert link._link._window == 80
    link.reset()
    assert link._link._window == 10
