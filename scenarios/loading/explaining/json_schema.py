"""A typed mapping's JSON schema as a tree, walked together with the data that it describes.

A choice is a schema with `oneOf`. It is tagged when a key of the data names one of its members, as
`policy: deadline` does.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from scenarios.schema.base import Part

Schema = Mapping[str, Any]


@functools.cache
def tree_of(model: type[Part]) -> Schema:
    """Give a model's JSON schema without references, and without the null of keys that may be left out.

    It is kept, since pydantic takes longer for it than for all else that is done with a scenario file.
    """
    root = model.model_json_schema()
    tree: Schema = _inlined(root, root.get("$defs", {}))
    return tree


def _inlined(schema: Any, definitions: Schema) -> Any:
    if isinstance(schema, list):
        return [_inlined(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inlined = {key: _inlined(value, definitions) for key, value in schema.items() if key != "$defs"}
    if "$ref" in inlined:
        return _inlined(definitions[inlined.pop("$ref").rpartition("/")[2]], definitions) | inlined
    if "anyOf" in inlined:
        members = [member for member in inlined.pop("anyOf") if member.get("type") != "null"]
        return (members[0] if len(members) == 1 else {"oneOf": members}) | inlined
    return inlined


def tag_of(schema: Schema) -> str | None:
    """Give the key that names the member of a tagged choice, such as policy; None for any other schema."""
    tag: str | None = schema.get("discriminator", {}).get("propertyName")
    return tag


def default_tag(schema: Schema) -> str | None:
    """Give the member that a tagged choice takes when nothing is written, such as wait_all; None for none."""
    tag, default = tag_of(schema), schema.get("default")
    return default[tag] if tag and isinstance(default, dict) else None


def member_for(schema: Schema, data: object) -> Schema:
    """Give the member of a choice that some data take; the schema as it is for no choice, or no member."""
    if not isinstance(data, dict):
        return schema
    tag = tag_of(schema)
    named = data.get(tag, default_tag(schema)) if tag else None
    for member in schema.get("oneOf", ()):
        properties = member.get("properties")
        if properties and (tag is None or properties[tag]["const"] == named):
            return member  # type: ignore[no-any-return]
    return schema


def below(schema: Schema, part: str | int) -> Schema:
    """Give the schema of a list's item, or of a mapping's key; empty for a key that is not allowed."""
    if isinstance(part, int):
        return schema.get("items", {})  # type: ignore[no-any-return]
    # names that the user chose, as those of access points, are no properties
    names = schema.get("additionalProperties")
    own: Schema = names if isinstance(names, dict) else {}
    return schema.get("properties", {}).get(part, own)  # type: ignore[no-any-return]


def with_default_tags(data: Any, schema: Schema) -> Any:
    """Write the default's tag into each mapping that leaves it out.

    Pydantic asks for the tag of every mapping. Yet the schema says which member stands where nothing is
    written; so a mapping without a tag, as `--set stragglers.retry_s=60` makes one, means that member.
    """
    member = member_for(schema, data)
    if isinstance(data, list):
        return [with_default_tags(item, below(member, number)) for number, item in enumerate(data)]
    if not isinstance(data, dict):
        return data
    filled = {key: with_default_tags(value, below(member, key)) for key, value in data.items()}
    default = default_tag(schema)
    return filled if default is None else {tag_of(schema): default} | filled


def paths_of(name: str, root: Schema) -> list[str]:
    """Give the shortest key paths at which a file may have a key of some name, such as training.rounds.

    A list's item is its first, 0. Of mappings with names of one's own nothing is given.
    """
    level: list[tuple[tuple[str, ...], Schema]] = [((), root)]
    while level:
        found = [".".join((*path, name)) for path, schema in level if name in schema.get("properties", {})]
        if found:
            return list(dict.fromkeys(found))
        level = [deeper for path, schema in level for deeper in _children(path, schema)]
    return []


def _children(path: tuple[str, ...], schema: Schema) -> Iterator[tuple[tuple[str, ...], Schema]]:
    for key, child in schema.get("properties", {}).items():
        below_it = child.get("items", child)
        at = (*path, key, "0") if "items" in child else (*path, key)
        yield from ((at, member) for member in (below_it, *below_it.get("oneOf", ())))
