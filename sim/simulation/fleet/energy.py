"""What devices draw in virtual time. Equations: docs/models.md."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scenarios.schema.energy import Power
from server_node.summary import EnergyDrawn
from sim.network.clock import Clock
from sim.simulation.fleet.meter import JOULES_IN_NJ, Meter

if TYPE_CHECKING:
    from sim.simulation.fleet.supply import Supply

KINDS = ("idle", "computing", "sending", "receiving")
"""For what a device draws; bytes count as sent or received."""

Joules = NDArray[np.float64]


class Used(NamedTuple):
    """What k devices have used, as numbers of shape (k,) each.

    Attributes:
        columns: their places in the fleet.
        computing_s: how long they have computed.
        sending_s: how long their uplinks were busy.
        sent_bytes: on their links.
        receiving_s: how long their downlinks were busy.
        received_bytes: on their links.
    """

    columns: NDArray[np.int64]
    computing_s: Joules
    sending_s: Joules
    sent_bytes: Joules
    receiving_s: Joules
    received_bytes: Joules


class Energy:
    """What a fleet draws.

    A round looks only at the devices that were at work since the last look: a fleet may be large.

    Args:
        clock: virtual time.
        fleet: the power of so many devices after so many, in the order of the fleet; None: it is not known.
        clients: their names.
        at_work: gives what may have drawn more than `idle_w` since it was called last: clients with meters,
            and others with what they have used.

    Attributes:
        meters: of devices whose power is known, by client.
        supplies: of those with a battery, by client.
    """

    def __init__(
        self,
        clock: Clock,
        fleet: Sequence[tuple[Power | None, int]],
        clients: Sequence[str],
        at_work: Callable[[], tuple[Iterable[str], Used | None]],
    ) -> None:
        self._clock, self._clients, self._at_work = clock, clients, at_work
        self.meters: dict[str, Meter] = {}
        self.supplies: dict[str, Supply] = {}
        sizes = [size for _, size in fleet]
        self._has_meter = np.repeat([power is not None for power, _ in fleet], sizes)
        self._power = np.repeat([_watts(power) for power, _ in fleet], sizes, axis=0)
        self._working_j = np.zeros((len(KINDS) - 1, len(clients)))  # as far as it was looked at
        self._columns: dict[str, int] = {}

    def add(self, client: str, number: int, meter: Meter) -> None:
        """Look at the meter of a device, by its place in the fleet."""
        self.meters[client], self._columns[client] = meter, number

    def so_far(self) -> dict[str, float]:
        """Give the joules of the whole fleet until now, for a row of metrics; empty if no power is known."""
        if not self._has_meter.any():
            return {}
        return {"joules": _sum(_of_each(self._drawn()))}

    def summary(self) -> EnergyDrawn | None:
        """Give the joules of a run by what they were for, and of its clients; None if no power is known."""
        count = int(self._has_meter.sum())
        if not count:
            return None
        drawn = self._drawn()
        of_each = _of_each(drawn)
        total_j = _sum(of_each)
        most = int(np.argmax(np.where(self._has_meter, of_each, -1.0)))
        return {
            "joules": total_j,
            "joules_by_use": {kind: _sum(joules) for kind, joules in zip(KINDS, drawn, strict=True)},
            "joules_of_a_client": total_j / count,
            "most": {"client": self._clients[most], "joules": float(of_each[most])},
            "clients": count,
            "times_empty": sum(supply.times_empty for supply in self.supplies.values()),
        }

    def _drawn(self) -> list[Joules]:
        """Give the joules of all devices until now, an array a kind; those of unknown power draw nothing."""
        meters, now_s = self.meters, self._clock.now
        at_work, used = self._at_work()
        clients = [client for client in at_work if client in meters]
        if clients:
            columns = [self._columns[client] for client in clients]
            self._working_j[:, columns] = np.transpose([meters[client].working_j() for client in clients])
        if used is not None:
            _, compute_w, send_w, receive_w, per_byte_j = self._power[used.columns].T
            self._working_j[:, used.columns] = (
                compute_w * used.computing_s,
                send_w * used.sending_s + per_byte_j * used.sent_bytes,
                receive_w * used.receiving_s + per_byte_j * used.received_bytes,
            )
        idle_j = self._power[:, 0] * now_s
        for client in self.supplies:
            idle_j[self._columns[client]] = meters[client].idle_j(now_s)
        return [idle_j, *self._working_j]


def _watts(power: Power | None) -> tuple[float, ...]:
    """Give what a device draws: always, computing, sending, receiving, and joules per byte."""
    if power is None:
        return (0.0,) * 5
    per_byte_j = power.per_byte_nj * JOULES_IN_NJ
    return power.idle_w, power.compute_w, power.send_w, power.receive_w, per_byte_j


def _of_each(drawn: list[Joules]) -> Joules:
    first, second, *others = drawn
    joules = first + second
    for other in others:
        joules += other  # in place: new arrays for a large fleet cost more than the sums
    return joules


def _sum(joules: Joules) -> float:
    """Add up one after the other: the last bits are the same on every machine."""
    return float(joules.cumsum()[-1])
