"""A client's data on its device: batches of them, and new ones when their files have changed."""

import logging
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from broker.wire.errors import WireError
from edge_client.jobs import Stock
from scenarios.errors import ScenarioError
from scenarios.loading.trial.memory import split_bytes
from scenarios.local.places import state_of
from scenarios.outputs import arrays, outputs_of
from scenarios.task import Split
from scenarios.training import BatchSampler

log = logging.getLogger(__name__)

Parts = tuple[Split, Split]
"""A client's samples for training, and those that it keeps for evaluation."""


class OwnData:
    """Where a client's own data are; they themselves are the device's.

    Args:
        place: the folder or file with them.
        read: reads, checks and divides them; ScenarioError if they cannot be used.
    """

    def __init__(self, place: Path, read: Callable[[], Parts]) -> None:
        self._place = place
        self._read = read
        self._state = b""

    def read(self) -> Parts:
        """Read them.

        Raises:
            ScenarioError: they cannot be used; the sentence says why.
        """
        self._state = state_of(self._place)  # before reading: what changes meanwhile is read at the next look
        return self._read()

    def look(self) -> Parts | None:
        """Give the data if their files have changed since they were read, and can be used as they are now.

        A file that is half written cannot; it will have changed by the next look.
        """
        if state_of(self._place) == self._state:
            return None
        try:
            return self.read()
        except ScenarioError as error:
            log.warning("%s; the device goes on with the data that it has", error)
            return None


class DeviceData:
    """The samples that a device uses in the round under way, and those that wait for the next one.

    Args:
        data: samples for training.
        held_out: further ones, for evaluation; None: there are none.
        look: gives both anew if they have changed since the last call; None: they never do.
        rows_of: gives, of all inputs, the rows that they need, as Hello.rows; empty: nothing is told of them.
        client: its name.
        seed: the scenario's.
        batch_size: samples a step.

    Attributes:
        stock: how many there are.
    """

    def __init__(
        self,
        data: Split,
        held_out: Split | None,
        look: Callable[[], Parts | None] | None,
        rows_of: Callable[[Sequence[Tensor]], bytes] = lambda _inputs: b"",
        *,
        client: str,
        seed: int,
        batch_size: int,
    ) -> None:
        self._client = client
        self._seed = seed
        self._batch_size = batch_size
        self._look = look
        self._next: Parts | None = None
        self._use(data, held_out or data.take(np.empty(0, np.int64)))
        self._rows_of = rows_of
        self.stock = self._stock(data, self._held_out)

    @property
    def looks(self) -> bool:
        """Whether the data may change."""
        return self._look is not None

    def look(self) -> Stock:
        """Read the data if they have changed; a round that is under way goes on with those that it has."""
        if self._look is not None and (new := self._look()) is not None:
            self._next = new
            self.stock = self._stock(*new)
        return self.stock

    def _stock(self, data: Split, held_out: Split) -> Stock:
        return Stock(len(data), len(held_out), self._rows_of([data.inputs, held_out.inputs]))

    def begin_round(self) -> None:
        """Use from now on what was read anew."""
        if self._next is not None:
            self._use(*self._next)
            self._next = None

    def _use(self, data: Split, held_out: Split) -> None:
        self._data, self._held_out = data, held_out
        samples = len(data)
        self._sampler = BatchSampler(samples, self._batch_size, seed=self._seed, client=self._client)

    def __len__(self) -> int:
        """Give how many samples there are to train on in the round under way."""
        return len(self._data)

    @property
    def nbytes(self) -> int:
        """Bytes of all samples."""
        return split_bytes(self._data, self._held_out)

    def batch(self, number: int, step: int) -> tuple[Tensor, Any]:
        """Give inputs and targets of a step of a round, as of Split.batch."""
        return self._data.batch(self._sampler.rows(number, step))

    def held_out_batch(self, number: int) -> tuple[Tensor, Any]:
        """Give inputs and targets of a batch for evaluation, numbered from 0; WireError after the last."""
        first = number * self._batch_size
        if first >= len(self._held_out):
            raise WireError("empty", "this device has no more samples for evaluation")
        return self._held_out.batch(slice(first, first + self._batch_size))

    def digest(self) -> str:
        """Give a digest of all values: another one when any has changed."""
        digest = blake2b(digest_size=8)
        for split in (self._data, self._held_out):
            for values in (split.inputs.numpy(), *arrays(outputs_of(split.targets)).values()):
                digest.update(f"{values.dtype} {values.shape} ".encode())
                digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()
