"""How long each packet is under way: as long as the link's latency is, or a time of its own."""

from sim.network.links.path import Path
from sim.network.links.random_stream import RandomStream


class Delays:
    """Says when the packets of one direction of one link arrive, and when those that answer them do.

    Order is kept: no packet arrives before an earlier one on the same way. Where a path says so, the time of
    each is drawn. Packets, what answers them, and PUBACKs have a random stream each, so the n-th packet has
    the same time whatever is acknowledged, and whatever goes the other way.

    Args:
        seed: the scenario's.
        owner: whose link it is, and in which direction; names the streams.
    """

    __slots__ = ("_answers", "_last_back_s", "_last_s", "_packets", "_pubacks")

    def __init__(self, seed: int, *owner: str) -> None:
        self._packets = RandomStream(seed, "jitter", *owner)
        self._answers = RandomStream(seed, "jitter of answers", *owner)
        self._pubacks = RandomStream(seed, "jitter of PUBACKs", *owner)
        self.reset()

    def reset(self) -> None:
        """Begin a new connection: nothing of the one before is under way."""
        self._last_s = self._last_back_s = 0.0

    def arrival_s(self, left_s: float, path: Path) -> float:
        """Say when a packet arrives that has left while the line was so."""
        self._last_s = at_s = max(self._last_s, left_s + _one_way_s(path, self._packets))
        return at_s

    def back_s(self, now_s: float, path: Path) -> float:
        """Say when an acknowledgement is back that goes now, the other way."""
        self._last_back_s = at_s = max(self._last_back_s, now_s + _one_way_s(path, self._answers))
        return at_s

    def there_and_back_s(self, path: Path) -> float:
        """Say how long a PUBACK and its acknowledgement are under way."""
        return _one_way_s(path, self._pubacks) + _one_way_s(path, self._pubacks)


def _one_way_s(path: Path, stream: RandomStream) -> float:
    if path.jitter_per_packet and path.one_way_s:
        return path.one_way_s(stream.uniform())
    return path.latency_s
