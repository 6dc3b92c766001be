"""A device with a battery in virtual time, and what happens when that is empty. Equations: docs/models.md."""

from collections.abc import Callable

from scenarios.schema.energy import Battery
from sim.network.clock import Clock
from sim.simulation.fleet.meter import Meter

_JOULES_IN_WH = 3600.0


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
