"""How long a client usually takes to answer, and how long to wait before asking it (RFC 6298)."""

from dataclasses import dataclass

FIRST_WAIT_S = 30.0
"""Before anything is known of a client."""

SHORTEST_WAIT_S = 5.0
"""An answer takes its computing time, which varies more than a network's round trip."""

GAIN, DEVIATION_GAIN, DEVIATIONS = 1 / 8, 1 / 4, 4
"""alpha, beta and K of RFC 6298, section 2."""


@dataclass(slots=True)
class RoundTrip:
    """The answers of one client: from the server's message to the client's answer, computing included.

    Attributes:
        mean_s: SRTT of RFC 6298; 0 before the first answer.
        deviation_s: RTTVAR of RFC 6298.
        questions: that this server has asked the client; the number of the last one.
    """

    mean_s: float = 0.0
    deviation_s: float = 0.0
    questions: int = 0

    def observe(self, took_s: float) -> None:
        """Learn from an answer to a message that was sent once (Karn's rule: RFC 6298, section 3)."""
        if not self.mean_s:
            self.mean_s, self.deviation_s = took_s, took_s / 2
        else:
            self.deviation_s += DEVIATION_GAIN * (abs(self.mean_s - took_s) - self.deviation_s)
            self.mean_s += GAIN * (took_s - self.mean_s)

    @property
    def wait_s(self) -> float:
        """How long to wait for an answer before asking for it."""
        if not self.mean_s:
            return FIRST_WAIT_S
        return max(SHORTEST_WAIT_S, self.mean_s + DEVIATIONS * self.deviation_s)
