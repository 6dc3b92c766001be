"""The conversations of benchmarks.tcp_talk in virtual time, on the links of a simulation."""

import math
import random
from collections.abc import Iterable, Iterator, Sequence

from benchmarks.tcp_settings import Setting
from benchmarks.tcp_talk import packet_sizes
from broker.wire.link_bytes import FULL_PACKET_BYTES
from scenarios.schema.links import Tcp
from sim.network.clock import Clock
from sim.network.links.access_point import bottlenecks_of, sends_segments
from sim.network.links.changing_link import links_of
from sim.network.links.link import TcpLink
from sim.network.links.shared_link import SharedTcpLink, shared

Links = tuple[TcpLink, TcpLink] | tuple[SharedTcpLink, SharedTcpLink]


class _Talk:
    """One connection; a message goes on `links[0]`, its answer on `links[1]`.

    Args:
        clock: virtual time.
        links: of it.
        setting: what is said.
        seed: of the pauses.
        begins_s: when its first message is sent.
    """

    def __init__(
        self, clock: Clock, links: Links, setting: Setting, seed: int, begins_s: float | None = None
    ) -> None:
        self._clock = clock
        self._links = links
        self._setting = setting
        self._rng = random.Random(seed)
        self._packets = len(list(packet_sizes(setting.message_bytes)))
        self._turns = iter(range(2 * (setting.warm_up + setting.exchanges)))
        self.seconds: list[float] = []
        if begins_s is None:
            self._pause()
        else:
            clock.at(begins_s, self._send, next(self._turns))

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


def replayed(setting: Setting, begins_s: Sequence[float], tcp: Tcp, seed: int) -> list[list[float]]:
    """Give the seconds of messages of conversations that begin at these times; sharers are neighbours."""
    found = []
    for first in range(0, len(begins_s), setting.sharers):
        clock, group = Clock(), len(begins_s) * seed + first
        talks = [
            _Talk(clock, links, setting, group + number, begins_s[first + number])
            for number, links in enumerate(_links(clock, setting, group, tcp))
        ]
        clock.run()
        found += [talk.seconds for talk in talks]
    return found


def _group(setting: Setting, group: int, tcp: Tcp) -> Iterator[_Talk]:
    clock = Clock()
    talks = [
        _Talk(clock, links, setting, group * setting.sharers + number)
        for number, links in enumerate(_links(clock, setting, group, tcp))
    ]
    clock.run()
    return iter(talks)


def _links(clock: Clock, setting: Setting, seed: int, tcp: Tcp) -> Iterator[Links]:
    """Give the links of each client that shares an access point, or of one alone."""
    point, link = None, setting.link
    if setting.point:
        # the forwarder takes a packet in whole before it passes it on: that is more latency
        whole_ms = 8 * FULL_PACKET_BYTES / (setting.point.uplink_kbps or math.inf)
        link = link.model_copy(update={"latency_ms": link.latency_ms + whole_ms})
        point = bottlenecks_of(
            clock, setting.point, seed=seed, owner="point", by_segments=sends_segments(link)
        )
    for number in range(setting.sharers):
        own = links_of(link, seed=seed, owner=f"c{number}", tcp=tcp)
        yield shared(clock, own, point) if point else own
