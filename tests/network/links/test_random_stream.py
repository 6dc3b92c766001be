"""Streams of random numbers: uniform, named, and independent of each other."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.network.links.random_stream import ManyStreams, RandomStream


def numbers(count: int, *labels: str | int) -> npt.NDArray[np.float64]:
    stream = RandomStream(7, *labels)
    return np.array([stream.uniform() for _ in range(count)])


def distance_from_uniform(values: npt.NDArray[np.float64]) -> float:
    """Give the statistic of Kolmogorov and Smirnov; 1.95 is exceeded once in 1,000 times."""
    ranks = np.arange(len(values))
    ordered = np.sort(values)
    return float(
        np.sqrt(len(values))
        * max((ordered - ranks / len(values)).max(), ((ranks + 1) / len(values) - ordered).max())
    )


def test_a_name_has_the_same_numbers_on_every_platform() -> None:
    assert list(numbers(3, "jitter", "c0", "up")) == [
        0.6822454105823391,
        0.30479347069661233,
        0.006692049119817356,
    ]


@given(
    states=st.lists(st.integers(0, 2**128 - 1), min_size=1, max_size=5),
    draws=st.lists(st.sets(st.integers(0, 4)), max_size=6),
)
def test_many_streams_give_the_numbers_of_each(states: list[int], draws: list[set[int]]) -> None:
    alone = [RandomStream(0) for _ in states]
    for stream, state in zip(alone, states, strict=True):
        stream.state = state
    together, columns = ManyStreams(len(states)), np.arange(len(states))
    together.take(columns, alone)
    before = together.copy(columns)
    for chosen in draws:
        some = [column for column in sorted(chosen) if column < len(states)]
        assert together.uniforms(columns[some]) == [alone[column].uniform() for column in some]
    other = RandomStream(0)
    for column, (stream, state) in enumerate(zip(alone, states, strict=True)):
        together.give(column, other)
        assert other.state == stream.state
        together.give(column, other, before[column])
        assert other.state == state


def test_another_name_or_seed_has_other_numbers() -> None:
    first = [
        RandomStream(seed, *name).uniform()
        for seed in (1, 2)
        for name in (("a", "up"), ("a", "down"), ("b", "up"))
    ]
    assert len(set(first)) == 6


def test_a_stream_is_uniform_and_its_numbers_do_not_depend_on_those_before() -> None:
    values = numbers(50_000, "jitter", "c0", "up")
    assert 0 < values.min() < values.max() < 1
    assert distance_from_uniform(values) < 1.95
    for lag in (1, 2, 7):
        correlation = np.corrcoef(values[:-lag], values[lag:])[0, 1]
        assert abs(correlation) < 3.3 / np.sqrt(len(values))


@pytest.mark.parametrize("position", range(3))
def test_the_first_numbers_of_many_streams_are_uniform_and_do_not_depend_on_each_other(position: int) -> None:
    up, down = (
        np.array([numbers(position + 1, "jitter", f"c{n}", way)[-1] for n in range(5_000)])
        for way in ("up", "down")
    )
    assert distance_from_uniform(up) < 1.95
    for one, other in ((up, down), (up[:-1], up[1:])):
        assert abs(np.corrcoef(one, other)[0, 1]) < 3.3 / np.sqrt(len(one))
