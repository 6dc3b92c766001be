"""Batches of earlier rounds that the tail learns from once more: a replay of clustered activations.

They are kept as they were sent, so a batch takes as much memory as it had bytes on its way.
"""

from collections.abc import Callable, Collection
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from broker.wire.errors import WireError
from broker.wire.messages import Activations
from scenarios.schema.training import Replay
from scenarios.seeds import generator
from server_node.learning.gradients import Batch
from server_node.learning.spreading import Map
from server_node.learning.tail_state import Kept
from server_node.vocabulary.jobs import TailStep, TailUpdate

NAME = "replay"
"""Of the tensor in a checkpoint."""


class ReplayMemory:
    """Keeps the batches of the last rounds, and draws some of them for a further step of the tail.

    Attributes:
        kept: in the order in which they came.

    Args:
        spec: how many rounds and batches; None: nothing is kept.
        seed: the scenario's.
        read: decodes a batch under the codecs of a rung.
        map_batches: `map`, or what decodes several at once.
    """

    def __init__(
        self,
        spec: Replay | None,
        seed: int,
        read: Callable[[tuple[str, Activations, float], int], Batch | WireError],
        map_batches: Map,
    ) -> None:
        self._spec = spec
        self._seed = seed
        self._read = read
        self._map = map_batches
        self.kept: list[Kept] = []

    def keep(self, job: TailStep, clients: Collection[str]) -> None:
        """Keep the batches of clients whose batches the tail could take; forget those of older rounds."""
        if self._spec is None:
            return
        oldest = job.round - self._spec.rounds
        self.kept = [each for each in self.kept if each.round >= oldest]
        self.kept += [
            Kept(client, job.round, batch, job.rungs.get(client, 0))
            for client, batch, _ in job.batches
            if client in clients
        ]

    def draw(self, job: TailUpdate, left_out: Collection[str]) -> list[Batch]:
        """Draw from the batches of the rounds before, each as likely as any other, but for some clients'."""
        if self._spec is None:
            return []
        since = job.round - self._spec.rounds
        earlier = [
            each for each in self.kept if since <= each.round < job.round and each.client not in left_out
        ]
        rng = generator(self._seed, NAME, job.round, job.step)
        places = rng.choice(len(earlier), min(self._spec.batches, len(earlier)), replace=False)
        drawn = [earlier[place] for place in np.sort(places)]
        sent = [(each.client, each.batch, 1.0) for each in drawn]
        read = self._map(self._read, sent, [each.rung for each in drawn])
        return [batch for batch in read if isinstance(batch, Batch)]


def tensor_of(kept: list[Kept]) -> dict[str, Tensor]:
    """Give what is kept as a tensor for a checkpoint, by its name; nothing if nothing is kept."""
    packed = msgspec.msgpack.encode(kept)
    return {NAME: torch.frombuffer(bytearray(packed), dtype=torch.uint8)} if kept else {}


def kept_in(tensors: dict[str, Tensor] | Any) -> list[Kept]:
    """Find in a checkpoint what `tensor_of` gave; the inverse."""
    if NAME not in tensors:
        return []
    return msgspec.msgpack.decode(tensors[NAME].numpy().tobytes(), type=list[Kept])
