"""The short form of scripts/fuzz: the same targets, inputs that are the same each time, some seconds."""

import random
import tracemalloc
from collections.abc import Iterator

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.wire import packing
from broker.wire.errors import WireError
from broker.wire.messages import Activations
from tests.fuzz.mutation import mutate, seeds
from tests.fuzz.targets import OVERHEAD_BYTES, TARGETS, any_target

INPUTS = 3_000
MEGABYTE = 1_000_000


@pytest.fixture
def tracing() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.usefixtures("tracing")
def test_valid_inputs_pass_every_target() -> None:
    assert {data[0] for data in seeds()} >= {
        TARGETS.index(target) for target in TARGETS if target.__name__ != "raw_chunk"
    }
    for data in seeds():
        any_target(data)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_made_of_valid_bytes_is_read_or_refused(seed: int) -> None:
    rng, pool = random.Random(seed), seeds()
    for _ in range(INPUTS):
        any_target(mutate(rng.choice(pool), rng, pool))


@pytest.mark.usefixtures("tracing")
def test_small_inputs_take_no_more_memory_than_they_may() -> None:
    rng, pool = random.Random(99), seeds()
    for _ in range(INPUTS // 3):
        any_target(mutate(rng.choice(pool), rng, pool))


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.sampled_from(TARGETS), st.binary(max_size=300))
def test_noise_is_read_or_refused(target: object, noise: bytes) -> None:
    assert callable(target)
    target(noise)


def bomb(kind: str) -> bytes:
    """A message of a megabyte that costs far more than its length if it is unpacked before it is checked."""
    start = b"\x98\x03\x05\x03\x07\x00\x01\x02"
    match kind:
        case "deep":
            return b"\x9f\x03\x02\xc2\x05" + b"\x91" * MEGABYTE
        case "wide":
            return b"\x96\x03\x02\xc2\x05" + b"\xdd" + MEGABYTE.to_bytes(4) + b"\x90" * MEGABYTE + b"\x00"
        case "maps":
            return b"\x96\x03\x02\xc2\x05" + b"\xdd" + MEGABYTE.to_bytes(4) + b"\x80" * MEGABYTE + b"\x00"
        case "payload of arrays":
            return start + b"\xdd" + MEGABYTE.to_bytes(4) + b"\x90" * MEGABYTE
        case "text":
            return b"".join((b"\x94\x03\x08", msgpack.packb("é" * (MEGABYTE // 2)), b"\xa0"))
        case _:
            return packing.encode(Activations(3, 7, 0, 1, 2, bytes(MEGABYTE), b"\x21"))


@pytest.mark.usefixtures("tracing")
@pytest.mark.parametrize("kind", ["deep", "wide", "maps", "payload of arrays", "text", "valid"])
def test_a_megabyte_takes_at_most_four_times_itself(kind: str) -> None:
    data = bomb(kind)
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    try:
        packing.decode(data)
    except WireError:
        assert kind != "valid"
    _, peak = tracemalloc.get_traced_memory()
    assert peak - before <= 4 * len(data) + OVERHEAD_BYTES
