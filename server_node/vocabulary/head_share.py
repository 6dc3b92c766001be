"""What a client has of the head: all of it, or with an early cut its first part."""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from broker.codecs import Codec
from scenarios.heads.parts import HeadForm
from scenarios.heads.payload import HeadCodec
from scenarios.schema.scenario import Scenario, early_cuts
from scenarios.task import Task


class HeadShare(NamedTuple):
    """What a client has of the head.

    Attributes:
        cut: the layer that its part ends with; empty: it has the whole head.
        cut_size: d, values of one sample where its part ends.
        form: how much is sent of its part.
        work: share of the head's multiply-adds that is in its part, 0 to 1.
        initial: the part as the run starts, as float32 values, for clients that have not got the task's code;
            empty when unknown.
    """

    cut: str
    cut_size: int
    form: HeadForm
    work: float = 1.0
    initial: bytes = b""

    @property
    def values(self) -> int:
        """How many values are sent of it, P + S."""
        return self.form.parameters + self.form.statistics

    def head_codec(self, codec: Codec) -> HeadCodec:
        """Give what encodes its part of the head, or a change of it, in a codec."""
        return HeadCodec(codec, self.form.statistics, self.form.shapes)


def early_shares(scenario: Scenario, task: Task) -> dict[str, HeadShare]:
    """Give what clients with an early cut have of the head; one tuple for all whose cut is the same."""

    @functools.cache
    def share(cut: str) -> HeadShare:
        early = task.early(cut)
        return HeadShare(cut, early.cut_size, early.form, early.work)

    return {client: share(cut) for client, cut in early_cuts(scenario).items()}


def with_initial(
    shares: Mapping[str, HeadShare], task: Task, initial: npt.NDArray[np.float32]
) -> dict[str, HeadShare]:
    """Add to each share what is sent of it as the run starts; of the whole head that is `initial`."""

    @functools.cache
    def whole(share: HeadShare) -> HeadShare:
        return share._replace(initial=initial[task.early(share.cut).own].astype("<f4").tobytes())

    return {client: whole(share) for client, share in shares.items()}
