"""The vectors hold: what they say is what this implementation reads and writes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker.codecs import (
    codec_from_wire,
    decode_activations,
    decode_gradient,
    gradient_codec_from_wire,
)
from broker.codecs.base import Matrix
from broker.codecs.registry import GRADIENT_CODECS, NUMBERS
from broker.codecs.targets import Targets
from broker.wire import bits, chunks, messages, packing
from broker.wire.errors import WireError
from tests.vectors.make import KINDS, VECTORS, of_bits, of_chunks, of_messages, of_refusals, of_targets

FOLDER = Path(__file__).parent


def read(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


def tensor(text: str, n: int, d: int) -> Matrix:
    return np.frombuffer(bytes.fromhex(text), "<f4").reshape(n, d).astype(np.float32)


def test_there_is_a_vector_of_each_message_and_each_codec() -> None:
    kinds = {name.__name__ for name in messages.Message.__args__}
    assert {each["message"] for each in read("messages")} == kinds
    told = {each["codec"][0] for each in read("codecs") + read("gradients")}
    assert told == {NUMBERS.get(name, name) for name in GRADIENT_CODECS}
    assert {path.stem for path in FOLDER.glob("*.json")} == set(VECTORS)


def test_what_has_one_form_is_written_as_in_the_vectors() -> None:
    for name, make in {
        "messages": of_messages,
        "bits": of_bits,
        "chunks": of_chunks,
        "refusals": of_refusals,
        "targets": of_targets,
    }.items():
        assert json.loads(json.dumps(make())) == read(name), name


@pytest.mark.parametrize("vector", read("messages"), ids=lambda vector: vector["message"])
def test_messages_are_read_as_in_the_vectors(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["bytes"])
    message = packing.decode(data)
    assert type(message).__name__ == vector["message"]
    assert packing.encode(message) == data


@pytest.mark.parametrize("vector", read("refusals"), ids=lambda vector: vector["what"])
def test_what_is_refused_is_refused_for_the_same_reason(vector: dict[str, Any]) -> None:
    with pytest.raises(WireError) as error:
        packing.decode(bytes.fromhex(vector["bytes"]))
    assert error.value.reason == vector["reason"]


@pytest.mark.parametrize("vector", read("codecs"), ids=lambda vector: str(vector["codec"]))
def test_tensors_are_decoded_to_the_bit(vector: dict[str, Any]) -> None:
    codec, n, d = codec_from_wire(vector["codec"]), vector["n"], vector["d"]
    payload = bytes.fromhex(vector["payload"])
    decoded, told = codec.decode(payload, n, d), tensor(vector["output"], n, d)
    if vector.get("nearly"):
        np.testing.assert_allclose(decoded, told, atol=1e-5 * float(np.abs(told).max()))
    else:
        assert decoded.tobytes() == told.tobytes()
    if vector["exact"]:
        assert codec.encode(tensor(vector["input"], n, d), np.random.default_rng(7)) == payload


@pytest.mark.parametrize(("kind", "vector"), [*zip(KINDS, read("targets"), strict=True)])
def test_targets_are_read_as_in_the_vectors(kind: tuple[Targets, int], vector: dict[str, Any]) -> None:
    assert kind[0].wire_parts() == vector["outputs"]
    values = kind[0].decode(bytes.fromhex(vector["bytes"]), vector["n"])
    for name, told in vector["values"].items():
        read_as = values[name] if isinstance(values, dict) else values
        np.testing.assert_array_equal(read_as.reshape(vector["n"], -1), np.array(told, read_as.dtype))


@pytest.mark.parametrize("vector", read("gradients"), ids=lambda vector: str(vector["codec"]))
def test_gradients_of_codewords_are_decoded_to_the_bit(vector: dict[str, Any]) -> None:
    n, d = vector["n"], vector["d"]
    activations = codec_from_wire(vector["activations_codec"])
    codec = gradient_codec_from_wire(vector["codec"], activations)
    _, codewords = decode_activations(activations, bytes.fromhex(vector["activations_payload"]), n, d)
    gradient = decode_gradient(codec, bytes.fromhex(vector["payload"]), codewords, n, d)
    assert gradient.tobytes() == tensor(vector["output"], n, d).tobytes()


@pytest.mark.parametrize("vector", read("bits"), ids=lambda vector: str(vector["bits"]))
def test_integers_are_unpacked_as_in_the_vectors(vector: dict[str, Any]) -> None:
    values = bits.unpack(bytes.fromhex(vector["bytes"]), vector["bits"], len(vector["values"]))
    assert values.tolist() == vector["values"]


@pytest.mark.parametrize("vector", read("chunks"), ids=lambda vector: str(vector["transfer"]))
def test_chunks_are_joined_as_in_the_vectors(vector: dict[str, Any]) -> None:
    reassembler, packets = chunks.Reassembler(), [bytes.fromhex(text) for text in vector["packets"]]
    if len(packets) == 1:
        assert packets == [bytes.fromhex(vector["message"])]
        return
    joined = [reassembler.add(vector["topic"], packet) for packet in reversed(packets)]
    assert joined[:-1] == [None] * (len(packets) - 1)
    assert joined[-1] == chunks.Message(bytes.fromhex(vector["message"]), vector["wire_bytes"])
