"""A queue of packets behind lossy links: literal times, and what holds for any conversation."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.wire.link_bytes import SEGMENT_BYTES, framed_bytes
from scenarios.schema.links import GilbertElliott, Link
from scenarios.schema.network import AccessPoint
from scenarios.schema.scenario import Scenario
from sim.chrome_trace import Trace
from sim.network.clock import Clock
from sim.network.links.access_point import sends_segments
from sim.network.links.bottleneck import Bottleneck
from sim.network.links.changing_link import links_of
from sim.network.links.packet_queue import PacketQueue
from sim.network.links.path import Path
from sim.network.links.shared_link import SharedTcpLink, shared
from sim.network.links.tcp.line import Line
from sim.network.links.tcp.passage import Passage
from sim.simulation.devices import make_endpoints

LOSSY = Link(uplink_kbps=4_000, downlink_kbps=4_000, latency_ms=20, loss=0.02)
QUIET = LOSSY.model_copy(update={"loss": 0.0})


def uplink(clock: Clock, queue: PacketQueue, owner: str = "c0", link: Link = QUIET) -> SharedTcpLink:
    return SharedTcpLink(clock, links_of(link, seed=3, owner=owner)[0], queue)


def test_packets_leave_in_the_order_in_which_they_came_at_the_rate_of_the_queue() -> None:
    queue = PacketQueue(Clock(), 1000)
    assert queue.leave(0.0, 0.0, 500) == 0.5
    assert queue.leave(0.1, 0.2, 500) == 1.0
    assert queue.leave(3.0, 3.0, 500) == 3.5


def test_a_packet_may_leave_while_it_still_comes() -> None:
    queue = PacketQueue(Clock(), 1000)
    assert queue.leave(0.0, 0.5, 500) == 0.5  # as fast as the line before
    assert queue.leave(0.5, 0.6, 500) == 1.0  # faster
    assert queue.leave(2.0, 3.0, 500) == 3.0  # slower
    assert PacketQueue(Clock(), math.inf).leave(1.0, 2.0, 500) == 2.0


def test_a_packet_takes_the_rates_that_hold_while_it_leaves_and_waits_in_an_outage() -> None:
    rates = {0.0: (1000.0, 1.0), 1.0: (0.0, 4.0), 4.0: (100.0, math.inf)}
    queue = PacketQueue(Clock(), lambda at_s: rates[max(time_s for time_s in rates if time_s <= at_s)])
    assert queue.leave(0.5, 0.5, 600) == 5.0


def test_it_tells_how_long_until_it_is_empty() -> None:
    clock = Clock()
    queue = PacketQueue(clock, 1000)
    assert queue.wait_s() == 0.0
    queue.leave(0.0, 0.0, 2500)
    clock.at(1.0, lambda: None)
    clock.run()
    assert queue.wait_s() == 1.5


def test_two_devices_take_turns_packet_by_packet() -> None:
    clock, log = Clock(), dict[str, float]()
    queue = PacketQueue(clock, 500_000)  # as fast as each of them alone
    for name in ("a", "b"):
        size = 10 * SEGMENT_BYTES
        uplink(clock, queue, name).send(size, lambda _, name: log.update({name: clock.now}), name)
    clock.run()
    assert log == {"a": pytest.approx(19 * 0.003 + 0.02), "b": pytest.approx(20 * 0.003 + 0.02)}


def test_who_has_more_under_way_gets_more() -> None:
    # 30 segments of each: the window of one of them is open already, the other has 10 at first
    def arrival_s(window: int) -> float:
        clock, log = Clock(), list[float]()
        queue = PacketQueue(clock, 125_000)
        first, second = links_of(QUIET, seed=3, owner="a")[0], uplink(clock, queue, "b")
        first.connection.window.size = window
        SharedTcpLink(clock, first, queue).send(30 * SEGMENT_BYTES, lambda _: log.append(clock.now))
        second.send(30 * SEGMENT_BYTES, lambda _: None)
        clock.run()
        return log[0]

    assert arrival_s(window=30) < 0.8 * arrival_s(window=10)


def test_acknowledgements_wait_in_the_queue_of_the_other_direction() -> None:
    def arrival_s(*, busy: bool) -> float:
        clock, log = Clock(), list[float]()
        way, back = PacketQueue(clock, math.inf), PacketQueue(clock, 100_000)
        if busy:
            clock.at(0.01, lambda: log.append(back.leave(0.01, 0.01, 30_000)))
        link = SharedTcpLink(clock, links_of(QUIET, seed=3, owner="a")[0], way, back)
        link.send(20 * SEGMENT_BYTES, lambda _: log.append(clock.now))
        clock.run()
        return log[-1]

    # the second ten segments go when the first ten have been acknowledged
    assert arrival_s(busy=False) == pytest.approx(0.043 + 0.030 + 0.02)
    # and here one of them has gone before, as a probe
    assert arrival_s(busy=True) == pytest.approx(0.31 + 0.02 + 0.027 + 0.02)


def test_acknowledgements_that_wait_for_the_other_direction_keep_their_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # both would be back at 0.3 s; the first finds more in the queue than the second
    class Held(Line):
        def answer(self, now_s: float, path: Path) -> float | None:
            del path
            asked_s.append(now_s)
            return 0.3

    clock, asked_s, taken_s = Clock(), list[float](), list[float]()
    back = PacketQueue(clock, 1000)
    link = links_of(QUIET, seed=3, owner="a")[0]
    line, queue = Held(link.path, None), PacketQueue(clock, math.inf)
    passage = Passage(clock, link.connection, 12, 1.0, line, queue, back, lambda: None)
    clock.at(0.0, lambda: taken_s.append(back.leave(0.0, 0.0, 1000)))
    take = passage._transfer.acknowledged

    def taking(now_s: float, *what: Any) -> None:
        taken_s.append(now_s)
        take(now_s, *what)

    monkeypatch.setattr(passage._transfer, "acknowledged", taking)
    clock.run()
    first_s = 0.3 + 1.0 - asked_s[0]
    assert asked_s[1] > asked_s[0]
    assert taken_s[1:3] == pytest.approx([first_s, first_s])  # after the time at which the queue is empty


def test_a_reset_takes_what_is_under_way_with_it() -> None:
    clock, log = Clock(), list[float]()
    queue = PacketQueue(clock, 50_000)
    link = uplink(clock, queue, link=LOSSY)
    for _ in range(3):
        link.send(50_000, lambda _: log.append(clock.now))
    clock.at(0.5, link.reset)
    clock.at(20.0, link.send, 948, log.append)
    clock.run()
    assert (log, link.under_way) == ([20.0], 0)


SENDS = st.lists(
    st.tuples(st.floats(0, 10), st.integers(0, 3), st.integers(1, 60_000)), min_size=1, max_size=12
)
BURSTS = LOSSY.model_copy(update={"loss": GilbertElliott(p=0.02, r=0.3)})


@settings(max_examples=40)
@given(SENDS, st.sampled_from([LOSSY, BURSTS, QUIET]), st.sampled_from([50_000.0, 300_000.0, math.inf]))
def test_every_message_arrives_in_its_order_and_all_together_no_sooner_than_the_rate_allows(
    sends: list[tuple[float, int, int]], link: Link, bytes_per_s: float
) -> None:
    clock = Clock()
    point = PacketQueue(clock, bytes_per_s), PacketQueue(clock, bytes_per_s)
    ups = [shared(clock, links_of(link, seed=3, owner=f"c{n}"), point)[0] for n in range(4)]
    arrived: list[tuple[int, int]] = []
    for number, (at_s, client, size) in enumerate(sorted(sends)):
        clock.at(at_s, ups[client].send, size, lambda _, *what: arrived.append(what), client, number)
    clock.run()
    assert sorted(number for _, number in arrived) == list(range(len(sends)))
    for client in range(4):
        numbers = [number for of, number in arrived if of == client]
        assert numbers == sorted(numbers)
    carried_s = sum(framed_bytes(size) for *_, size in sends) / bytes_per_s
    assert clock.now >= min(sends)[0] + carried_s + link.latency_ms / 1000 - 1e-9


@given(st.integers(0, 100), st.integers(2, 6))
def test_the_same_seed_gives_the_same_times(seed: int, clients: int) -> None:
    def times() -> list[tuple[float, int]]:
        clock, log = Clock(), list[tuple[float, int]]()
        up = PacketQueue(clock, 300_000)
        for n in range(clients):
            link = SharedTcpLink(clock, links_of(LOSSY, seed=seed, owner=f"c{n}")[0], up)
            link.send(20_000, lambda _, n: log.append((clock.now, n)), n)
        clock.run()
        return log

    assert times() == times()


@pytest.mark.parametrize(
    ("link", "segments"),
    [
        (QUIET, False),
        (LOSSY, True),
        (BURSTS, True),
        (Link(trace="walk-5g"), True),
        (Link(latency_ms=20, jitter_ms=5), False),
        (Link(latency_ms=20, jitter_ms=5, jitter_per="packet"), True),
        (Link(latency_ms=20, jitter_per="packet"), False),
    ],
)
def test_segments_are_sent_where_packets_are_lost_or_the_link_changes(link: Link, *, segments: bool) -> None:
    assert sends_segments(link) == segments
    assert [way.by_segments for way in links_of(link, seed=1, owner="c0")] == [segments, segments]


def test_an_access_point_is_a_queue_if_segments_are_sent_on_one_of_its_links_and_else_a_fluid() -> None:
    points = {"quiet": AccessPoint(uplink_kbps=800), "mixed": AccessPoint(uplink_kbps=800)}
    fleet = [("quiet", QUIET), ("mixed", QUIET), ("mixed", LOSSY)]
    scenario = Scenario.model_validate(
        {
            "name": "points",
            "task": {"name": "digits28", "partition": "iid"},
            "training": {"rounds": 1, "cohort": 3, "head_lr": 0.1},
            "fleet": [{"count": 1, "link": link.model_dump(), "via": via} for via, link in fleet],
            "network": {"access_points": {name: point.model_dump() for name, point in points.items()}},
        }
    )
    ups = [endpoint.up for endpoint in make_endpoints(scenario, Clock(), Trace(())).values()]
    kinds = [type(up._point) for up in ups if isinstance(up, SharedTcpLink)]
    assert kinds == [Bottleneck, PacketQueue, PacketQueue]
