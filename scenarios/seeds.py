"""Everything random in a run hangs on the scenario's seed and on the name of what needs it.

Streams are named, not drawn one after another: a device that restarts, or a round that is repeated,
gets the same numbers whatever happened before.
"""

import json
from hashlib import blake2b

import numpy as np


def derive_seed(seed: int, *labels: str | int) -> int:
    """Derive an independent seed from a scenario's seed.

    Args:
        seed: the scenario's seed.
        labels: what the seed is for, such as ("batch", client, round, step); 1 and "1" differ.

    Returns:
        A 63-bit non-negative integer, the same on every platform.
    """
    named = json.dumps([seed, *labels]).encode()
    return int.from_bytes(blake2b(named, digest_size=8).digest(), "big") >> 1


def generator(seed: int, *labels: str | int) -> np.random.Generator:
    """Give the random generator that `derive_seed` with the same arguments names."""
    return np.random.default_rng(derive_seed(seed, *labels))
