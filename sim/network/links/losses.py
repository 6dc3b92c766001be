"""Which packets of a flight are lost: by chance alone, or in bursts."""

import math

from scenarios.schema.links import GilbertElliott
from sim.network.links.path import Path
from sim.network.links.random_stream import RandomStream


class Losses:
    """Draws the losses of one direction of one link; its random numbers are its own.

    Args:
        stream: of random numbers.
    """

    __slots__ = ("_is_bad", "_stream")

    def __init__(self, stream: RandomStream) -> None:
        self._stream = stream
        self._is_bad = False

    def of_flight(self, path: Path, flight: int) -> tuple[int, int]:
        """Draw how many segments of a flight are lost, and how many follow the first of them.

        Args:
            path: the link as it is now; its loss is above 0.
            flight: segments.
        """
        return self._single(path.loss, flight) if path.bursts is None else self._bursts(path.bursts, flight)

    def _single(self, loss: float, flight: int) -> tuple[int, int]:
        per_segment = math.log1p(-loss)
        lost, after, position = 0, 0, -1
        while True:  # the segments between two lost ones have a geometric distribution
            position += 1 + int(math.log1p(-self._stream.uniform()) / per_segment)
            if position >= flight:
                return lost, after
            lost += 1
            after = after if lost > 1 else flight - 1 - position

    def _bursts(self, chain: GilbertElliott, flight: int) -> tuple[int, int]:
        """Let the chain go one step for each packet; it waits while nothing is sent, as netem's does."""
        lost, after = 0, 0
        for position in range(flight):
            turns = self._stream.uniform() < (chain.r if self._is_bad else chain.p)
            self._is_bad ^= turns
            if self._stream.uniform() < (chain.loss_in_bad if self._is_bad else chain.loss_in_good):
                lost += 1
                after = after if lost > 1 else flight - 1 - position
        return lost, after
