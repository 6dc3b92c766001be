"""Links that change: traces, chains of states, bursts of loss; alone or behind an access point."""

import itertools
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.wire.link_bytes import framed_bytes
from scenarios.schema.links import GilbertElliott, Link, MarkovState
from scenarios.schema.network import AccessPoint
from sim.network.clock import Clock
from sim.network.links.access_point import bottlenecks_of
from sim.network.links.bottleneck import Bottleneck, Transfer
from sim.network.links.changing_link import links_of
from sim.network.links.course import Course, MarkovCourse, TraceCourse
from sim.network.links.link import TcpLink
from sim.network.links.losses import Losses
from sim.network.links.packet_queue import PacketQueue
from sim.network.links.path import path_of
from sim.network.links.random_stream import RandomStream
from sim.network.links.shared_link import SharedTcpLink

Rows = list[tuple[float, float]]
"""Seconds that a row lasts, and its kbit/s."""

ROWS = st.lists(
    st.tuples(st.sampled_from([0.1, 0.5, 1.0, 2.5]), st.sampled_from([0.0, 8.0, 80.0, 4000.0])),
    min_size=2,
    max_size=6,
).filter(lambda rows: any(kbps for _, kbps in rows[:-1]) and rows[-1][1] > 0)


def trace_file(folder: Path, rows: Rows, **columns: float) -> Path:
    begins_s = [0.0, *itertools.accumulate(seconds for seconds, _ in rows)]
    lines = ["time_s,uplink_kbps" + "".join(f",{name}" for name in columns)]
    for begin_s, (_, kbps) in zip(begins_s, rows, strict=False):
        lines.append(f"{begin_s},{kbps}" + "".join(f",{value}" for value in columns.values()))
    file = folder / f"trace-{abs(hash(tuple(lines)))}.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


def uplink(link: Link, *, seed: int = 7, owner: str = "c0") -> TcpLink:
    return links_of(link, seed=seed, owner=owner)[0]


def uplink_of(folder: Path, rows: Rows, *, repeat: bool = True, **link: object) -> TcpLink:
    form = {"trace": str(trace_file(folder, rows)), "repeat": repeat, "start": "together"} | link
    return uplink(Link.model_validate(form))


def ends_by_hand(rows: Rows, start_s: float, size: float) -> float:
    """Let bytes leave row by row, repeated; the last row lasts as long as the one before."""
    lengths = [seconds for seconds, _ in rows[:-1]]
    lengths.append(lengths[-1])
    at_s = 0.0
    for length, (_, kbps) in itertools.cycle(zip(lengths, rows, strict=True)):
        until_s = at_s + length
        free_s = max(0.0, until_s - max(at_s, start_s))
        rate = kbps * 125
        if rate * free_s >= size:
            return max(at_s, start_s) + size / rate
        size -= rate * free_s
        at_s = until_s
    raise AssertionError


