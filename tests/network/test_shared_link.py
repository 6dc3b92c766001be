"""Shared bottlenecks: fair rates against closed forms, and literal event times."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenarios.schema.links import Link
from sim.network.clock import Clock
from sim.network.link import TcpLink, path_of
from sim.network.shared_link import Bottleneck, SharedTcpLink, Transfer, fair_rates

RATES = st.lists(st.floats(1, 1e6), min_size=1, max_size=12)


def shared_line(clock: Clock, bottleneck: Bottleneck, **link: object) -> SharedTcpLink:
    line = TcpLink(path_of(Link.model_validate(link), "up"), seed=0, owner=("c0", "up"))
    return SharedTcpLink(clock, line, bottleneck)


def test_whoever_needs_less_than_its_share_leaves_the_rest_to_the_others() -> None:
    assert fair_rates([10, 1, 10], 9) == [4, 1, 4]
    assert fair_rates([1, 2, 3], 100) == [1, 2, 3]
    assert fair_rates([math.inf, math.inf], 10) == [5, 5]


def test_without_a_bottleneck_everybody_has_its_own_rate() -> None:
    assert fair_rates([3, math.inf, 5], math.inf) == [3, math.inf, 5]


@given(RATES, st.floats(1, 1e6))
def test_rates_are_the_water_level_found_by_bisection(caps: list[float], capacity: float) -> None:
    low, high = 0.0, max(caps)
    for _ in range(200):
        level = (low + high) / 2
        low, high = (level, high) if sum(min(cap, level) for cap in caps) < capacity else (low, level)
    assert fair_rates(caps, capacity) == pytest.approx([min(cap, high) for cap in caps])


def test_transfers_share_and_speed_up_again() -> None:
    # 1000 byte/s: a alone has 500 bytes by 0.5; then both have 500 byte/s until a ends at 1.5
    clock, log = Clock(), list[tuple[str, float]]()
    bottleneck = Bottleneck(clock, 1000)

    def begin(name: str, cap: float) -> None:
        bottleneck.begin(Transfer(1000, cap, lambda: log.append((name, clock.now))))

    clock.at(0.0, begin, "a", 1000)
    clock.at(0.5, begin, "b", 1000)
    clock.at(5.0, begin, "slow", 100)
    clock.at(6.0, begin, "fast", 5000)
    clock.run()
    assert [name for name, _ in log] == ["a", "b", "fast", "slow"]
    assert [end_s for _, end_s in log] == pytest.approx([1.5, 2.0, 6.0 + 1000 / 900, 15.0])


def test_an_aborted_transfer_gives_its_share_back_and_is_never_done() -> None:
    clock, log = Clock(), list[tuple[str, float]]()
    bottleneck = Bottleneck(clock, 1000)
    gone = Transfer(1000, 1000, lambda: log.append(("gone", clock.now)))
    bottleneck.begin(gone)
    bottleneck.begin(Transfer(1000, 1000, lambda: log.append(("stays", clock.now))))
    clock.at(1.0, bottleneck.abort, gone)
    clock.run()
    assert log == [("stays", 1.5)]


def test_many_transfers_pass_as_many_bytes_as_the_bottleneck_can() -> None:
    clock, ends = Clock(), []
    bottleneck = Bottleneck(clock, 1000)
    for size in range(1, 51):
        bottleneck.begin(Transfer(size, 1000, lambda: ends.append(clock.now)))
    clock.run()
    # the k-th shortest ends when all have k bytes and the shorter ones all of theirs
    expected = [(sum(range(1, k)) + (51 - k) * k) / 1000 for k in range(1, 51)]
    assert ends == pytest.approx(expected)


def test_a_shared_line_alone_is_as_fast_as_its_own() -> None:
    clock, log = Clock(), list[tuple[float, float]]()
    link = {"uplink_kbps": 8, "latency_ms": 250}
    line = shared_line(clock, Bottleneck(clock, math.inf), **link)
    line.send(948, lambda start_s: log.append((start_s, clock.now)))
    line.send(948, lambda start_s: log.append((start_s, clock.now)))
    assert line.under_way == 2
    clock.run()
    assert log == [(0.0, 1.25), (1.0, 2.25)]


def test_two_devices_behind_one_access_point_take_twice_as_long() -> None:
    clock, log = Clock(), list[float]()
    bottleneck = Bottleneck(clock, 1000)
    for _ in range(2):
        shared_line(clock, bottleneck, latency_ms=250).send(948, lambda _: log.append(clock.now))
    clock.run()
    assert log == [2.25, 2.25]


def test_a_lost_connection_takes_its_messages_with_it() -> None:
    clock, log = Clock(), list[tuple[float, float]]()
    bottleneck = Bottleneck(clock, 1000)
    leaves = shared_line(clock, bottleneck, latency_ms=250)
    stays = shared_line(clock, bottleneck)
    for line in (leaves, leaves, stays):
        line.send(948, lambda start_s: log.append((start_s, clock.now)))
    clock.at(1.0, leaves.reset)
    clock.at(1.2, leaves.send, 948, lambda start_s: log.append((start_s, clock.now)))
    clock.run()
    # stays: 500 bytes by 1.0, 200 alone by 1.2, 300 more by 1.8; the new message has 700 left then
    assert [start_s for start_s, _ in log] == [0.0, 1.2]
    assert [end_s for _, end_s in log] == pytest.approx([1.8, 1.8 + 0.7 + 0.25])


def test_a_message_in_the_air_is_lost_with_the_connection() -> None:
    clock, log = Clock(), list[float]()
    line = shared_line(clock, Bottleneck(clock, 1000), latency_ms=250)
    line.send(948, lambda _: log.append(clock.now))
    clock.at(1.1, line.reset)
    clock.run()
    assert log == []
