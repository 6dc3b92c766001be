"""Which packets are lost: by chance alone, or in bursts."""

from sim.network.links.path import Path
from sim.network.links.random_stream import RandomStream


class Losses:
    """Draws the losses of one direction of one link; its random numbers are its own.

    What answers a packet has a stream of its own: which packets are lost does not depend on when they are
    acknowledged.

    Args:
        seed: the scenario's.
        owner: whose link it is, and in which direction; names the streams.
    """

    __slots__ = ("_answers", "_is_bad", "_stream")

    def __init__(self, seed: int, *owner: str) -> None:
        self._stream = RandomStream(seed, "loss", *owner)
        self._answers = RandomStream(seed, "loss of answers", *owner)
        self._is_bad = False

    def is_lost(self, path: Path) -> bool:
        """Draw whether the next packet is lost.

        A chain goes one step for each packet; it waits while nothing is sent, as netem's does.

        Args:
            path: the link as it is now.
        """
        chain = path.bursts
        if chain is None:
            return self._stream.uniform() < path.loss
        self._is_bad ^= self._stream.uniform() < (chain.r if self._is_bad else chain.p)
        return self._stream.uniform() < (chain.loss_in_bad if self._is_bad else chain.loss_in_good)

    def is_answer_lost(self, path: Path) -> bool:
        """Draw the same of an acknowledgement, which goes the other way: by chance alone."""
        return self._answers.uniform() < path.loss
