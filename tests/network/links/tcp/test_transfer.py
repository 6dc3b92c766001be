"""Messages over a connection that loses what a test says; a full packet takes 1 ms, the way 50 ms."""

import dataclasses
import statistics
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.wire.link_bytes import SEGMENT_BYTES
from scenarios.schema.links import Link, LinkState, Tcp
from sim.network.links.changing_link import ChangingLink
from sim.network.links.course import TraceCourse
from sim.network.links.losses import Losses
from sim.network.links.path import Path, path_of
from sim.network.links.random_stream import RandomStream
from sim.network.links.tcp.connection import Connection
from sim.network.links.tcp.line import Line
from sim.network.links.tcp.window import Reno, window_of

SEGMENT_S, WAY_S = 0.001, 0.05
ROUND_TRIP_S = 2 * WAY_S


def none() -> bool:
    return False


def losing(*numbers: int) -> Callable[[], bool]:
    """Lose these packets, counted from 0 in the order in which they are sent."""
    sent = iter(range(10**9))
    return lambda: next(sent) in numbers


class Fates(Losses):
    """Loses what a test says."""

    def __init__(self, packet: Callable[[], bool], answer: Callable[[], bool] = none) -> None:
        self.packet, self.answer = packet, answer

    def is_lost(self, path: Path) -> bool:
        del path
        return self.packet()

    def is_answer_lost(self, path: Path) -> bool:
        del path
        return self.answer()


def line(losses: Losses, segment_s: float = SEGMENT_S, way_s: float = WAY_S) -> Line:
    path = dataclasses.replace(path_of(Link(), "up"), segment_s=segment_s, latency_s=way_s)
    return Line(path, losses)


def connection(tcp: Tcp = "cubic", window: int = 10) -> Connection:
    made = Connection(window_of(tcp), ROUND_TRIP_S)
    made.window.size = window
    return made


def send(
    made: Connection, segments: int, is_lost: Callable[[], bool] = none, start_s: float = 0.0
) -> Sequence[tuple[float, int]]:
    return made.send(start_s, segments, 1.0, line(Fates(is_lost))).progress


def took_s(segments: int, *lost: int, window: int = 10) -> float:
    return send(connection(window=window), segments, losing(*lost))[-1][0]


def test_without_loss_a_message_takes_its_bytes_the_way_and_the_waits_of_slow_start() -> None:
    assert took_s(10) == pytest.approx(0.010 + WAY_S)
    # the first acknowledgement is back after 101 ms; from then on two segments leave for each one
    assert took_s(30) == pytest.approx(0.101 + 0.020 + WAY_S)


@pytest.mark.parametrize(
    ("lost", "seconds"),
    [
        pytest.param((2,), 0.006 + ROUND_TRIP_S, id="three beyond the gap tell"),
        pytest.param((7,), 0.010 + 1.25 * ROUND_TRIP_S, id="two need a quarter of a round trip more"),
        pytest.param((8, 9), 4 * ROUND_TRIP_S + 0.016, id="nobody tells: a probe after two round trips does"),
        pytest.param((9,), 0.11 + ROUND_TRIP_S + 0.2, id="the last one alone waits for the timeout"),
    ],
)
def test_what_a_loss_costs(lost: tuple[int, ...], seconds: float) -> None:
    assert took_s(10, *lost) == pytest.approx(seconds + WAY_S, abs=0.012)


def test_a_single_segment_waits_for_the_timeout() -> None:
    assert took_s(1, 0) == pytest.approx(ROUND_TRIP_S + 0.2 + SEGMENT_S + WAY_S)
    assert took_s(1, 0, 1) == pytest.approx(2 * (ROUND_TRIP_S + 0.2) + SEGMENT_S + WAY_S)
    assert took_s(1, 0, 1, 2) == pytest.approx(4 * (ROUND_TRIP_S + 0.2) + SEGMENT_S + WAY_S)


def test_a_loss_in_the_middle_of_a_long_message_costs_only_its_repetition_while_the_line_is_busy() -> None:
    made = connection()
    start_s = send(made, 500)[-1][0] + WAY_S
    took_s = send(made, 2000, losing(500), start_s=start_s)[-1][0] - start_s
    assert took_s == pytest.approx(2.001 + WAY_S, abs=0.002)


def test_losses_of_one_round_trip_reduce_the_window_once() -> None:
    made = connection("reno", window=100)
    made.window.threshold = 100
    send(made, 100, losing(10, 30, 50))
    assert made.window.threshold == 50
    assert made.window.size in (50, 51)


def test_a_silence_halves_the_window_for_each_timeout_but_a_puback_ends_it() -> None:
    made = connection(window=80)
    send(made, 80)
    quiet, told = made.window.size, connection(window=80)
    send(told, 80)
    told.acknowledge(0.35, ROUND_TRIP_S)
    send(made, 1, start_s=0.7)
    send(told, 1, start_s=0.7)
    assert (quiet, made.window.size, told.window.size) == (160, 80, 160)


