"""The conversations of benchmarks.tcp_talk in virtual time, on the links of a simulation."""

import math
import random
from collections.abc import Iterable, Iterator

from benchmarks.tcp_settings import Setting
from benchmarks.tcp_talk import packet_sizes
from scenarios.schema.links import Tcp
from sim.network.clock import Clock
from sim.network.links.access_point import bottlenecks_of
from sim.network.links.changing_link import links_of
from sim.network.links.link import TcpLink
from sim.network.links.shared_link import SharedTcpLink, shared
from sim.network.links.tcp.passage import PACKET_BYTES


class _Talk:
    """One connection; a message goes on `links[0]`, its answer on `links[1]`."""

    def __init__(
        self, clock: Clock, links: tuple[TcpLink | SharedTcpLink, ...], setting: Setting, seed: int
    ) -> None:
        self._clock = clock
        self._links = links
        self._setting = setting
        self._rng = random.Random(seed)
        self._packets = len(list(packet_sizes(setting.message_bytes)))
        self._turns = iter(range(2 * (setting.warm_up + setting.exchanges)))
        self.seconds: list[float] = []
        self._pause()

    def _pause(self) -> None:
        turn = next(self._turns, None)
        if turn is not None:
            self._clock.at(self._clock.now + self._setting.pause(self._rng), self._send, turn)

    def _send(self, turn: int) -> None:
        link, now_s = self._links[turn % 2], self._clock.now
        if isinstance(link, SharedTcpLink):
            link.send(self._setting.message_bytes, self._arrived, turn, now_s)
        else:
            carried = link.carry(now_s, self._setting.message_bytes)
            self._clock.at(carried.arrival_s, self._arrived, carried.start_s, turn, now_s)

    def _arrived(self, start_s: float, turn: int, asked_s: float) -> None:
        back, way = self._links[1 - turn % 2], self._links[turn % 2]
        back.acknowledge(start_s, self._clock.now, self._packets, way)
        if turn >= 2 * self._setting.warm_up:
            self.seconds.append(self._clock.now - asked_s)
        self._pause()


def modelled(setting: Setting, groups: Iterable[int], tcp: Tcp) -> list[list[float]]:
    """Give the seconds of each message, by connection; groups share a bottleneck and have a seed each."""
    return [talk.seconds for group in groups for talk in _group(setting, group, tcp)]


def _group(setting: Setting, group: int, tcp: Tcp) -> Iterator[_Talk]:
    clock, link = Clock(), setting.link
    point = None
    if setting.point:
        # the forwarder takes a packet in whole before it passes it on: that is more latency
        whole_ms = 8 * PACKET_BYTES / (setting.point.uplink_kbps or math.inf)
        link = link.model_copy(update={"latency_ms": link.latency_ms + whole_ms})
        loses = bool(setting.link.loss)
        point = bottlenecks_of(clock, setting.point, seed=group, owner="point", loses=loses)
    talks = []
    for number in range(setting.sharers):
        own = links_of(link, seed=group, owner=f"c{number}", tcp=tcp)
        links: tuple[TcpLink | SharedTcpLink, ...] = own
        if point:
            links = shared(clock, own, point)
        talks.append(_Talk(clock, links, setting, group * setting.sharers + number))
    clock.run()
    return iter(talks)
