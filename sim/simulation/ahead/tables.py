"""Links of many devices as tables, and what the devices use."""

from collections.abc import Sequence

import numpy as np

from broker.wire.link_bytes import PING, OnLink
from sim.network.endpoint import NetworkStats
from sim.network.links.many_links import Columns, ManyLinks, Numbers
from sim.simulation.ahead.device import Device

SENT, RECEIVED, ACTIVE, COMPUTING, FROM, TO, PACKETS = range(7)
"""Rows of what a device uses: bytes sent and received; when a message was last on its link; how long it has
computed; when its last answer began to leave and arrived, and the packets of it that are acknowledged."""


class Tables:
    """The links of many devices, and what these use; a column for each device that was ever at work here.

    What is in a column is not in the device's own objects: `settle` writes it there, for whoever reads them.

    Args:
        totals: of the network.
    """

    def __init__(self, totals: NetworkStats) -> None:
        self.up, self.down = ManyLinks(), ManyLinks()
        self._usage = np.zeros((7, 0))
        self._unsettled = np.zeros(0, dtype=bool)
        self._totals = totals
        self._devices: list[Device] = []  # by column
        self._kinds: dict[tuple[object, ...], int] = {}

    def kind_of(self, device: Device) -> int:
        """Number what devices have in common that take the same time for the same work."""
        paths, computer = (id(device.up.path), id(device.down.path)), device.computer
        likeness = *paths, id(computer.work), computer.slowdown.constant, computer.run
        device.kind = self._kinds.setdefault(likeness, len(self._kinds) + 1)
        return device.kind

    def columns_of(self, devices: Sequence[Device]) -> Columns:
        """Give the columns of devices; their links are there from now on."""
        new = [device for device in devices if not device.is_in_table]
        if new:
            self._take(new)
        return np.array([device.column for device in devices])

    def _take(self, new: Sequence[Device]) -> None:
        for device in new:
            device.is_in_table = True
            if device.column < 0:
                device.column = len(self._devices)
                self._devices.append(device)
        more = len(self._devices) - len(self._unsettled)
        if more > 0:
            more = max(more, len(self._unsettled))
            self._usage = np.pad(self._usage, ((0, 0), (0, more)))
            self._unsettled = np.pad(self._unsettled, (0, more))
        columns = np.array([device.column for device in new])
        for table, links in ((self.up, [d.up for d in new]), (self.down, [d.down for d in new])):
            table.grow(len(self._devices))
            table.take(columns, links)
        used = [
            (
                each.endpoint.sent_bytes,
                each.endpoint.received_bytes,
                each.endpoint.active_s,
                each.computer.busy_s,
            )
            for each in new
        ]
        self._usage[:FROM, columns] = np.array(used, dtype=np.float64).T
        self._usage[PACKETS, columns] = 0

    def counts(self, columns: Columns, sent_bytes: int, received_bytes: int, at_s: Numbers) -> None:
        """Count what a message has cost on the link of each device, as Endpoint.counts."""
        usage, keepalive_s = self._usage, self._devices[0].endpoint.keepalive_s
        silence_s = at_s - usage[ACTIVE, columns]
        pings = (silence_s / keepalive_s).astype(np.int64) if (silence_s >= keepalive_s).any() else 0
        sent, received = sent_bytes + pings * PING.there, received_bytes + pings * PING.back
        usage[ACTIVE, columns] = at_s
        usage[SENT, columns] += sent
        usage[RECEIVED, columns] += received
        self._totals.uplink_bytes += int(np.broadcast_to(sent, len(columns)).sum())
        self._totals.downlink_bytes += int(np.broadcast_to(received, len(columns)).sum())
        self._unsettled[columns] = True

    def computes(self, columns: Columns, busy_s: Numbers) -> None:
        """Count how long devices compute."""
        self._usage[COMPUTING, columns] += busy_s

    def answered(
        self, columns: Columns, on_link: OnLink, from_s: Numbers, to_s: Numbers, packets: int
    ) -> None:
        """Count answers that have arrived, and keep in mind what has to be acknowledged."""
        self.counts(columns, on_link.there, on_link.back, to_s)
        if packets:
            usage = self._usage
            usage[FROM, columns], usage[TO, columns], usage[PACKETS, columns] = from_s, to_s, packets

    def pass_pubacks(self, columns: Columns, devices: Sequence[Device]) -> None:
        """Let the PUBACKs for what devices said last pass down, before anything else does."""
        usage = self._usage
        due = usage[PACKETS, columns]
        for packets in np.unique(due[due > 0]).tolist():
            some = columns[due == packets]
            path = devices[0].down.path
            self.down.acknowledge(some, path, usage[FROM, some], usage[TO, some], int(packets))
        usage[PACKETS, columns] = 0

    def settle(self) -> list[Device]:
        """Write what devices have used where others read it; give those devices."""
        columns = np.flatnonzero(self._unsettled)
        self._unsettled[columns] = False
        devices = [self._devices[column] for column in columns.tolist()]
        self._write(columns, devices)
        return devices

    def _write(self, columns: Columns, devices: Sequence[Device]) -> None:
        sent, received, active_s, computing_s, *_ = self._usage[:, columns].tolist()
        up_s, down_s = self.up.busy_s(columns), self.down.busy_s(columns)
        for place, device in enumerate(devices):
            endpoint = device.endpoint
            endpoint.sent_bytes, endpoint.received_bytes = int(sent[place]), int(received[place])
            endpoint.active_s = active_s[place]
            device.computer.busy_s = computing_s[place]
            device.up.busy_s, device.down.busy_s = up_s[place], down_s[place]

    def give_back(self, device: Device) -> None:
        """Let a device have its links again."""
        column = device.column
        self._write(np.array([column]), [device])
        self._unsettled[column] = device.is_in_table = False
        self.up.give(column, device.up)
        self.down.give(column, device.down)
        from_s, to_s, packets = self._usage[FROM:, column].tolist()
        device.down.acknowledge(from_s, to_s, int(packets))