@pytest.mark.parametrize(
    ("puback_s", "seconds"),
    [
        pytest.param(0.0, 0.101 + 0.001, id="acknowledged before, it is no more there"),
        pytest.param(0.92, 0.06 + 0.002, id="its acknowledgement lets the last two go at 0.06 s"),
        pytest.param(1.0, 0.101 + 0.002, id="later than that of the first segments"),
    ],
)
def test_a_puback_under_way_is_a_segment_of_the_window(puback_s: float, seconds: float) -> None:
    # 11 segments and a window of 10: nine go at first, and two when the PUBACK is acknowledged
    made = connection(window=10)
    send(made, 1)
    made.acknowledge(puback_s, ROUND_TRIP_S)
    made.window.size = 10
    assert send(made, 11, start_s=1.0)[-1][0] - 1.0 == pytest.approx(seconds + WAY_S, abs=0.0005)


@pytest.mark.parametrize(("window", "grown"), [(40, 111), (71, 142), (100, 142), (150, 150)])
def test_the_window_grows_by_all_of_a_message_that_filled_it_once_and_else_to_twice_its_size(
    window: int, grown: int
) -> None:
    made = connection("reno", window=window)
    send(made, 71)
    assert made.window.size == grown


def test_while_a_puback_is_under_way_there_is_no_silence() -> None:
    class Rests(Reno):
        def rested(self, silence_s: float) -> None:
            rests_s.append(silence_s)

    rests_s: list[float] = []
    made = Connection(Rests(), ROUND_TRIP_S)
    send(made, 1)
    for at_s in (0.1, 0.2, 0.9):  # each is acknowledged 140 ms later
        made.acknowledge(at_s, ROUND_TRIP_S)
    send(made, 1, start_s=1.0)
    assert rests_s == pytest.approx([0.1, 0.7])


@settings(max_examples=60)
@given(
    st.integers(0, 2**32),
    st.integers(1, 120),
    st.sampled_from([0.001, 0.01, 0.1, 0.5]),
    st.sampled_from([0.0, 1e-5, 0.001, 0.2]),
    st.sampled_from([0.0, 0.01, 0.3]),
)
def test_every_message_arrives_whole_in_order_and_no_sooner_than_its_bytes(
    seed: int, segments: int, loss: float, segment_s: float, way_s: float
) -> None:
    draws = RandomStream(seed, "loss")
    fates = Fates(lambda: draws.uniform() < loss, lambda: draws.uniform() < loss)
    made, start_s = Connection(window_of("cubic"), 2 * way_s), 3.0
    for _ in range(3):
        progress = made.send(start_s, segments, 1.0, line(fates, segment_s, way_s)).progress
        assert progress[0] == (start_s, 0)
        assert progress[-1][1] == segments
        assert list(progress) == sorted(progress)
        assert progress[-1][0] >= start_s + segments * segment_s + way_s - 1e-9
        start_s = progress[-1][0] + way_s
        assert made.window.size >= 1


def mean_s(segments: int, loss: float, *, segment_s: float = SEGMENT_S, way_s: float = WAY_S) -> float:
    draws, start_s, taken = RandomStream(4, "loss"), 0.0, []
    fates = Fates(lambda: draws.uniform() < loss)
    made = Connection(window_of("cubic"), 2 * way_s)
    for _ in range(150):
        progress = made.send(start_s, segments, 1.0, line(fates, segment_s, way_s)).progress
        taken.append(progress[-1][0] - start_s)
        start_s = progress[-1][0] + way_s
    return statistics.mean(taken)


def test_messages_take_longer_the_more_is_lost_the_longer_they_are_and_the_slower_the_link() -> None:
    means = [mean_s(50, loss) for loss in (0.0, 0.003, 0.02, 0.1)]
    assert means == sorted(means)
    means = [mean_s(segments, 0.02) for segments in (5, 20, 80)]
    assert means == sorted(means)
    means = [mean_s(50, 0.02, segment_s=segment_s) for segment_s in (0.0002, 0.002, 0.02)]
    assert means == sorted(means)
    means = [mean_s(50, 0.02, way_s=way_s) for way_s in (0.01, 0.05, 0.2)]
    assert means == sorted(means)


def test_a_timeout_that_was_none_is_taken_back() -> None:
    # an outage holds back what is sent; it comes just after the timeout, at 0.635 s
    course, link = TraceCourse((0.0, 0.01, 0.632), 99.0, 0.0), Link(uplink_kbps=12_000, latency_ms=50)
    paths = tuple(path_of(link, "up", LinkState(uplink_kbps=rate)) for rate in (12_000.0, 0.0, 12_000.0))
    changing = ChangingLink(course, paths, seed=1, owner=("c0", "up"))
    changing.connection.window.size = 40
    assert changing.carry(0.0, 40 * SEGMENT_BYTES).arrival_s == pytest.approx(0.662 + WAY_S, abs=0.004)
    window = changing.connection.window
    assert (window.size, window.threshold) == (
        61,
        60,
    )  # slow start until HyStart saw the outage, then one more
