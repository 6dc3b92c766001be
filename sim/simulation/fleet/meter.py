"""Counts what one device draws in virtual time."""

from typing import Protocol

from scenarios.schema.energy import Power

JOULES_IN_NJ = 1e-9


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

    __slots__ = ("_computer", "_on_s", "_on_since_s", "_power", "_radio", "idle_w")

    def __init__(self, power: Power, computer: Busy, radio: Radio) -> None:
        self._power, self._computer, self._radio = power, computer, radio
        self.idle_w = power.idle_w
        self._on_s = 0.0  # all times but the one that lasts
        self._on_since_s: float | None = 0.0

    def switch_off(self, now_s: float) -> None:
        """Draw nothing but for what is under way."""
        self._on_s, self._on_since_s = self._on_until(now_s), None

    def switch_on(self, now_s: float) -> None:
        """Draw again after it was off."""
        assert self._on_since_s is None
        self._on_since_s = now_s

    def idle_j(self, now_s: float) -> float:
        """Give what it has drawn since the run began for being on."""
        return self.idle_w * self._on_until(now_s)

    def _on_until(self, now_s: float) -> float:
        """Give for how long it was on: a sum of what only grows, so no rounding makes it fall."""
        return self._on_s if self._on_since_s is None else self._on_s + (now_s - self._on_since_s)

    def working_j(self) -> tuple[float, float, float]:
        """Give what it has drawn beyond that, in the order of KINDS: for computing, sending, receiving."""
        power, radio = self._power, self._radio
        per_byte_j = power.per_byte_nj * JOULES_IN_NJ
        return (
            power.compute_w * self._computer.busy_s,
            power.send_w * radio.up.busy_s + per_byte_j * radio.sent_bytes,
            power.receive_w * radio.down.busy_s + per_byte_j * radio.received_bytes,
        )
