"""A mapping that does not name its policy, codec or pattern means the one that the schema has by default."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenarios.loading.document import TAGS
from scenarios.loading.explaining.json_schema import (
    Schema,
    below,
    default_tag,
    tag_of,
    tree_of,
    with_default_tags,
)
from scenarios.loading.load import load_scenario
from scenarios.schema.flows import Codecs
from scenarios.schema.scenario import Scenario
from tests.helpers import small_scenario

SCHEMA = tree_of(Scenario)


def choices(schema: Schema, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Schema]]:
    """Give every tagged choice in a schema, by its key path; a list's first item stands for all."""
    if tag_of(schema):
        yield ".".join(path), schema
    for member in (schema, *schema.get("oneOf", ())):
        for key in member.get("properties", {}):
            yield from choices(below(member, key), (*path, key))
        if "items" in member:
            yield from choices(below(member, 0), (*path, "0"))


CHOICES = dict(choices(SCHEMA))
WITH_DEFAULT = {path: choice for path, choice in CHOICES.items() if default_tag(choice)}


def default_keys(choice: Schema) -> dict[str, Any]:
    """Give the keys that may be set without naming the tag, with their defaults."""
    return {key: value for key, value in choice["default"].items() if key != tag_of(choice)}


def part_at(scenario: Scenario, path: str) -> Any:
    part: Any = scenario
    for name in path.split("."):
        part = part[int(name)] if name.isdecimal() else getattr(part, name)
    return part


def test_the_choices_are_those_of_the_documentation() -> None:
    assert set(WITH_DEFAULT) == {
        "stragglers",
        "fleet.0.availability",
        *(f"flows.{flow}" for flow in Codecs._fields),
        *(f"training.{side}_optimizer" for side in ("head", "tail", "server")),
    }


def test_every_tag_replaces_the_mapping_that_has_another() -> None:
    assert {tag_of(choice) for choice in CHOICES.values()} <= set(TAGS)


@pytest.mark.parametrize("path", sorted(WITH_DEFAULT))
def test_an_empty_mapping_is_the_default(tmp_path: Path, path: str) -> None:
    assert part_at(small_scenario(tmp_path, f"{path}={{}}"), path) == part_at(small_scenario(tmp_path), path)


@pytest.mark.parametrize(
    ("path", "key"), [(path, key) for path, choice in WITH_DEFAULT.items() for key in default_keys(choice)]
)
def test_a_key_of_the_default_can_be_set_alone(tmp_path: Path, path: str, key: str) -> None:
    usual = part_at(small_scenario(tmp_path), path)
    own = getattr(usual, key)
    other = own if isinstance(own, bool) else 0.5  # a truth may need another key beside it
    changed = part_at(small_scenario(tmp_path, f"{path}.{key}={json.dumps(other)}"), path)
    assert changed == usual.model_copy(update={key: other})


def test_a_silence_of_the_server_can_be_set_without_naming_a_policy(tmp_path: Path) -> None:
    scenario = small_scenario(tmp_path, "stragglers.retry_s=61")
    assert (scenario.stragglers.policy, scenario.stragglers.retry_s) == ("wait_all", 61)


def test_a_named_policy_stays_what_a_file_below_named(tmp_path: Path) -> None:
    base = tmp_path / "base.yaml"
    base.write_text(
        "extends: quickstart\nname: base\nstragglers: {policy: deadline, deadline_s: 3, minimum: 5}\n"
    )
    top = tmp_path / "top.yaml"
    top.write_text("extends: ./base.yaml\nname: top\nstragglers: {retry_s: 61}\n")
    stragglers = load_scenario(top).stragglers
    assert (stragglers.policy, stragglers.retry_s) == ("deadline", 61)


def test_another_pattern_does_not_inherit_the_first_ones_parameters(tmp_path: Path) -> None:
    text = "fleet=[{count: 4, availability: {pattern: on_off, mean_on_s: 60, mean_off_s: 5}}]"
    (group,) = small_scenario(tmp_path, text, "fleet.0.availability.pattern=always").fleet
    assert group.availability.pattern == "always"


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "fleet",
                        "flows",
                        "stragglers",
                        "policy",
                        "availability",
                        "activations_up",
                        "codec",
                        "retry_s",
                        "by_link",
                        "x",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_tags_are_added_and_nothing_else_is_changed(data: Any) -> None:
    def without_added(filled: Any, before: Any) -> Any:
        if isinstance(before, list):
            return [without_added(*pair) for pair in zip(filled, before, strict=True)]
        if not isinstance(before, dict):
            return filled
        assert set(filled) - set(before) <= set(TAGS)
        return {key: without_added(filled[key], value) for key, value in before.items()}

    assert without_added(with_default_tags(data, SCHEMA), data) == data
