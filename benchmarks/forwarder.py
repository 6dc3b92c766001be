"""A packet forwarder: joins pairs of TUN devices by links of given rates, latency, jitter and loss.

benchmarks.shaped_links starts it as a process of its own, so that nothing else delays its packets. It runs
until standard input closes. A link serializes each packet at its rate (an unlimited queue waits before
it), then passes it on to the shared bottleneck, if it has one, then loses or delays it. Order is kept.
"""

import contextlib
import gc
import heapq
import itertools
import json
import os
import random
import select
import sys
import time
from dataclasses import dataclass, field

MAX_PACKET_BYTES = 2000
PACKETS_AT_ONCE = 64


@dataclass
class Wire:
    """What serializes packets at a rate, one after another; 0 bit/s is no limit."""

    bits_per_s: float
    free_s: float = 0.0

    def passed(self, now_s: float, packet: bytes) -> float:
        """Give the time at which the last bit of a packet has passed."""
        needs_s = 8 * len(packet) / self.bits_per_s if self.bits_per_s else 0.0
        self.free_s = max(now_s, self.free_s) + needs_s
        return self.free_s


@dataclass
class Direction:
    """One way through a link.

    Attributes:
        into: file descriptor of the TUN device at the far end.
        wires: the link itself, and the bottleneck that it shares if there is one.
        latency_s: mean time one way.
        jitter_s: standard deviation of that, normal.
        loss: share of packets lost.
        rng: decides who is lost.
        last_s: when the latest packet arrives; no other arrives before it.
    """

    into: int
    wires: list[Wire]
    latency_s: float
    jitter_s: float
    loss: float
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    last_s: float = 0.0

    def arrival_s(self, now_s: float) -> float | None:
        """Give the time of arrival of a packet that has left the last wire; None if it is lost."""
        if self.rng.random() < self.loss:
            return None
        one_way_s = max(0.0, self.rng.gauss(self.latency_s, self.jitter_s))
        self.last_s = max(self.last_s, now_s + one_way_s)
        return self.last_s


Due = tuple[float, int, Direction, int, bytes]  # when, tie breaker, whither, wires passed, packet


def forward(directions: dict[int, Direction], until: int) -> None:
    """Move packets between TUN devices until a file descriptor becomes readable.

    Args:
        directions: by the file descriptor of the TUN device at the near end.
        until: the file descriptor.
    """
    due: list[Due] = []
    order = itertools.count()
    watched = [*directions, until]
    while True:
        while due and due[0][0] <= time.perf_counter():
            now_s, _, direction, passed, packet = heapq.heappop(due)
            _onward(due, next(order), now_s, direction, passed, packet)
        pause_s = max(0.0, due[0][0] - time.perf_counter()) if due else None
        readable, _, _ = select.select(watched, [], [], pause_s)
        if until in readable:
            return
        for near in readable:
            for _ in range(PACKETS_AT_ONCE):
                try:
                    packet = os.read(near, MAX_PACKET_BYTES)
                except BlockingIOError:
                    break
                _onward(due, next(order), time.perf_counter(), directions[near], 0, packet)


def _onward(
    due: list[Due], number: int, now_s: float, direction: Direction, passed: int, packet: bytes
) -> None:
    """Put a packet on its next wire, then on its way, then out."""
    if passed < len(direction.wires):
        end_s = direction.wires[passed].passed(now_s, packet)
        heapq.heappush(due, (end_s, number, direction, passed + 1, packet))
    elif passed == len(direction.wires):
        arrival_s = direction.arrival_s(now_s)
        if arrival_s is not None:
            heapq.heappush(due, (arrival_s, number, direction, passed + 1, packet))
    else:
        with contextlib.suppress(OSError):  # a full or absent device loses packets
            os.write(direction.into, packet)


def main() -> None:
    """Read links from the command line, as benchmarks.shaped_links writes them."""
    links, shared_kbps = json.loads(sys.argv[1])
    shared = [Wire(1000 * kbps) for kbps in shared_kbps]  # up, down; or none
    directions = {}
    for near, far, link in links:
        for way, (start, end) in enumerate([(near, far), (far, near)]):
            rng = random.Random(start)
            wires = [Wire(1000 * link["kbps"][way]), *shared[way : way + 1]]
            directions[start] = Direction(end, wires, link["latency_s"], link["jitter_s"], link["loss"], rng)
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))  # before everybody else
    gc.disable()
    forward(directions, sys.stdin.fileno())


if __name__ == "__main__":
    main()
