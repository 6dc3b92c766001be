"""Many links at once carry what each of them would carry alone, to the last bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenarios.schema.links import Link
from sim.network.links.link import TcpLink
from sim.network.links.many_links import ManyLinks
from sim.network.links.path import Path, path_of

PATHS = [
    path_of(Link(**kind), "up")
    for kind in (
        {"uplink_kbps": 12_000, "latency_ms": 35, "jitter_ms": 10, "jitter": "lognormal"},
        {"uplink_kbps": 50_000, "latency_ms": 300, "jitter_ms": 1},
        {"uplink_kbps": 64, "latency_ms": 5, "jitter_ms": 1, "jitter": "uniform"},
        {"latency_ms": 60, "jitter_ms": 30, "jitter": "lognormal"},
    )
]
SIZES = st.sampled_from([6, 1448, 1449, 14_480, 14_481, 40_000, 400_000, 3_000_000])
CHOSEN = st.sets(st.integers(0, 4), min_size=1)
GAPS_S = st.floats(0, 3, width=32)


def links_of(path: Path, count: int) -> list[TcpLink]:
    return [TcpLink(path, seed=1, owner=(f"c{number}", "up")) for number in range(count)]


def ways_s(links: list[TcpLink], path: Path) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    assert path.one_way_s is not None
    return np.array([path.one_way_s(link.jitter.uniform()) for link in links if link.jitter is not None])


@given(
    path=st.sampled_from(PATHS),
    steps=st.lists(
        st.tuples(SIZES, st.lists(GAPS_S, min_size=5, max_size=5), st.integers(0, 4), CHOSEN),
        min_size=1,
        max_size=8,
    ),
)
@settings(deadline=None, max_examples=60)
def test_whatever_is_carried_and_acknowledged_and_whichever_links_take_part(
    path: Path, steps: list[tuple[int, list[float], int, set[int]]]
) -> None:
    alone, others = links_of(path, 5), links_of(path, 5)
    together = ManyLinks(5)
    together.take(np.arange(5), others)
    now_s = np.zeros(5)
    for size, gaps_s, packets, chosen in steps:
        now_s += gaps_s
        columns = np.array(sorted(chosen), dtype=np.int64)
        some = [others[column] for column in columns]
        start_s, sent_s, arrival_s = together.carry(columns, path, now_s[columns], size, ways_s(some, path))
        for place, column in enumerate(columns):
            carried = alone[column].carry(float(now_s[column]), size)
            assert (carried.start_s, carried.sent_s, carried.arrival_s) == (
                start_s[place],
                sent_s[place],
                arrival_s[place],
            )
        from_s, to_s = now_s[columns] + gaps_s[0], now_s[columns] + gaps_s[0] + gaps_s[1]
        now_s[columns] = to_s
        together.acknowledge(columns, path, from_s, to_s, packets)
        for place, column in enumerate(columns):
            alone[column].acknowledge(float(from_s[place]), float(to_s[place]), packets)
    for column, (link, other) in enumerate(zip(alone, others, strict=True)):
        together.give(column, other)
        after_s = float(now_s[column]) + 0.5
        assert [link.carry(after_s, 40_000), link.carry(after_s, 9)] == [
            other.carry(after_s, 40_000),
            other.carry(after_s, 9),
        ]


def test_a_link_can_be_what_it_was_before() -> None:
    path = PATHS[0]
    (link, other), together, columns = links_of(path, 2), ManyLinks(1), np.array([0])
    for at_s in (0.0, 0.1):
        link.carry(at_s, 40_000)
        other.carry(at_s, 40_000)
    together.take(columns, [other])
    before = together.copy(columns)
    together.carry(columns, path, 0.2, 400_000, np.array([0.03]))
    together.give(0, other)
    assert other.carry(0.3, 40_000).sent_s != pytest.approx(link.free_s)
    together.give(0, other, before[0])
    assert other.delay_s(0.3, 400_000) == link.delay_s(0.3, 400_000)
    assert other.free_s == link.free_s


@pytest.mark.parametrize("path", PATHS)
def test_windows_close_after_the_same_silence(path: Path) -> None:
    count, together = 400, ManyLinks(400)
    alone, columns = links_of(path, count), np.arange(count)
    together.take(columns, alone)
    last_s = np.zeros(count)
    for gaps_s in (np.linspace(0, 2, count), np.linspace(3, 0, count), np.linspace(0, 9, count)):
        now_s = last_s + gaps_s
        times_s = together.carry(columns, path, now_s, 400_000, np.full(count, 9.0))
        for place, link in enumerate(alone):
            carried = link.carry(float(now_s[place]), 400_000)
            assert (carried.start_s, carried.sent_s) == (times_s[0][place], times_s[1][place])
        from_s, last_s = times_s[1] + gaps_s, times_s[1] + gaps_s + 1
        together.acknowledge(columns, path, from_s, last_s, 3)
        for place, link in enumerate(alone):
            link.acknowledge(float(from_s[place]), float(last_s[place]), 3)
