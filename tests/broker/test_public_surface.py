"""What users are told to import is there, is all that is exported, and has the types that they see."""

import asyncio
import importlib
import re
from pathlib import Path
from typing import Literal, assert_never, assert_type

import numpy as np
import numpy.typing as npt
import pytest

import broker.codecs
from broker.codecs import (
    CODECS,
    ClusteringCodec,
    Codec,
    Codewords,
    Float32,
    GradientCodec,
    Pq,
    TensorCodec,
    clustering,
    codec_from_wire,
    codec_to_wire,
    decode_activations,
    encode_activations,
    encode_gradient,
    gradient_codec_from_wire,
)
from broker.codecs.registry import GRADIENT_CODECS
from broker.transports import (
    Connect,
    Connected,
    Disconnected,
    Event,
    Frame,
    MemoryBroker,
    MemoryTransport,
    MqttTransport,
    Refused,
    Transport,
)

DOCS = Path(__file__).parents[2] / "docs/extending.md"
ROWS = re.findall(
    r"\| `((?:broker|scenarios)[.\w]*)` \| (.*) \|", DOCS.read_text().split("## Names to import")[1]
)


def test_users_are_told_of_the_readers_the_codecs_the_transports_and_the_errors() -> None:
    assert [module for module, _ in ROWS] == [
        "scenarios.local",
        "broker.codecs",
        "broker.transports",
        "broker.errors",
    ]


@pytest.mark.parametrize(("module", "names"), ROWS, ids=[module for module, _ in ROWS])
def test_what_is_exported_is_what_users_are_told_of(module: str, names: str) -> None:
    exported = importlib.import_module(module)
    assert exported.__all__ == sorted(re.findall(r"`(\w+)`", names))
    assert all(hasattr(exported, name) for name in exported.__all__)


def test_every_codec_is_exported() -> None:
    assert {kind.__name__ for kind in GRADIENT_CODECS.values()} <= set(broker.codecs.__all__)


def test_a_codec_turns_arrays_into_bytes_and_back() -> None:
    rng, x = np.random.default_rng(0), np.zeros((2, 4), np.float32)
    codec = Pq(subvectors=2)
    assert_type(codec.codec, Literal["pq"])
    payload = assert_type(codec.encode(x, rng), bytes)
    assert_type(codec.decode(payload, 2, 4), npt.NDArray[np.float32])
    assert_type(codec.size_bytes(2, 4), int)
    assert_type(codec.fits(3, 2, 4), bool)
    assert_type(codec.paper_bits(2, 4, 3), float)
    assert_type(codec.cluster(x, rng), tuple[bytes, Codewords])
    assert_type(clustering(codec), ClusteringCodec | None)


def test_codecs_travel_as_lists_and_come_back_as_codecs() -> None:
    parts = assert_type(codec_to_wire(Float32()), list[str | int | float])
    codec = assert_type(codec_from_wire(parts), Codec)
    assert_type(gradient_codec_from_wire(parts, codec), GradientCodec)
    assert_type(CODECS, dict[str, type[TensorCodec]])


def test_a_step_hands_on_what_the_other_side_sees() -> None:
    rng, z = np.random.default_rng(0), np.zeros((2, 4), np.float32)
    payload, received, codewords = encode_activations(Float32(), z, rng)
    assert_type(received, npt.NDArray[np.float32])
    assert_type(codewords, Codewords | None)
    assert_type(
        decode_activations(Float32(), payload, 2, 4), tuple[npt.NDArray[np.float32], Codewords | None]
    )
    assert_type(encode_gradient(Float32(), z, codewords, rng), bytes)


def kind_of(event: Event) -> str:
    """Fails the type check when there is an event that users are not told of."""
    match event:
        case Connected() | Disconnected():
            return "connection"
        case Frame(payload=payload):
            assert_type(payload, bytes)
            return "message"
        case Refused(error=error):
            return error.reason
        case _:
            assert_never(event)


async def test_transports_can_be_exchanged() -> None:
    def over_mqtt(*, client_id: str) -> Transport:
        return MqttTransport("mqtt://localhost", client_id=client_id, subscriptions=[])

    memory = MemoryBroker()
    assert_type(memory.transport(client_id="a", subscriptions=[]), MemoryTransport)
    connect: Connect = memory.transport
    async with assert_type(connect(client_id="a", subscriptions=["x"]), Transport) as transport:
        await transport.publish("x", b"")
        assert [kind_of(await anext(transport.events())) for _ in range(2)] == ["connection", "message"]
    assert isinstance(over_mqtt(client_id="b"), MqttTransport)
    assert asyncio.all_tasks() == {asyncio.current_task()}