SLIVER = 1e-7
"""So much of a byte rounding may leave over; where an outage begins, on either side of it a message ends."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("traces")


def test_bytes_leave_at_the_rates_that_hold_while_they_leave(folder: Path) -> None:
    # 1000 byte/s for a second, nothing for two, then 2000 byte/s
    link = uplink_of(folder, [(1, 8), (2, 0), (9, 16)], latency_ms=250)
    carried = link.carry(0.5, 1448)  # 1500 bytes with the header: 500 until 1.0, 1000 from 3.0 on
    assert (carried.start_s, carried.sent_s, carried.arrival_s) == (0.5, 3.5, 3.75)


def test_in_an_outage_a_message_waits_for_its_end(folder: Path) -> None:
    link = uplink_of(folder, [(1, 8), (2, 0), (9, 16)])
    assert link.carry(1.5, 1948).sent_s == 4.0 + framed_bytes(1948) / 2000 - 1


@given(rows=ROWS, sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=5), wait_s=st.floats(0, 20))
def test_one_message_after_another_takes_what_the_trace_carries(
    folder: Path, rows: Rows, sizes: list[int], wait_s: float
) -> None:
    # messages of a window or less: TCP never pauses
    link, idle_s = uplink_of(folder, rows), 0.0
    for number, size in enumerate(sizes):
        now_s = number * wait_s
        begins_s, idle_s = max(now_s, idle_s), link.carry(now_s, size).sent_s
        first_s, last_s = (
            ends_by_hand(rows, begins_s, framed_bytes(size) + each) for each in (-SLIVER, SLIVER)
        )
        tolerance_s = 1e-9 * max(1.0, idle_s)
        assert first_s - tolerance_s <= idle_s <= last_s + tolerance_s


def test_the_last_row_stays_without_repeat(folder: Path) -> None:
    rows = [(1.0, 8.0), (1.0, 80.0)]
    assert uplink_of(folder, rows, repeat=False).carry(500.0, 948).sent_s == pytest.approx(500.1)
    assert uplink_of(folder, rows).carry(500.0, 948).sent_s == pytest.approx(501.0)


def test_what_a_trace_does_not_say_is_as_in_the_link(folder: Path) -> None:
    form = {
        "trace": str(trace_file(folder, [(1, 8), (1, 8)], latency_ms=70)),
        "downlink_kbps": 16,
        "loss": 0.01,
    }
    up, down = links_of(Link.model_validate(form), seed=0, owner="c0")
    assert (up.path.bytes_per_s, up.latency_s, up.path.loss) == (1000, 0.07, 0.01)
    assert (down.path.bytes_per_s, down.latency_s) == (2000, 0.07)


def test_each_client_begins_at_its_own_place_and_both_its_directions_at_the_same(folder: Path) -> None:
    rows = [(1.0, float(kbps)) for kbps in range(8, 808, 8)]
    link = Link(trace=str(trace_file(folder, rows)))
    begins = [uplink(link, owner=f"c{number}").path.bytes_per_s for number in range(20)]
    assert len(set(begins)) > 10
    assert begins == [uplink(link, owner=f"c{number}").path.bytes_per_s for number in range(20)]
    assert begins != [uplink(link, seed=8, owner=f"c{number}").path.bytes_per_s for number in range(20)]
    together = Link(trace=link.trace, start="together")
    assert {uplink(together, owner=f"c{number}").path.bytes_per_s for number in range(20)} == {1000}


STATES = (
    MarkovState(mean_s=3, uplink_kbps=8, downlink_kbps=80),
    MarkovState(mean_s=1, uplink_kbps=0, downlink_kbps=0),
)


def test_a_chain_is_in_each_state_as_long_as_its_mean_says() -> None:
    course = MarkovCourse((3.0, 1.0, 6.0), RandomStream(1, "states"))
    seconds, at_s = [0.0, 0.0, 0.0], 0.0
    for until_s, state in itertools.islice(course.pieces(0.0, 0.0), 6000):
        seconds[state] += until_s - at_s
        at_s = until_s
    # each state is left to both others alike, so all are entered equally often
    assert [100 * each / at_s for each in seconds] == pytest.approx([30, 10, 60], abs=2.5)


def test_a_chain_begins_as_it_is_found_at_any_moment() -> None:
    firsts = [next(MarkovCourse((3.0, 1.0), RandomStream(n, "states")).pieces(0, 0))[1] for n in range(2000)]
    assert sum(firsts) / 2000 == pytest.approx(0.25, abs=0.03)


def test_both_directions_are_in_the_same_state() -> None:
    link = Link(states=STATES)
    up, down = links_of(link, seed=3, owner="c0")
    found = set[tuple[bool, ...]]()
    for second in range(200):
        found.add(tuple(way.line(second).leave(second, 1e-9)[1] > second + 1e-3 for way in (up, down)))
    assert found == {(False, False), (True, True)}  # it goes at once, or waits for the end of the outage


def test_what_waits_in_one_direction_leaves_the_other_as_it_is() -> None:
    link = Link(states=STATES, latency_ms=10)
    for seed in range(20):
        up, down = links_of(link, seed=seed, owner="c0")
        quiet = links_of(link, seed=seed, owner="c0")[1]
        for _ in range(3):
            up.carry(0.0, 10_000)  # ten seconds each, and more
        for second in range(10):
            assert down.carry(second, 500) == quiet.carry(second, 500)


@settings(max_examples=250, deadline=None)
@given(
    st.sampled_from([Link(states=STATES, latency_ms=10), Link(trace="train-lte", start="per_client")]),
    st.integers(0, 10**6),
    st.lists(
        st.tuples(st.integers(0, 60), st.booleans(), st.sampled_from([500, 10_000, 40_000])), max_size=20
    ),
)
def test_whatever_goes_one_way_leaves_the_other_way_as_it_is(
    link: Link, seed: int, sent: list[tuple[float, bool, int]]
) -> None:
    up, down = links_of(link, seed=seed, owner="c0")
    quiet = links_of(link, seed=seed, owner="c0")[1]
    for at_s, is_up, size in sorted(sent):
        if is_up:
            up.carry(at_s, size)
        else:
            assert down.carry(at_s, size) == quiet.carry(at_s, size)


COURSES = st.one_of(
    st.builds(
        lambda rows, offset: TraceCourse(
            tuple(itertools.accumulate([0.0, *rows[:-1]])), sum(rows), offset * sum(rows)
        ),
        st.lists(st.sampled_from([0.1, 0.3, 1.0, 7.0]), min_size=2, max_size=5),
        st.floats(0, 1, exclude_max=True),
    ),
    st.builds(lambda n: MarkovCourse((1.0, 0.2, 3.0), RandomStream(n, "x")), st.integers(0, 99)),
)


@given(COURSES, st.lists(st.tuples(st.floats(0, 30), st.floats(0, 30)), min_size=1, max_size=8))
def test_pieces_follow_each_other_and_agree_whenever_they_are_asked_for(
    course: Course, asked: list[tuple[float, float]]
) -> None:
    known: dict[float, int] = {}
    now_s = 0.0
    for wait_s, ahead_s in asked:
        now_s += wait_s
        pieces = list(itertools.islice(course.pieces(now_s, now_s + ahead_s), 4))
        assert pieces[0][0] > now_s + ahead_s
        assert [until for until, _ in pieces] == sorted(until for until, _ in pieces)
        for until_s, state in pieces:
            same = [each for each in known if math.isclose(each, until_s, rel_tol=1e-12, abs_tol=1e-9)]
            assert {known[each] for each in same} <= {state}
            known[until_s] = state


BURSTS = GilbertElliott(p=0.02, r=0.25, loss_in_bad=0.8, loss_in_good=0.001)


def test_bursts_lose_as_many_packets_as_their_mean_says_and_in_a_row() -> None:
    path = path_of(Link(loss=BURSTS), "up")
    assert path.loss == BURSTS.mean
    losses = Losses(5)
    lost = [losses.is_lost(path) for _ in range(60_000)]
    assert sum(lost) / len(lost) == pytest.approx(BURSTS.mean, rel=0.1)
    again = sum(first and second for first, second in itertools.pairwise(lost)) / sum(lost)
    assert again == pytest.approx(0.8 * 0.75, abs=0.04)  # still bad, and lost; independent losses: 0.06


SHARED = st.sampled_from(
    [
        Link(states=STATES, latency_ms=30),
        Link(trace="train-lte", jitter_ms=5),
        Link(trace="leo-satellite", start="together", loss=0.02),
        Link(uplink_kbps=400, loss=BURSTS, latency_ms=20),
        Link(uplink_kbps=400, duty_cycle=0.1, latency_ms=20),
        Link(uplink_kbps=4000, latency_ms=40, jitter_ms=15, jitter_per="packet"),
        Link(trace="train-lte", jitter_ms=15, jitter_per="packet", loss=0.01),
    ]
)


@given(
    SHARED,
    st.integers(0, 50),
    st.lists(st.tuples(st.floats(0, 60), st.integers(1, 400_000)), min_size=1, max_size=10),
)
def test_alone_behind_an_idle_access_point_a_changing_link_is_as_fast_as_its_own(
    link: Link, seed: int, sends: list[tuple[float, int]]
) -> None:
    own, clock, arrivals = uplink(link, seed=seed), Clock(), list[float]()
    kind = PacketQueue if own.by_segments else Bottleneck
    shared = SharedTcpLink(clock, uplink(link, seed=seed), kind(clock, math.inf))
    now_s, expected = 0.0, list[float]()
    for wait_s, size in sends:
        now_s += wait_s
        clock.at(now_s, shared.send, size, lambda _: arrivals.append(clock.now))
        expected.append(own.carry(now_s, size).arrival_s)
    clock.run()
    assert arrivals == pytest.approx(expected, abs=1e-6, rel=0)


@given(ROWS, st.lists(st.tuples(st.floats(0, 10), st.integers(1, 2000)), min_size=1, max_size=6))
def test_an_access_point_carries_what_its_trace_says_however_many_share_it(
    folder: Path, rows: Rows, sends: list[tuple[float, int]]
) -> None:
    # a fluid is busy without a pause while there is something: the last byte leaves as if all were one queue
    clock, ends = Clock(), list[float]()
    point = AccessPoint(trace=str(trace_file(folder, rows)))
    up, _ = bottlenecks_of(clock, point, seed=1, owner="point")
    assert isinstance(up, Bottleneck)
    first_s = last_s = 0.0
    for at_s, size in sorted(sends):
        clock.at(at_s, lambda size: up.begin(Transfer(size, math.inf, lambda: ends.append(clock.now))), size)
        first_s = ends_by_hand(rows, max(first_s, at_s), size - SLIVER)
        last_s = ends_by_hand(rows, max(last_s, at_s), size + SLIVER)
    clock.run()
    assert len(ends) == len(sends)
    tolerance_s = max(1e-6, 1e-9 * last_s)
    assert first_s - tolerance_s <= max(ends) <= last_s + tolerance_s
