"""Encodes a device's changes of its head; with error feedback what a codec lost comes with the next."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edge_client.training.cut import own_values
from scenarios.heads.payload import HeadCodec


class Feedback:
    """What the codecs of a device's head updates have lost.

    Args:
        is_on: whether it is added to the next update; else it is forgotten.

    Attributes:
        lost: shape (P + S,); the number 0 before the first update.
    """

    def __init__(self, *, is_on: bool) -> None:
        self._is_on = is_on
        self.lost: npt.NDArray[np.float32] | np.float32 = np.float32(0)

    def state(self) -> Tensor | None:
        """Give what must be kept of it; None if nothing is lost."""
        return torch.from_numpy(self.lost) if isinstance(self.lost, np.ndarray) else None

    def encode(self, change: npt.NDArray[np.float32], codec: HeadCodec, rng: np.random.Generator) -> bytes:
        """Give the payload of a change, shape (P + S,).

        Raises:
            WireError: it is not finite.
        """
        whole = change + self.lost
        with own_values("head"):
            payload = codec.encode(whole, rng)
        if self._is_on:
            self.lost = whole - codec.decode(payload, whole.size - codec.statistics)
        return payload
