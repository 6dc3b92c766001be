"""What devices draw in virtual time, and what happens when a battery is empty. Equations: docs/models.md."""

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from scenarios.schema.energy import Battery, Power
from server_node.summary import EnergyDrawn
from sim.network.clock import Clock

KINDS = ("idle", "computing", "sending", "receiving")
"""For what a device draws; bytes count as sent or received."""

Joules = NDArray[np.float64]

_JOULES_IN_WH = 3600.0
_JOULES_IN_NJ = 1e-9


class Busy(Protocol):
    """Something that knows for how long it was busy, in seconds: a computer, a link."""

    @property
    def busy_s(self) -> float: ...  # noqa: D102


class Radio(Protocol):
    """A device's links, as sim.network.endpoint.Endpoint has them, and the bytes on each."""

    sent_bytes: int
    received_bytes: int

    @property
    def up(self) -> Busy: ...  # noqa: D102

    @property
    def down(self) -> Busy: ...  # noqa: D102


class Meter:
    """Counts what a device draws. A job and a message count as a whole when they begin.

    Args:
        power: of the device.
        computer: does its jobs.
        radio: its links.

    Attributes:
        idle_w: what it always draws while it is on.
    """

    __slots__ = ("_computer", "_off_s", "_off_since_s", "_power", "_radio", "idle_w")

    def __init__(self, power: Power, computer: Busy, radio: Radio) -> None:
        self._power, self._computer, self._radio = power, computer, radio
        self.idle_w = power.idle_w
        self._off_s = 0.0  # all times but the one that lasts
        self._off_since_s: float | None = None

    def switch_off(self, now_s: float) -> None:
        """Draw nothing but for what is under way."""
        self._off_since_s = now_s

    def switch_on(self, now_s: float) -> None:
        """Draw again after it was off."""
        assert self._off_since_s is not None
        self._off_s += now_s - self._off_since_s
        self._off_since_s = None

    def idle_j(self, now_s: float) -> float:
        """Give what it has drawn since the run began for being on."""
        on_until_s = now_s if self._off_since_s is None else self._off_since_s
        return self.idle_w * (on_until_s - self._off_s)

    def working_j(self) -> tuple[float, float, float]:
        """Give what it has drawn beyond that, in the order of KINDS: for computing, sending, receiving."""
        power, radio = self._power, self._radio
        per_byte_j = power.per_byte_nj * _JOULES_IN_NJ
        return (
            power.compute_w * self._computer.busy_s,
            power.send_w * radio.up.busy_s + per_byte_j * radio.sent_bytes,
            power.receive_w * radio.down.busy_s + per_byte_j * radio.received_bytes,
        )


class Supply:
    """A device with a battery: it is connected while it is there, and on.

    Args:
        clock: virtual time.
        battery: of the device.
        meter: counts what it draws.
        connect: lets it connect.
        lose: lets it vanish.

    Attributes:
        times_empty: how often the battery was empty.
    """

    def __init__(
        self,
        clock: Clock,
        battery: Battery,
        meter: Meter,
        connect: Callable[[], None],
        lose: Callable[[], None],
    ) -> None:
        self._clock, self._meter = clock, meter
        self._connect, self._lose = connect, lose
        self._capacity_j = battery.capacity_wh * _JOULES_IN_WH
        self._charge_w = battery.charge_w
        self._returns_j = battery.returns_at * self._capacity_j
        self._level_j = battery.initial * self._capacity_j
        self._settled_s = self._settled_j = 0.0
        self._there = False
        self._on = True
        self._plan = 0  # only the latest one counts
        self.times_empty = 0
        self.look()

    def appear(self) -> None:
        """Be where the network is."""
        self._there = True
        if self._on:
            self._connect()

    def vanish(self) -> None:
        """Be away from the network."""
        self._there = False
        if self._on:
            self._lose()

    @property
    def level_j(self) -> float:
        """What is in the battery."""
        self._settle()
        return self._level_j

    def look(self) -> None:
        """See whether the battery is empty, and when it will be if nothing but time passes."""
        if not self._on:
            return
        self._settle()
        if self._level_j <= 0.0:
            self._go_off()
            return
        drain_w = self._meter.idle_w - self._charge_w
        if drain_w > 0.0:
            self._at(self._clock.now + self._level_j / drain_w, self._is_due)

    def _at(self, time_s: float, call: Callable[[int], None]) -> None:
        self._plan += 1
        self._clock.at(time_s, call, self._plan)

    def _is_due(self, plan: int) -> None:
        if plan == self._plan:
            self._settle()
            self._level_j = min(self._level_j, 0.0)  # rounding may have left a little
            self._go_off()

    def _settle(self) -> None:
        """Bring the level up to now."""
        now_s, working_j = self._clock.now, sum(self._meter.working_j())
        gain_w = self._charge_w - (self._meter.idle_w if self._on else 0.0)
        level_j = self._level_j + gain_w * (now_s - self._settled_s) - (working_j - self._settled_j)
        self._level_j = min(level_j, self._capacity_j)
        self._settled_s, self._settled_j = now_s, working_j

    def _go_off(self) -> None:
        self._on = False
        self._plan += 1  # what was planned is void
        self._meter.switch_off(self._clock.now)
        self.times_empty += 1
        if self._there:
            self._lose()
        if self._charge_w:
            self._at(self._clock.now + (self._returns_j - self._level_j) / self._charge_w, self._return)

    def _return(self, plan: int) -> None:
        assert plan == self._plan
        self._settle()
        self._meter.switch_on(self._clock.now)
        self._on = True
        if self._there:
            self._connect()
        self.look()


