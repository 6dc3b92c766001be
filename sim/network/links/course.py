"""The course of a link that changes: which of its states holds from when to when."""

import bisect
import itertools
import math
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from scenarios.schema.links import Link, LinkState
from sim.network.links.random_stream import RandomStream
from sim.network.links.traces import read_trace

Piece = tuple[float, int]
"""Until when, in seconds since the run began, and the number of the state that holds until then."""


class Course(Protocol):
    """States over time; both directions of a link share one."""

    def pieces(self, now_s: float, from_s: float) -> Iterator[Piece]:
        """Give the states from a time on, in order, without end: the last one holds until infinity.

        Args:
            now_s: nobody will ask for what was before; it never decreases.
            from_s: the same or later.
        """


class TraceCourse:
    """A trace from a place in it, repeated or not.

    Args:
        times_s: when each row begins; the first one is 0.
        length_s: after which it begins again; infinite: the last row stays.
        offset_s: the place in the trace where a run begins.
    """

    def __init__(self, times_s: tuple[float, ...], length_s: float, offset_s: float) -> None:
        self._times_s = times_s
        self._length_s = length_s
        self._offset_s = offset_s

    def pieces(self, now_s: float, from_s: float) -> Iterator[Piece]:
        """Do as Course.pieces."""
        assert from_s >= now_s
        period = int((from_s + self._offset_s) // self._length_s)
        begun_s = self._begun_s(period)
        first = max(0, bisect.bisect_right(self._times_s, from_s - begun_s) - 1)
        ends_s = (*self._times_s[1:], self._length_s)
        while True:
            for row in range(first, len(ends_s)):
                until_s = begun_s + ends_s[row]
                if until_s > from_s:  # rounding may find the row before
                    yield until_s, row
            period, first = period + 1, 0
            begun_s = self._begun_s(period)

    def _begun_s(self, period: int) -> float:
        """Give when the trace was begun for the so-and-so-many-th time, the first one being 0."""
        return (period * self._length_s if period else 0.0) - self._offset_s


class MarkovCourse:
    """A chain of states in exponential times; what has passed is forgotten.

    Args:
        means_s: mean time in each state.
        stream: of random numbers.
    """

    def __init__(self, means_s: tuple[float, ...], stream: RandomStream) -> None:
        self._means_s = means_s
        self._stream = stream
        self._pieces: deque[Piece] = deque()
        # each state as often as it is left, and so long: that is how the chain is found at any moment
        at = stream.uniform() * sum(means_s)
        first = bisect.bisect_left(list(itertools.accumulate(means_s)), at)
        self._append(0.0, min(first, len(means_s) - 1))

    def pieces(self, now_s: float, from_s: float) -> Iterator[Piece]:
        """Do as Course.pieces."""
        while self._pieces[0][0] <= now_s:
            if len(self._pieces) == 1:
                self._extend()
            self._pieces.popleft()
        for number in itertools.count():
            if number == len(self._pieces):
                self._extend()
            if self._pieces[number][0] > from_s:
                yield self._pieces[number]

    def _append(self, from_s: float, state: int) -> None:
        self._pieces.append((from_s - self._means_s[state] * math.log(self._stream.uniform()), state))

    def _extend(self) -> None:
        until_s, state = self._pieces[-1]
        other = int(self._stream.uniform() * (len(self._means_s) - 1))
        self._append(until_s, other + (other >= state))


def course_of(link: Link, *, seed: int, owner: str) -> tuple[Course, tuple[LinkState, ...]] | None:
    """Give how a link changes, and its states; None if it does not.

    Args:
        link: a device's, or the server's.
        seed: the scenario's.
        owner: whose it is, part of the seed of its place in a trace and of its chain.

    Raises:
        ScenarioError: the trace cannot be used.
    """
    if link.states is not None:
        means_s = tuple(state.mean_s for state in link.states)
        return MarkovCourse(means_s, RandomStream(seed, "states", owner)), link.states
    if link.trace is None:
        return None
    trace = read_trace(link.trace)
    if not link.repeat:
        return TraceCourse(trace.times_s, math.inf, 0.0), trace.states
    place = RandomStream(seed, "trace", owner).uniform() if link.start == "per_client" else 0.0
    return TraceCourse(trace.times_s, trace.length_s, place * trace.length_s), trace.states
