"""What devices at rest are, as tables: their links, their streams of jitter, and what they use."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from broker.wire.link_bytes import PING, OnLink
from scenarios.schema.network import BrokerModel
from sim.network.endpoint import NetworkStats
from sim.network.links.link import TcpLink, jitter_of
from sim.network.links.many_links import Columns, ManyLinks, Numbers
from sim.network.links.path import Path
from sim.network.links.random_stream import ManyStreams
from sim.simulation.ahead.device import MOST_PUBACKS, Device, Line, stream_of
from sim.simulation.fleet.energy import Used

SENT, RECEIVED, ACTIVE, COMPUTING, FROM, TO, PACKETS, UNTIL, PUBACK, EARLIER_PUBACK = range(10)
"""What a device uses: bytes sent and received; when a message was last on its link; how long it has computed;
when its last answer began to leave and arrived, and the packets of it that are acknowledged; when the last
message on its links arrives; when the PUBACKs of the latest two messages to it reach the broker."""


Bytes = int | NDArray[np.int64]
"""The same for all devices, or of each."""


class Kept(NamedTuple):
    """What links were: see ManyLinks.copy and ManyStreams.copy."""

    links: Numbers
    streams: NDArray[np.uint64]

    def of(self, place: int) -> "Kept":
        """Give what one of them was."""
        return Kept(self.links[place], self.streams[place])


class Direction:
    """One direction of the links of many devices, with their jitter.

    Args:
        columns: so many.
    """

    def __init__(self, columns: int) -> None:
        self.links, self.streams = ManyLinks(columns), ManyStreams(columns)

    def take(self, columns: Columns, links: Sequence[TcpLink]) -> None:
        """Let columns be these links as they are."""
        self.links.take(columns, links)
        self.streams.take(columns, [stream_of(link) for link in links])

    def copy(self, columns: Columns) -> "Kept":
        """Give what some links are."""
        return Kept(self.links.copy(columns), self.streams.copy(columns))

    def give(self, column: int, link: TcpLink, kept: "Kept | None" = None) -> None:
        """Let a link be what its column is, or what it was when `copy` gave it."""
        self.links.give(column, link, None if kept is None else kept.links)
        self.streams.give(column, stream_of(link), None if kept is None else kept.streams)

    def carry(
        self, columns: Columns, path: Path, at_s: float | Numbers, payload_bytes: int
    ) -> tuple[Numbers, Numbers, Numbers]:
        """Do as ManyLinks.carry, with times one way that are drawn here."""
        assert path.one_way_s is not None
        one_way_s = np.array(list(map(path.one_way_s, self.streams.uniforms(columns))))
        return self.links.carry(columns, path, at_s, payload_bytes, one_way_s)


class Tables:
    """Devices at rest, and what they use; a column for each device of the fleet.

    Args:
        columns: so many devices.
        totals: of the network.
        broker: its limits for each client, and its keepalive.
    """

    def __init__(self, columns: int, totals: NetworkStats, broker: BrokerModel) -> None:
        self.up, self.down = Direction(columns), Direction(columns)
        self._rows = np.zeros((columns, 10))
        self._unsettled = np.zeros(columns, dtype=bool)
        self._totals = totals
        self._in_flight, self._keepalive_s = broker.in_flight, broker.keepalive_s

    def begin(self, columns: Columns, line: Line, names: Sequence[str], seed: int) -> None:
        """Let columns be devices on one kind of link that were never connected.

        Args:
            columns: of k devices.
            line: their links.
            names: theirs.
            seed: the scenario's.
        """
        for direction, path, way in ((self.up, line.up, "up"), (self.down, line.down, "down")):
            direction.links.take(columns, [TcpLink(path, seed=seed, owner=(names[0], way))])
            direction.streams.take(columns, [jitter_of(seed, name, way) for name in names])

    def take(self, columns: Columns, devices: Sequence[Device], now_s: float) -> None:
        """Let columns be these devices as they are."""
        self.up.take(columns, [device.up for device in devices])
        self.down.take(columns, [device.down for device in devices])
        rows = np.zeros((len(devices), self._rows.shape[1]))
        for row, device in zip(rows, devices, strict=True):
            endpoint = device.endpoint
            row[: COMPUTING + 1] = (
                endpoint.sent_bytes,
                endpoint.received_bytes,
                endpoint.active_s,
                device.computer.busy_s,
            )
            row[UNTIL] = endpoint.until_s
            pubacks = endpoint.window.awaited(now_s)
            row[PUBACK], row[EARLIER_PUBACK] = (*reversed(pubacks), 0.0, 0.0)[:2]
        self._rows[columns] = rows
        self._unsettled[columns] = True

    def give(self, column: int, device: Device, now_s: float) -> None:
        """Let a device be what its column is."""
        self.up.give(column, device.up)
        self.down.give(column, device.down)
        endpoint, row = device.endpoint, self._rows[column].tolist()
        endpoint.sent_bytes, endpoint.received_bytes = int(row[SENT]), int(row[RECEIVED])
        endpoint.active_s, endpoint.until_s = row[ACTIVE], row[UNTIL]
        device.computer.busy_s = row[COMPUTING]
        endpoint.window.reset()
        for puback_s in (row[EARLIER_PUBACK], row[PUBACK]):
            if puback_s > now_s:
                endpoint.window.sent(puback_s)
        device.down.acknowledge(row[FROM], row[TO], int(row[PACKETS]))
        self._unsettled[column] = False

    def can_hear(self, columns: Columns, now_s: float, *, waits: bool) -> NDArray[np.bool_]:
        """Say which devices have heard and said everything, and get at once what is sent to them now.

        Args:
            columns: of devices.
            now_s: virtual time.
            waits: whether the message waits for the broker's window, see Window.admit.
        """
        until_s, puback_s, earlier_s = self._rows[columns, UNTIL : EARLIER_PUBACK + 1].T
        under_way = (puback_s > now_s).astype(np.int64) + (earlier_s > now_s)
        most = min(self._in_flight, MOST_PUBACKS) if waits else MOST_PUBACKS
        can_hear: NDArray[np.bool_] = (until_s < now_s) & (under_way < most)
        return can_hear

    def sends(
        self, columns: Columns, path: Path, now_s: float, payload_bytes: int
    ) -> tuple[Numbers, Numbers, Numbers]:
        """Let the broker send a message to each of some devices; times as of ManyLinks.carry."""
        self._pass_pubacks(columns, path)
        began_s, sent_s, heard_s = self.down.carry(columns, path, now_s, payload_bytes)
        self.down.links.occupy(columns, sent_s - began_s)
        rows = self._rows
        rows[columns, EARLIER_PUBACK] = rows[columns, PUBACK]
        rows[columns, PUBACK] = heard_s + path.latency_s
        self._unsettled[columns] = True
        return began_s, sent_s, heard_s

    def is_busy_until(self, columns: Columns, until_s: Numbers) -> None:
        """Note when the last message on the links of each device arrives."""
        self._rows[columns, UNTIL] = until_s

    def counts(self, columns: Columns, sent_bytes: Bytes, received_bytes: Bytes, at_s: Numbers) -> None:
        """Count what a message has cost on the link of each device, as Endpoint.counts."""
        rows = self._rows
        silence_s = at_s - rows[columns, ACTIVE]
        silent = silence_s >= self._keepalive_s
        pings = (silence_s / self._keepalive_s).astype(np.int64) if silent.any() else 0
        rows[columns, ACTIVE] = at_s
        self._add(columns, sent_bytes + pings * PING.there, received_bytes + pings * PING.back)

    def _add(self, columns: Columns, sent: Bytes, received: Bytes) -> None:
        self._rows[columns, SENT] += sent
        self._rows[columns, RECEIVED] += received
        self._totals.uplink_bytes += int(np.broadcast_to(sent, len(columns)).sum())
        self._totals.downlink_bytes += int(np.broadcast_to(received, len(columns)).sum())
        self._unsettled[columns] = True

    def connects(self, columns: Columns, cost: OnLink, now_s: float) -> None:
        """Count a connection of each device."""
        self._rows[columns, ACTIVE] = now_s
        self._add(columns, *cost)

    def count_pings(self, columns: Columns, now_s: float) -> None:
        """Count the pings of silences that go on, as Endpoint.count_pings."""
        pings = ((now_s - self._rows[columns, ACTIVE]) / self._keepalive_s).astype(np.int64)
        self._rows[columns, ACTIVE] += pings * self._keepalive_s
        self._add(columns, pings * PING.there, pings * PING.back)

    def leaves(self, columns: Columns, busy_s: Numbers) -> None:
        """Count how long an answer of each device keeps its uplink busy."""
        self.up.links.occupy(columns, busy_s)
        self._unsettled[columns] = True

    def computes(self, columns: Columns, busy_s: Numbers) -> None:
        """Count how long devices compute."""
        self._rows[columns, COMPUTING] += busy_s

    def answered(
        self, columns: Columns, on_link: OnLink, from_s: Numbers, to_s: Numbers, packets: int
    ) -> None:
        """Count answers that have arrived, and keep in mind what has to be acknowledged."""
        self.counts(columns, on_link.there, on_link.back, to_s)
        if packets:
            rows = self._rows
            rows[columns, FROM], rows[columns, TO], rows[columns, PACKETS] = from_s, to_s, packets

    def _pass_pubacks(self, columns: Columns, path: Path) -> None:
        """Let the PUBACKs for what devices said last pass down, before anything else does."""
        rows = self._rows
        due = rows[columns, PACKETS]
        for packets in np.unique(due[due > 0]).tolist():
            some = columns[due == packets]
            self.down.links.acknowledge(some, path, rows[some, FROM], rows[some, TO], int(packets))
        rows[columns, PACKETS] = 0

    def used(self) -> Used:
        """Give what devices have used that may have used more since this was called last."""
        columns = np.flatnonzero(self._unsettled)
        self._unsettled[columns] = False
        rows = self._rows[columns]
        up_s, down_s = self.up.links.busy_s(columns), self.down.links.busy_s(columns)
        return Used(columns, rows[:, COMPUTING], up_s, rows[:, SENT], down_s, rows[:, RECEIVED])
