"""One list of codecs: what is added to it is known on the wire, in scenarios and in the ledger."""

import ast
import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from broker.codecs import CLUSTERING_CODECS, CODECS, Float16, Float32, Pq, codec_from_wire, codec_to_wire
from broker.codecs.registry import GRADIENT_CODECS, LATER, NUMBERS

ROOT = Path(__file__).parents[2]

SIGNS = '''
"""A made-up codec: the sign of each value, times one size."""

from __future__ import annotations  # its fields' types are text

from dataclasses import dataclass
from typing import Literal

import numpy as np

from broker.codecs.base import Codec, Matrix


@dataclass(frozen=True, slots=True)
class Signs(Codec):
    codec: Literal["signs"] = "signs"
    magnitude: float = 1.0

    def encode(self, x: Matrix, rng: np.random.Generator) -> bytes:
        return (x > 0).astype(np.uint8).tobytes()

    def decode(self, payload: bytes, n: int, d: int) -> Matrix:
        ups = np.frombuffer(payload, np.uint8).reshape(n, d)
        return np.where(ups, self.magnitude, -self.magnitude).astype(np.float32)

    def size_bytes(self, n: int, d: int) -> int:
        return n * d
'''

USE_IT = """
import numpy as np

import broker
from broker.codecs import codec_from_wire, codec_to_wire, encode_activations
from scenarios.loading.load import load_scenario
from server_node.vocabulary.ledger import Ledger

changes = ["flows.activations_up={codec: signs, magnitude: 0.5}", "flows.gradient_down.codec=signs"]
flows = load_scenario("quickstart", changes).flows
codec = codec_from_wire(codec_to_wire(flows.activations_up))
payload, decoded, _ = encode_activations(codec, np.float32([[1, -2, 3]]), np.random.default_rng(0))
ledger = Ledger()
ledger.paper(codec, 1, 3, len(payload))
print(
    [
        codec_to_wire(codec),
        codec_to_wire(flows.gradient_down),
        decoded.tolist(),
        [codec.fits(size, 1, 3) for size in (2, 3, 4)],
        ledger.paper_bits,
        broker.__path__,
    ]
)
"""


def test_a_codec_added_to_the_one_list_is_on_the_wire_in_scenarios_and_accounted(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "broker", tmp_path / "broker", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "broker/codecs/signs.py").write_text(SIGNS)
    registry = tmp_path / "broker/codecs/registry.py"
    text = registry.read_text()
    with_import = text.replace(
        "import functools\n", "import functools\nfrom broker.codecs.signs import Signs\n"
    )
    registry.write_text(with_import.replace("\nTensorCodec = ", "\nTensorCodec = Signs | "))
    done = subprocess.run(
        [sys.executable, "-c", USE_IT],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert ast.literal_eval(done.stdout) == [
        ["signs", 0.5],
        ["signs", 1.0],
        [[0.5, -0.5, 0.5]],
        [False, True, False],
        [64 * 3, 8 * 3],
        [str(tmp_path / "broker")],
    ]


@pytest.mark.parametrize("kind", CODECS.values(), ids=list(CODECS))
def test_every_codec_has_defaults_and_travels_as_its_number_and_parameters(kind: type[Any]) -> None:
    codec = kind()
    parts = codec_to_wire(codec)
    assert len(parts) == len(fields(kind)) - LATER.get(codec.codec, 0)
    assert CODECS[codec.codec] is kind
    assert codec_from_wire(parts) == codec_from_wire([codec.codec, *parts[1:]]) == codec


def test_a_number_stands_for_one_codec_for_ever() -> None:
    names = "float32 float16 int8 int4 int2 topk random_topk pq coded_pq splitfc codeword_mean"
    assert list(NUMBERS)[:11] == names.split()
    assert list(NUMBERS.values()) == list(range(len(NUMBERS)))
    assert set(NUMBERS) <= set(GRADIENT_CODECS)


def test_a_codec_without_a_number_travels_as_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(NUMBERS, "pq")
    assert codec_to_wire(Pq(subvectors=2, centroids=4)) == ["pq", 2, 1, 4]


def test_codecs_are_named_on_the_wire_as_ever() -> None:
    plain = "float32 float16 int8 int4 int2 pq coded_pq topk random_topk touched_rows low_rank sample_mean"
    assert sorted(CODECS) == sorted([*plain.split(), "splitfc", "c3", "sl_fac", "nsc"])
    assert sorted(GRADIENT_CODECS) == sorted([*CODECS, "codeword_mean"])


def test_codecs_with_codewords_are_known_by_what_they_can_do() -> None:
    assert CLUSTERING_CODECS == ["pq", "coded_pq"]


def test_the_paper_counts_floats_as_64_bits_and_what_it_does_not_know_as_it_travels() -> None:
    assert Float32().paper_bits(20, 9216, payload_bytes=7) == 64 * 20 * 9216
    assert Pq(subvectors=2, centroids=4).paper_bits(3, 8, payload_bytes=7) == 64 * 4 * 4 + 3 * 2 * 2
    assert Float16().paper_bits(20, 9216, payload_bytes=7) == 56


def test_the_table_for_users_names_every_codec() -> None:
    text = (ROOT / "docs/scenarios.md").read_text()
    table = text.split("| codec | bytes for n x d values | notes |\n")[1].split("\n\n")[0]
    first_cells = [row.split("|")[1] for row in table.splitlines()[1:]]
    named = [name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(named) == sorted(GRADIENT_CODECS)


def test_the_protocol_gives_every_codec_with_its_parameters() -> None:
    text = (ROOT / "docs/protocol.md").read_text().split("## Tensors")[1]
    told = {first: rest.count(",") for first, rest in re.findall(r'`\[("\w+"|\d+)([^]]*)\]`', text)}
    assert told == {
        str(NUMBERS.get(name, f'"{name}"')): len(fields(kind)) - 1 for name, kind in GRADIENT_CODECS.items()
    }
