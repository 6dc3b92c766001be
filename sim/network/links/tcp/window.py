"""How many segments TCP has under way: Cubic (RFC 9438) and Reno (RFC 5681), as Linux has them."""

import math

from scenarios.schema.links import Tcp

INITIAL_WINDOW = 10
"""Segments, RFC 6928."""

NO_THRESHOLD = 2**30
"""Segments; slow start goes on until the first loss."""

LEAST_THRESHOLD = 2

HYSTART_WINDOW = 16
HYSTART_SAMPLES = 8
HYSTART_PAUSE_S = 0.002
"""Linux's HyStart: from this window on; after so many round trips of a flight; acknowledgements without a
longer pause between them are one train."""


class Reno:
    """Reno: half the window after a loss, then a segment more each round trip.

    Attributes:
        size: segments that may be under way.
        threshold: below it, slow start.
    """

    __slots__ = ("_credit", "size", "threshold")

    def __init__(self) -> None:
        self.size = INITIAL_WINDOW
        self.threshold = NO_THRESHOLD
        self._credit = 0

    def grow(self, acked: int, now_s: float) -> None:
        """Take note of acknowledged segments, while the window is used."""
        if self.size < self.threshold:
            more = min(acked, self.threshold - self.size)
            self.size += more
            acked -= more
        if acked:
            self._widen(acked, self.wait(acked, now_s))

    def _widen(self, acked: int, wait: int) -> None:
        """Be one segment wider for every `wait` acknowledged ones."""
        if self._credit >= wait:
            self._credit = 0
            self.size += 1
        self._credit += acked
        if self._credit >= wait:
            self.size += self._credit // wait
            self._credit %= wait

    def wait(self, acked: int, now_s: float) -> int:
        """Say after how many acknowledged segments the window is one wider."""
        del acked, now_s
        return self.size

    def reduced(self) -> int:
        """Give the threshold after a loss."""
        return max(LEAST_THRESHOLD, self.size // 2)

    def timed_out(self) -> None:
        """Forget what is forgotten at a timeout."""

    def rested(self, silence_s: float) -> None:
        """Begin to send after a silence."""

    def sampled(self, now_s: float, round_trip_s: float, first: int, following: int) -> None:
        """Take note of a round trip."""


class Cubic(Reno):
    """Cubic: 0.7 of the window after a loss, then a cubic function of time around the window before it."""

    __slots__ = (
        "_acked",
        "_before",
        "_begun_s",
        "_found",
        "_last_ack_s",
        "_least_s",
        "_origin",
        "_peak_after_s",
        "_reno",
        "_round_begun_s",
        "_round_end",
        "_round_least_s",
        "_samples",
        "_updated_s",
        "_wait",
    )

    BETA = 717 / 1024
    C = 0.4
    RENO_SCALE = 15 / 8

    def __init__(self) -> None:
        super().__init__()
        self._least_s = math.inf
        self.timed_out()

    def timed_out(self) -> None:
        """Do as Reno.timed_out."""
        self._before = self._reno = self._acked = 0
        self._wait = 0
        self._origin = 0
        self._peak_after_s = 0.0
        self._begun_s: float | None = None
        self._updated_s = -1.0
        self._round_end = 0
        self._round_begun_s = self._last_ack_s = 0.0
        self._round_least_s = math.inf
        self._samples = 0
        self._found = False  # once it is found slow start ends where it did, until a timeout

    def reduced(self) -> int:
        """Do as Reno.reduced."""
        self._begun_s = None
        self._before = int(self.size * (1 + self.BETA) / 2) if self.size < self._before else self.size
        return max(LEAST_THRESHOLD, int(self.size * self.BETA))

    def rested(self, silence_s: float) -> None:
        """Do as Reno.rested: the function of time stands still."""
        if self._begun_s is not None:
            self._begun_s += silence_s

    def wait(self, acked: int, now_s: float) -> int:
        """Do as Reno.wait."""
        size = self.size
        self._acked += acked
        if self._begun_s is None:
            self._begun_s = now_s
            self._acked = acked
            self._reno = size
            if self._before <= size:
                self._peak_after_s, self._origin = 0.0, size
            else:
                self._peak_after_s, self._origin = ((self._before - size) / self.C) ** (1 / 3), self._before
        since_s = now_s - self._begun_s + self._least_s
        target = self._origin + self.C * (since_s - self._peak_after_s) ** 3
        wait = size / (target - size) if target > size else 100 * size
        if self._before == 0:
            wait = min(wait, 20)
        per = int(size * self.RENO_SCALE)
        if self._acked > per:
            self._reno += (self._acked - 1) // per
            self._acked = (self._acked - 1) % per + 1
        if self._reno > size:
            wait = min(wait, size / (self._reno - size))
        return max(2, int(wait))

    def sampled(self, now_s: float, round_trip_s: float, first: int, following: int) -> None:
        """Do as Reno.sampled: HyStart ends slow start when the queue grows, or the pipe is full.

        Args:
            now_s: when the acknowledgement came.
            round_trip_s: of the segment that it acknowledges.
            first: number of that.
            following: of the next segment that will be sent.
        """
        self._least_s = min(self._least_s, round_trip_s)
        if first > self._round_end:
            self._round_end = following
            self._round_begun_s = self._last_ack_s = now_s
            self._round_least_s, self._samples = math.inf, 0
        if self._found or self.size >= self.threshold or self.size < HYSTART_WINDOW:
            return
        if now_s - self._last_ack_s <= HYSTART_PAUSE_S:
            self._last_ack_s = now_s
            if now_s - self._round_begun_s > self._least_s / 2:
                self.threshold, self._found = self.size, True
        self._round_least_s = min(self._round_least_s, round_trip_s)
        if self._samples < HYSTART_SAMPLES:
            self._samples += 1
        elif self._round_least_s > self._least_s + min(0.016, max(0.004, self._least_s / 8)):
            self.threshold, self._found = self.size, True


class Use:
    """How much of its window a connection uses; Linux looks when it sends, or would like to."""

    __slots__ = ("_full", "_most", "_until")

    def __init__(self) -> None:
        self._full = False
        self._most = self._until = 0

    def note(self, una: int, following: int, more: int, *, full: bool) -> None:
        """Take note of what is under way after something was sent.

        Args:
            una: the first segment that is not acknowledged.
            following: the next one that will be sent.
            more: under way besides these.
            full: whether no more may be.
        """
        most = following - una + more
        if una >= self._until or full or (not self._full and most > self._most):
            self._full, self._most, self._until = full, most, following

    def allows_growth(self, window: Reno) -> bool:
        """Say whether what is acknowledged now makes the window wider."""
        return self._full or (window.size < window.threshold and window.size < 2 * self._most)


def window_of(tcp: Tcp) -> Reno:
    """Make the window of a new connection."""
    return Cubic() if tcp == "cubic" else Reno()
