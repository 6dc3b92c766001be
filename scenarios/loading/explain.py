"""Turns pydantic's complaints about a scenario, or another file like it, into sentences a user can act on.

What is allowed at a key comes from the schema itself, so that messages cannot fall behind it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from scenarios.errors import suggestion
from scenarios.loading.document import Key
from scenarios.schema.base import Part

Schema = Mapping[str, Any]

RANGES = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
UNITS = {"_s": "seconds"}


def explain(error: ValidationError, data: object, model: type[Part]) -> list[tuple[Key, str]]:
    """Say what is wrong, as pairs of key and sentence.

    Args:
        error: what validating `data` raised.
        data: the file, as plain mappings, lists and scalars.
        model: what it was to be.
    """
    root = model.model_json_schema()
    return [
        _explain_one(details, data, root)
        for details in error.errors(include_url=False)
        if details["type"] != "default_factory_not_called"  # follows from a mistake that is told itself
    ]


def _explain_one(details: ErrorDetails, data: object, root: Schema) -> tuple[Key, str]:
    key = _without_tags(details["loc"], data, missing=details["type"] == "missing")
    match details["type"]:
        case "missing":
            return key, f"required but missing; must be {_allowed(_schema_at(key, data, root), key)}"
        case "extra_forbidden" | "unexpected_keyword_argument":
            known = _schema_at(key[:-1], data, root).get("properties", {})
            return key, f"unknown key{suggestion(str(key[-1]), known, label='allowed')}"
        case "value_error":
            return key, str(details["ctx"]["error"])
        case "union_tag_invalid" | "union_tag_not_found":
            return _explain_kind(key, details["input"], data, root)
        case _:
            allowed = _allowed(_schema_at(key, data, root), key)
            return key, f"must be {allowed}, not {_shown(details['input'])}"


def _explain_kind(key: Key, value: Any, data: object, root: Schema) -> tuple[Key, str]:
    """Explain a mapping whose kind, such as its codec, is unknown or missing."""
    discriminator = _schema_at(key, data, root)["discriminator"]
    kind, known = discriminator["propertyName"], list(discriminator["mapping"])
    if kind not in value:
        return (*key, kind), f"required but missing; must be {_either(known)}"
    word = str(value[kind])
    return (*key, kind), f"unknown {kind} '{word}'{suggestion(word, known, label='known')}"


def _without_tags(location: tuple[int | str, ...], data: object, *, missing: bool) -> Key:
    """Drop the names of union members that pydantic mixes into a location."""
    key: list[int | str] = []
    for part in location:
        if (isinstance(data, dict) and part in data) or (isinstance(data, list) and isinstance(part, int)):
            data = data[part]  # type: ignore[index]
            key.append(part)
    return (*key, location[-1]) if missing else tuple(key)


def _schema_at(key: Key, data: object, root: Schema) -> Schema:
    """Give the JSON schema of a key, going into the union members that the data chose."""
    schema = _resolved(root, root, data)
    for part in key:
        if isinstance(part, int):
            data = data[part] if isinstance(data, list) else None
            schema = _resolved(schema["items"], root, data)
        else:
            data = data.get(part) if isinstance(data, dict) else None
            # names that the user chose, as those of access points, are no properties
            schema = _resolved(
                schema.get("properties", {}).get(part) or schema["additionalProperties"], root, data
            )
    return schema


def _resolved(schema: Schema, root: Schema, data: object) -> Schema:
    """Follow references; of a union take the member that fits the data, or leave it as it is."""
    if "$ref" in schema:
        return _resolved(root["$defs"][schema["$ref"].rpartition("/")[2]], root, data)
    members = [
        _resolved(member, root, data)
        for member in schema.get("oneOf", schema.get("anyOf", ()))
        if member.get("type") != "null"
    ]
    if len(members) == 1:
        return members[0]
    if members and isinstance(data, dict):
        kind = schema.get("discriminator", {}).get("propertyName")
        for member in members:
            properties = member.get("properties")
            if properties and (kind is None or properties[kind]["const"] == data.get(kind)):
                return member
    return {**schema, "oneOf": members} if members else schema


def _allowed(schema: Schema, key: Key) -> str:
    """Describe in words what a schema accepts."""
    if "discriminator" in schema:
        kind = schema["discriminator"]["propertyName"]
        return f"a mapping with a {kind} of {_either(schema['discriminator']['mapping'])}"
    if "oneOf" in schema:
        return " or ".join(_allowed(member, key) for member in schema["oneOf"])
    if "const" in schema or "enum" in schema:
        return _either(schema.get("enum", [schema.get("const")]))
    if schema["type"] == "object":
        return _allowed_mapping(list(schema.get("properties", ())))
    if schema["type"] in {"integer", "number"}:
        return _allowed_number(schema, str(key[-1]))
    text = f"text like {schema['pattern']}" if "pattern" in schema else "text"
    return {"array": "a list", "string": text}[schema["type"]]


def _allowed_mapping(keys: Sequence[str]) -> str:
    if not keys:
        return "a mapping of names of your own"
    return f"a mapping with the key{'s' if len(keys) > 1 else ''} {', '.join(keys)}"


def _allowed_number(schema: Schema, name: str) -> str:
    unit = next((unit for suffix, unit in UNITS.items() if name.endswith(suffix)), None)
    noun = f"a number of {unit}" if unit else "a whole number" if schema["type"] == "integer" else "a number"
    return " ".join([noun, *(f"{sign} {schema[bound]}" for bound, sign in RANGES.items() if bound in schema)])


def _either(words: Iterable[object]) -> str:
    *most, last = map(str, words)
    return f"{', '.join(most)} or {last}" if most else last


def _shown(value: object) -> str:
    if isinstance(value, dict | list | tuple):
        return "a mapping" if isinstance(value, dict) else "a list"
    return repr(value) if isinstance(value, str) else json.dumps(value)
