"""Walks the scenario schema, so that tests try every key instead of the ones that somebody thought of."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from scenarios.loading.explaining.json_schema import Schema, tag_of, tree_of
from scenarios.schema.scenario import Scenario

SCHEMA = tree_of(Scenario)


class Place(NamedTuple):
    """A key of the schema.

    Attributes:
        path: its names; "0" for the first item of a list, "any" for a name of one's own.
        schema: of its value.
        beside: the tag that the mapping around it needs, if any.
    """

    path: tuple[str, ...]
    schema: Schema
    beside: dict[str, str]

    @property
    def name(self) -> str:
        return self.path[-1]

    def tree(self, value: object, name: str = "") -> Any:
        """Give a file's content with the key, or with `name` in its place, and what must stand around it."""
        tree: Any = {name or self.name: value} | self.beside
        for part in reversed(self.path[:-1]):
            tree = [tree] if part == "0" else {part: tree}
        return tree


def places(schema: Schema = SCHEMA, path: tuple[str, ...] = ()) -> Iterator[Place]:
    """Give every key below a schema."""
    for member in (schema, *schema.get("oneOf", ())):
        tag = tag_of(schema)
        keys = member.get("properties", {})
        beside = {tag: keys[tag]["const"]} if tag and tag in keys else {}
        for name, child in keys.items():
            yield Place((*path, name), child, {} if name == tag else beside)
            yield from places(child, (*path, name))
        if isinstance(member.get("items"), dict):
            yield from places(member["items"], (*path, "0"))
        if isinstance(member.get("additionalProperties"), dict):
            yield from places(member["additionalProperties"], (*path, "any"))


PLACES = list(places())


def keys_of(part: str) -> str:
    """Name the keys of a part of a scenario, such as training, as messages do."""
    return ", ".join(SCHEMA["properties"][part]["properties"])


NUMBERS = [
    place._replace(schema=member)
    for place in PLACES
    for member in (place.schema, *place.schema.get("oneOf", ()))
    if member.get("type") in {"number", "integer"}
]
