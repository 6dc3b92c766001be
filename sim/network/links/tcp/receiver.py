"""The far end of a TCP connection: which segments of a message have come, and what it acknowledges when."""

from collections import deque
from collections.abc import Callable

from sim.network.links.path import Path

DELAYED_ACK_S = 0.04
"""Linux: a single segment is acknowledged so much later, if no other comes."""

QUICK_ACKS = 16
"""Linux: as many segments of a new connection are acknowledged at once, each."""

Answer = Callable[[float, Path], float | None]
"""Says when an acknowledgement is back that is sent at a time; None: it is lost. The line is as it was when
the segment left that is answered."""

Ack = tuple[float, int, list[int], float]
"""When it is back at the sender, how many segments have come without a gap, which others have that no
acknowledgement before told (SACK, RFC 2018), and when that segment was sent which it answers (RFC 7323)."""


class Receiver:
    """Acknowledges every second segment (RFC 5681); at once the last one, and all while one is missing.

    Args:
        segments: of the message.
        answer: see Answer.
        quick: so many segments are acknowledged at once, each.

    Attributes:
        acks: on their way, in order.
        upto: so many segments have come without a gap.
        due_s: when a segment is acknowledged that waits for a second one; 0: none waits.
        progress: the start, then (when, upto) for each segment that had no gap before it.
    """

    __slots__ = (
        "_answer",
        "_beyond",
        "_has",
        "_path",
        "_quick",
        "_segments",
        "_sent_s",
        "_untold",
        "acks",
        "due_s",
        "progress",
        "upto",
    )

    def __init__(self, segments: int, answer: Answer, quick: int = 0) -> None:
        self._segments = segments
        self._answer = answer
        self._quick = quick
        self._untold: list[int] = []
        self._path: Path  # of the segment that came last
        self._sent_s = 0.0  # of the first segment that is not acknowledged yet
        self._has = bytearray(segments + 1)
        self._beyond = 0  # the farthest one that has come
        self.acks: deque[Ack] = deque()
        self.upto = 0
        self.due_s = 0.0
        self.progress: list[tuple[float, int]] = []

    def arrived(self, segment: int, now_s: float, sent_s: float, path: Path) -> None:
        """Take a segment. Calls come in the order of their times.

        Args:
            segment: its number.
            now_s: when it arrives.
            sent_s: when it was sent.
            path: what the line was like when it left.
        """
        if self.due_s and self.due_s < now_s:
            self.stop_waiting()
        self._path = path
        upto, has = self.upto, self._has
        if segment != upto:
            has[segment] = 1
            self._beyond = max(self._beyond, segment)
            if segment > upto:
                self._untold.append(segment)
            self._acknowledge(now_s)
            return
        if not self.due_s:
            self._sent_s = sent_s
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
        back_s = self._answer(now_s, self._path)
        if back_s is not None:
            self.acks.append((back_s, self.upto, self._untold, self._sent_s))
            self._untold = []
