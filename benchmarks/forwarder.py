"""A packet forwarder: joins pairs of TUN devices by links, as a scenario describes them.

benchmarks.shaped_links starts it as a process of its own, so that nothing else delays its packets. It runs
until standard input closes, and then prints how late it was. A link serializes each packet at its rate (an
unlimited queue waits before it), then passes it on to the shared bottleneck, if it has one, then loses or
delays it. Order is kept. What a link is like (rates over time, chance of loss, times one way) comes from the
classes of sim.network.links; what happens to packets is decided here.
"""

import contextlib
import gc
import heapq
import itertools
import json
import math
import os
import select
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from scenarios.schema.links import Link
from sim.network.links.course import course_of
from sim.network.links.losses import Losses
from sim.network.links.path import Path, path_of
from sim.network.links.random_stream import RandomStream

MAX_PACKET_BYTES = 2000
PACKETS_AT_ONCE = 64
LATE_S = 0.001
PRIORITY = 20

Look = Callable[[float], tuple[Path, float]]
"""What a direction is like at a time, in seconds since the start, and until when."""


@dataclass
class Wire:
    """What serializes packets at a rate that may change, one after another."""

    look: Look
    free_s: float = 0.0

    def passed(self, now_s: float, packet: bytes) -> float:
        """Give the time at which the last bit of a packet has passed."""
        at_s, left_bytes = max(now_s, self.free_s), float(len(packet))
        while True:
            path, until_s = self.look(at_s)
            if path.bytes_per_s:
                end_s = at_s + left_bytes / path.bytes_per_s
                if end_s <= until_s:
                    self.free_s = end_s
                    return end_s
                left_bytes -= path.bytes_per_s * (until_s - at_s)
            at_s = until_s


class Direction:
    """One way through a link.

    Args:
        into: file descriptor of the TUN device at the far end.
        look: what it is like.
        shared: the bottleneck behind it, if there is one.
        seed: decides which packets are lost and how long each is under way.
    """

    def __init__(self, into: int, look: Look, shared: Wire | None, *, seed: int) -> None:
        self.into = into
        self.wires = [Wire(look)] if shared is None else [Wire(look), shared]
        self._look = look
        self._losses = Losses(seed)
        self._jitter = RandomStream(seed, "jitter")
        self._last_s = 0.0  # when the latest packet arrives; no other arrives before it

    def arrival_s(self, now_s: float) -> float | None:
        """Give the time of arrival of a packet that has left the last wire; None if it is lost."""
        path, _ = self._look(now_s)
        if path.loss and self._losses.is_lost(path):
            return None
        one_way_s = path.one_way_s(self._jitter.uniform()) if path.one_way_s else path.latency_s
        self._last_s = max(self._last_s, now_s + one_way_s)
        return self._last_s


def looks_of(link: Link, seed: int, begun_s: float) -> list[Look]:
    """Give what a link is like over time, up and down."""
    changes = course_of(link, seed=seed, owner="forwarder")

    def look_of(way: Literal["up", "down"]) -> Look:
        if changes is None:
            path = path_of(link, way)
            return lambda _: (path, math.inf)
        course, states = changes
        paths = [path_of(link, way, state) for state in states]

        def look(at_s: float) -> tuple[Path, float]:
            until_s, state = next(course.pieces(min(at_s, time.perf_counter() - begun_s), at_s))
            return paths[state], until_s

        return look

    return [look_of("up"), look_of("down")]


Due = tuple[float, int, Direction, int, bytes]  # when, tie breaker, whither, wires passed, packet


@dataclass
class Lateness:
    """How punctual the forwarder was."""

    packets: int = 0
    late: int = 0
    total_s: float = 0.0
    worst_s: float = 0.0

    def note(self, late_s: float) -> None:
        """Count a packet that came out so late."""
        self.packets += 1
        self.late += late_s > LATE_S
        self.total_s += late_s
        self.worst_s = max(self.worst_s, late_s)


def forward(directions: dict[int, Direction], until: int, lateness: Lateness, begun_s: float) -> None:
    """Move packets between TUN devices until a file descriptor becomes readable.

    Args:
        directions: by the file descriptor of the TUN device at the near end.
        until: the file descriptor.
        lateness: is kept up to date.
        begun_s: when the links' courses began, by time.perf_counter.
    """
    due: list[Due] = []
    order = itertools.count()
    watched = select.epoll()  # select of so many files would take longer than all the rest
    for file in (*directions, until):
        watched.register(file, select.EPOLLIN)
    while True:
        while due and due[0][0] <= (now_s := time.perf_counter() - begun_s):
            due_s, _, direction, passed, packet = heapq.heappop(due)
            if passed > len(direction.wires):
                lateness.note(now_s - due_s)
            _onward(due, next(order), due_s, direction, passed, packet)
        pause_s = max(0.0, due[0][0] - time.perf_counter() + begun_s) if due else None
        select.select([watched], [], [], pause_s)  # poll itself knows milliseconds only
        for near, _ in watched.poll(0):
            if near == until:
                return
            for _ in range(PACKETS_AT_ONCE):
                try:
                    packet = os.read(near, MAX_PACKET_BYTES)
                except BlockingIOError:
                    break
                _onward(due, next(order), time.perf_counter() - begun_s, directions[near], 0, packet)


def _onward(
    due: list[Due], number: int, now_s: float, direction: Direction, passed: int, packet: bytes
) -> None:
    """Put a packet on its next wire, then on its way, then out."""
    if passed < len(direction.wires):
        end_s = direction.wires[passed].passed(now_s, packet)
        passed += 1
        arrival_s: float | None = end_s
        if passed == len(direction.wires):
            arrival_s = direction.arrival_s(end_s)
            passed += 1
        if arrival_s is not None:
            heapq.heappush(due, (arrival_s, number, direction, passed, packet))
    else:
        with contextlib.suppress(OSError):  # a full or absent device loses packets
            os.write(direction.into, packet)


def main() -> None:
    """Read links from the command line, as benchmarks.shaped_links writes them."""
    pairs, point, sharers = json.loads(sys.argv[1])
    directions: dict[int, Direction] = {}
    shared: list[Wire] | list[None] = [None, None]
    seed = time.time_ns() >> 10
    begun_s = time.perf_counter()
    for number, (near, far, link) in enumerate(pairs):
        if point is not None and number % sharers == 0:
            shared = [Wire(look) for look in looks_of(Link(**point), seed + number, begun_s)]
        looks = looks_of(Link(**link), seed + number, begun_s)
        for start, end, look, wire in zip((near, far), (far, near), looks, shared, strict=True):
            directions[start] = Direction(end, look, wire, seed=seed + start)
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))  # before everybody else
    gc.disable()
    lateness = Lateness()
    print(begun_s, flush=True)  # it is ready
    forward(directions, sys.stdin.fileno(), lateness, begun_s)
    print(json.dumps(vars(lateness)))


if __name__ == "__main__":
    main()
