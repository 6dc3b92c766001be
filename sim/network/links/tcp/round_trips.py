"""What TCP knows of the time that a round trip takes, and how long it waits for one: RFC 6298 as in Linux."""

LEAST_MARGIN_S = 0.2
"""Linux: the timeout is at least so much above the mean round trip."""

MEAN_GAIN = 1 / 8
DEVIATION_GAIN = 1 / 4
"""Weights of a new round trip, RFC 6298."""


class RoundTrips:
    """Mean and deviation of a connection's round trips.

    Linux differs from RFC 6298 in this: the deviation falls slowly when round trips become shorter, and the
    timeout follows the largest deviation of each flight, a quarter of the way down a flight.

    Args:
        first_s: the first one, of the handshake.

    Attributes:
        mean_s: smoothed.
        least_s: the shortest one.
    """

    __slots__ = ("_deviation_s", "_flight_s", "_margin_s", "least_s", "mean_s")

    def __init__(self, first_s: float) -> None:
        self.mean_s = self.least_s = first_s
        self._deviation_s = first_s / 2
        self._margin_s = max(4 * self._deviation_s, LEAST_MARGIN_S)
        self._flight_s = self._margin_s  # four times the largest deviation of this flight

    @property
    def timeout_s(self) -> float:
        """After so long a silence everything under way counts as lost."""
        return self.mean_s + self._margin_s

    def note(self, round_trip_s: float) -> None:
        """Take note of a round trip."""
        self.least_s = min(self.least_s, round_trip_s)
        error_s = round_trip_s - self.mean_s
        self.mean_s += MEAN_GAIN * error_s
        more_s = abs(error_s) - self._deviation_s
        if error_s < 0 < more_s:
            more_s *= MEAN_GAIN
        self._deviation_s += DEVIATION_GAIN * more_s
        if 4 * self._deviation_s > self._flight_s:
            self._flight_s = 4 * self._deviation_s
            self._margin_s = max(self._margin_s, self._flight_s)

    def end_flight(self) -> None:
        """Let a flight end: everything that was under way at the end of the one before has arrived."""
        if self._flight_s < self._margin_s:
            self._margin_s -= DEVIATION_GAIN * (self._margin_s - self._flight_s)
        self._flight_s = LEAST_MARGIN_S
