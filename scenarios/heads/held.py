"""The heads that a device has received, with `flows.head_since: last`; the next is sent as a change of one.

Device and server both keep them, so both take the same vector for what the device has. Of the last message
the server does not know whether it arrived. So the head before is kept as well, until the server has heard of
the later one and sends the next as a change of that.
"""

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Vector = npt.NDArray[np.float32]


class HeldHeads:
    """What one device has of the last rounds that it was assigned.

    Args:
        initial: the head that the run starts from, shape (P + S,).
    """

    def __init__(self, initial: Vector) -> None:
        self._initial = initial
        self._of_round: dict[int, Vector] = {}  # at most two

    @property
    def rounds(self) -> Collection[int]:
        """Those whose heads are held."""
        return self._of_round

    def base(self, since: int) -> Vector:
        """Give the head of a round, shape (P + S,), or the initial one for 0; KeyError if it is not held."""
        return self._of_round[since] if since else self._initial

    def take(self, since: int, number: int, change: Vector) -> Vector:
        """Note, and give, the head of a round as a change of an earlier one; what is older is forgotten."""
        base = self.base(since)
        self._of_round = {**({since: base} if since else {}), number: base + change}
        return self._of_round[number]

    def state(self) -> dict[int, Tensor]:
        """Give what must be kept: copies of the heads, by round."""
        return {number: torch.from_numpy(head.copy()) for number, head in self._of_round.items()}

    def restore(self, state: Mapping[int, Tensor]) -> None:
        """Hold what was held by who gave a state."""
        self._of_round = {number: head.numpy() for number, head in state.items()}
