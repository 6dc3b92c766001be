"""The reference of scenario files and the schema for editors: made from what checks files, and complete."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from broker.cli.commands import app
from scenarios.loading.explaining.json_schema import Schema, tree_of
from scenarios.loading.explaining.reference import editor_schema, reference
from scenarios.loading.load import dump_resolved, load_scenario
from scenarios.loading.shipped import shipped
from scenarios.schema.devices import DEVICES
from scenarios.schema.links import LINKS
from scenarios.schema.scenario import Scenario

PAGE = Path(__file__).parent.parent.parent / "docs/reference.md"
SCHEMA = editor_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_the_page_is_what_the_command_writes(tmp_path: Path) -> None:
    written = CliRunner().invoke(app, ["scenarios", "reference", "--to", str(tmp_path / "page.md")])
    assert written.exit_code == 0
    made = (tmp_path / "page.md").read_text()
    assert made == reference() == PAGE.read_text(), "fedlite scenarios reference --to docs/reference.md"


def keys_of(schema: Schema, seen: frozenset[int] = frozenset()) -> Iterator[tuple[str, Any]]:
    """Give every key with its schema; one that holds itself, as any JSON value does, is looked at once."""
    if id(schema) in seen:
        return
    deeper = seen | {id(schema)}
    for key, child in schema.get("properties", {}).items():
        yield key, child
        yield from keys_of(child, deeper)
    for child in (*schema.get("oneOf", ()), schema.get("items"), schema.get("additionalProperties")):
        if isinstance(child, dict):
            yield from keys_of(child, deeper)


def test_every_key_is_there_and_says_what_it_means() -> None:
    rows = set(re.findall(r"^\| `(\w+)` \|", reference(), flags=re.MULTILINE))
    keys = dict(keys_of(tree_of(Scenario)))
    assert keys.keys() <= rows
    empty = re.findall(r"^\| `(\w+)` \|.*\|  \|$", reference(), flags=re.MULTILINE)
    assert set(empty) <= {"stragglers", "codec"}
    assert {*LINKS, *DEVICES} <= set(re.findall(r"^\| `([\w-]+)` \|", reference(), flags=re.MULTILINE))


def test_a_codec_stands_once_and_says_which_flows_take_it() -> None:
    below = dict(re.findall(r"^## codec: (\w+)\n\n(.*)$", reference(), flags=re.MULTILINE))
    assert below["float32"] == "Every flow takes it."
    assert below["codeword_mean"].startswith("Flows that take it: `gradient_down`")
    assert len(re.findall(r"^## codec: ", reference(), flags=re.MULTILINE)) == len(below)
    assert max(map(len, re.findall(r"^[^|].*$", reference(), flags=re.MULTILINE))) < 400


@pytest.mark.parametrize("name", shipped())
def test_editors_find_no_mistake_in_shipped_scenarios(name: str) -> None:
    VALIDATOR.validate(yaml.safe_load(shipped()[name].read_text()))


def test_editors_find_no_mistake_in_a_file_with_every_key() -> None:
    VALIDATOR.validate(yaml.safe_load(dump_resolved(load_scenario("moving-fleet"))))


@pytest.mark.parametrize(
    "text",
    [
        "training: {rounds: many}",
        "training: {round: 3}",
        "fleet: [{count: 3, link: let}]",
        "fleet: [{count: 3, device: pi.txt}]",
        "stragglers: {policy: deadlin}",
        "flows: {activations_up: {codec: pq, subvector: 3}}",
        "sed: 3",
    ],
)
def test_editors_find_mistakes(text: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(yaml.safe_load(text))


def test_editors_take_what_a_file_may_say_beside_the_schema() -> None:
    text = (
        "{extends: quickstart, sweep: {seed: [1, 2]}, network: {server: s.yaml}, fleet: [{device: pi.yaml}]}"
    )
    VALIDATOR.validate(yaml.safe_load(text))
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    written = CliRunner().invoke(app, ["scenarios", "schema"])
    assert json.loads(written.output) == SCHEMA