class Energy:
    """What a fleet draws.

    A round looks only at the devices that were at work since the last look: a fleet may be large.

    Args:
        clock: virtual time.
        at_work: gives the clients that may have drawn more than `idle_w` since it was called last.

    Attributes:
        meters: of the devices whose power is known, by client.
        supplies: of those with a battery, by client.
    """

    def __init__(self, clock: Clock, at_work: Callable[[], Iterable[str]]) -> None:
        self._clock = clock
        self._at_work = at_work
        self.meters: dict[str, Meter] = {}
        self.supplies: dict[str, Supply] = {}
        self._idle_w = np.zeros(0)
        self._working_j = np.zeros((len(KINDS) - 1, 0))  # as far as it was looked at; as in `_drawn`
        self._columns: dict[str, int] = {}

    def so_far(self) -> dict[str, float]:
        """Give the joules of the whole fleet until now, for a row of metrics; empty if no power is known."""
        if not self.meters:
            return {}
        return {"joules": _sum(_of_each(self._drawn(self._at_work())))}

    def summary(self) -> EnergyDrawn | None:
        """Give the joules of a run by what they were for, and of its clients; None if no power is known."""
        if not self.meters:
            return None
        drawn = self._drawn(self._at_work())
        of_each = _of_each(drawn)
        total_j = _sum(of_each)
        most = int(np.argmax(of_each))
        return {
            "joules": total_j,
            "joules_by_use": {kind: _sum(joules) for kind, joules in zip(KINDS, drawn, strict=True)},
            "joules_of_a_client": total_j / len(of_each),
            "most": {"client": list(self.meters)[most], "joules": float(of_each[most])},
            "clients": len(of_each),
            "times_empty": sum(supply.times_empty for supply in self.supplies.values()),
        }

    def _drawn(self, clients: Iterable[str]) -> list[Joules]:
        """Look at the meters of these clients; give the joules of all until now, an array a kind."""
        meters, now_s = self.meters, self._clock.now
        if len(self._idle_w) < len(meters):  # all have joined before time passes
            self._idle_w = np.array([meter.idle_w for meter in meters.values()])
            self._working_j = np.zeros((len(KINDS) - 1, len(meters)))
            self._columns = {client: column for column, client in enumerate(meters)}
        clients = [client for client in clients if client in meters]
        if clients:
            columns = [self._columns[client] for client in clients]
            self._working_j[:, columns] = np.transpose([meters[client].working_j() for client in clients])
        idle_j = self._idle_w * now_s
        for client in self.supplies:
            idle_j[self._columns[client]] = meters[client].idle_j(now_s)
        return [idle_j, *self._working_j]


def _of_each(drawn: list[Joules]) -> Joules:
    first, second, *others = drawn
    joules = first + second
    for other in others:
        joules += other  # in place: new arrays for a large fleet cost more than the sums
    return joules


def _sum(joules: Joules) -> float:
    """Add up one after the other: the last bits are the same on every machine."""
    return float(joules.cumsum()[-1])
