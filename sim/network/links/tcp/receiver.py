"""The far end of a TCP connection: which segments of a message have come, and what it acknowledges when."""

from collections import deque
from collections.abc import Callable

DELAYED_ACK_S = 0.04
"""Linux: a single segment is acknowledged so much later, if no other comes."""

Ack = tuple[float, int, list[int]]
"""When it is back at the sender, how many segments have come without a gap, and which others have that no
acknowledgement before told (SACK, RFC 2018)."""


class Receiver:
    """Acknowledges every second segment (RFC 5681); at once the last one, and all while one is missing.

    Args:
        segments: of the message.
        back_s: time that an acknowledgement takes.
        is_lost: draws for an acknowledgement whether it is lost.
        quick: so many segments are acknowledged at once, each.

    Attributes:
        acks: on their way, in order.
        upto: so many segments have come without a gap.
        due_s: when a segment is acknowledged that waits for a second one; 0: none waits.
        progress: the start, then (when, upto) for each segment that had no gap before it.
    """

    __slots__ = (
        "_back_s",
        "_beyond",
        "_has",
        "_is_lost",
        "_quick",
        "_segments",
        "_untold",
        "acks",
        "due_s",
        "progress",
        "upto",
    )

    def __init__(self, segments: int, back_s: float, is_lost: Callable[[], bool], quick: int = 0) -> None:
        self._segments = segments
        self._back_s = back_s
        self._is_lost = is_lost
        self._quick = quick
        self._untold: list[int] = []
        self._has = bytearray(segments + 1)
        self._beyond = 0  # the farthest one that has come
        self.acks: deque[Ack] = deque()
        self.upto = 0
        self.due_s = 0.0
        self.progress: list[tuple[float, int]] = []

    def arrived(self, segment: int, now_s: float) -> None:
        """Take a segment. Calls come in the order of their times."""
        if self.due_s and self.due_s < now_s:
            self.stop_waiting()
        upto, has = self.upto, self._has
        if segment != upto:
            has[segment] = 1
            self._beyond = max(self._beyond, segment)
            if segment > upto:
                self._untold.append(segment)
            self._acknowledge(now_s)
            return
        gap = self._beyond > segment
        upto += 1
        while has[upto]:
            upto += 1
        self.upto = upto
        self.progress.append((now_s, upto))
        if gap or self.due_s or upto == self._segments or upto <= self._quick:
            self.due_s = 0.0
            self._acknowledge(now_s)
        else:
            self.due_s = now_s + DELAYED_ACK_S

    def stop_waiting(self) -> None:
        """Acknowledge a segment although no second one has come."""
        self._acknowledge(self.due_s)
        self.due_s = 0.0

    def _acknowledge(self, now_s: float) -> None:
        if not self._is_lost():
            self.acks.append((now_s + self._back_s, self.upto, self._untold))
            self._untold = []

    def next_ack_s(self) -> float:
        """Give when the next acknowledgement is back, if nothing more comes; 0: none is on its way."""
        if self.acks:
            return self.acks[0][0]
        return self.due_s + self._back_s if self.due_s else 0.0
