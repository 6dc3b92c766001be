"""Chooses which of a device's rows are kept for testing, when the server has no test data."""

from hashlib import blake2b

import numpy as np

from scenarios.outputs import arrays, outputs_of
from scenarios.seeds import derive_seed
from scenarios.task import Split


def held_out(split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """Divide samples into those to train on and those to test on.

    A row's side follows from its own values and the seed. So it stays when data grow or are sorted anew, and
    equal rows are on one side. A device that has any rows has one to train on.

    Args:
        split: a device's samples.
        share: of the rows that are for testing, from 0 up to 1; that of a few rows may be far from it.
        seed: the scenario's.

    Returns:
        The samples for training, and those for testing.
    """
    if share == 0.0:
        return split, split.take(np.empty(0, np.int64))
    key = derive_seed(seed, "held_out").to_bytes(8, "big")
    tested = np.zeros(len(split), np.bool_)
    parts = [split.inputs.numpy(), *arrays(outputs_of(split.targets)).values()]
    for row in range(len(split)):
        values = b"".join(part[row].tobytes() for part in parts)
        digest = blake2b(values, digest_size=8, key=key).digest()
        tested[row] = int.from_bytes(digest, "big") < share * 2**64
    if tested.all():
        tested[:1] = False
    return split.take(np.flatnonzero(~tested)), split.take(np.flatnonzero(tested))
