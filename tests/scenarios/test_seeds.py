import json
from hashlib import blake2b

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scenarios.seeds import derive_seed, generator


def test_same_labels_give_the_same_seed_on_every_platform() -> None:
    assert derive_seed(7, "batch", "c01", 3, 0) == 8_431_550_169_525_611_703


def test_every_part_of_the_name_counts() -> None:
    names = [(), ("a",), ("a", 1), ("a", "1"), ("a1",), (1, "a"), ("a", ""), ("a", 1, 0)]
    seeds = {derive_seed(seed, *name) for name in names for seed in (0, 1)}
    assert len(seeds) == 2 * len(names)


def test_seeds_are_63_bit() -> None:
    seeds = [derive_seed(0, number) for number in range(1000)]
    assert min(seeds) >= 0
    assert 2**62 < max(seeds) < 2**63


def test_generators_of_one_name_draw_the_same_numbers() -> None:
    first, again = generator(1, "encode").random(5), generator(1, "encode").random(5)
    other = generator(1, "decode").random(5)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@given(
    seed=st.integers(0, 2**64),
    labels=st.lists(st.one_of(st.integers(), st.text()), max_size=6),
)
def test_a_seed_is_a_digest_of_its_name_as_json(seed: int, labels: list[str | int]) -> None:
    digest = blake2b(json.dumps([seed, *labels]).encode(), digest_size=8).digest()
    assert derive_seed(seed, *labels) == int.from_bytes(digest, "big") // 2
