"""What a segment passes on a device's own link: the line, then its way to the other end."""

from collections.abc import Sequence
from typing import NamedTuple

from sim.network.links.losses import Losses
from sim.network.links.path import Path
from sim.network.links.tcp.delays import Delays


class Sent(NamedTuple):
    """A message whose segments have all arrived, or will without fail.

    Attributes:
        left_s: when the last one to come had left.
        path: what the line was like then.
        progress: when it has arrived up to which segment, ascending; the first one is the start.
    """

    left_s: float
    path: Path
    progress: Sequence[tuple[float, int]]


class Line:
    """One direction of a device's own link, for the segments of one message.

    Args:
        path: what it is like.
        losses: what is lost on it; None: nothing.
        delays: how long each packet is under way; None: all as long as the latency.
    """

    __slots__ = ("_delays", "_free_s", "_losses", "_path")

    def __init__(self, path: Path, losses: Losses | None, delays: Delays | None = None) -> None:
        self._path = path
        self._losses = losses
        self._delays = delays
        self._free_s = 0.0

    def leave(self, now_s: float, size: float) -> tuple[float, float, Path]:
        """Take a segment, after those that are there; say when it begins to leave, has left, and how.

        Args:
            now_s: when it is sent.
            size: of it; a full packet's is 1.
        """
        begins_s = max(now_s, self._free_s)
        self._free_s = left_s = begins_s + size * self._path.segment_s
        return begins_s, left_s, self._path

    def arrive(self, left_s: float, path: Path) -> float | None:
        """Say when a segment arrives that has left while the line was so; None: never, it is lost."""
        if self._losses is not None and self._losses.is_lost(path):
            return None
        return self._delays.arrival_s(left_s, path) if self._delays else left_s + path.latency_s

    def answer(self, now_s: float, path: Path) -> float | None:
        """Do as Answer."""
        if self._losses is not None and self._losses.is_answer_lost(path):
            return None
        return self._delays.back_s(now_s, path) if self._delays else now_s + path.latency_s
