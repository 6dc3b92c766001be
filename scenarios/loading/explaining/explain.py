"""Turns pydantic's errors about a scenario, or a similar file, into sentences that tell what to change.

What is allowed at a key is read from the schema, so that messages always agree with it.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from scenarios.errors import nearest, suggestion
from scenarios.loading.explaining.hints import (
    PATTERNS,
    key_in_other_unit,
    key_of_other_tool,
    number_to_write,
    words_of_unit,
)
from scenarios.loading.explaining.json_schema import Schema, below, default_tag, member_for, tag_of
from scenarios.schema.base import Key

RANGES = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def explain(error: ValidationError, data: object, schema: Schema) -> list[tuple[Key, str]]:
    """Say what is wrong, as pairs of key and sentence.

    Args:
        error: what validating `data` raised.
        data: the file, as plain mappings, lists and scalars.
        schema: of what it was to be, from json_schema.tree_of.
    """
    return [
        _explain_one(details, data, schema)
        for details in error.errors(include_url=False)
        if not _is_consequence(details)
    ]


def _is_consequence(details: ErrorDetails) -> bool:
    """Say whether an error follows from a mistake that has its own message.

    A list of which items are wrong is too short for pydantic, since it counts those that are right.
    """
    if details["type"] == "too_short":
        return bool(len(details["input"]) >= details["ctx"]["min_length"])
    return details["type"] == "default_factory_not_called"


def _explain_one(details: ErrorDetails, data: object, root: Schema) -> tuple[Key, str]:
    key = _without_tags(details["loc"], data, root, missing=details["type"] == "missing")
    match details["type"]:
        case "missing":
            return key, f"required but missing; must be {_allowed(_schema_at(key, data, root)[0], key)}"
        case "extra_forbidden" | "unexpected_keyword_argument":
            return key, _explain_unknown(str(key[-1]), *_schema_at(key[:-1], data, root))
        case "value_error":
            return key, str(details["ctx"]["error"])
        case "union_tag_invalid" | "union_tag_not_found":
            return _explain_tag(key, details["input"], _schema_at(key, data, root)[0])
        case _:
            schema, value = _schema_at(key, data, root)[0], details["input"]
            hint = _nearest_value(schema, value) or number_to_write(str(key[-1]) if key else "", value)
            return key, f"must be {_allowed(schema, key)}, not {_shown(value)}{hint}"


def _explain_unknown(word: str, schema: Schema, data: object) -> str:
    """Explain a key that a mapping may not have, or not with the tag that it has by default."""
    known = member_for(schema, data).get("properties", {})
    value = data.get(word) if isinstance(data, dict) else None
    hint = key_in_other_unit(word, value, known) or key_of_other_tool(word, known)
    near = f"{hint}{' ' if hint.endswith('?') else '; '}allowed: {', '.join(known)}" if hint else None
    near = near or suggestion(word, known, label="allowed")
    tag, default = tag_of(schema), default_tag(schema)
    if default is None or not isinstance(data, dict) or tag in data:
        return f"unknown key{near}{_elsewhere(word, data, schema)}"
    others = _either(schema["discriminator"]["mapping"])
    return f"unknown key of {tag} {default}, the default{near}; for another {tag} name it: {others}"


def _elsewhere(word: str, data: object, schema: Schema) -> str:
    """Say with which other tag a mapping may have a key; for bits of a codec, which codec has that many."""
    tag = tag_of(schema)
    if tag is None or not isinstance(data, dict):
        return ""
    members = {member["properties"][tag]["const"]: member["properties"] for member in schema["oneOf"]}
    wanted = f"int{data.get(word)}"
    if word in {"bit", "bits"} and wanted in members:
        return f"; for {data[word]} bits write {tag}: {wanted}" if data.get(tag) != wanted else ""
    others = [name for name, properties in members.items() if word in properties]
    return f"; it goes with {tag} {_either(others)}" if others else ""


def _nearest_value(schema: Schema, value: object) -> str:
    """Give the end of a sentence about a text that is near to one of the words that are allowed."""
    tag = tag_of(schema)
    if tag and isinstance(value, str) and value in schema["discriminator"]["mapping"]:
        return f"; write {{{tag}: {value}}}"
    members = [schema, *schema.get("oneOf", ())]
    words = [word for member in members for word in member.get("enum", [member.get("const")])]
    near = (
        nearest(value, [word for word in words if isinstance(word, str)]) if isinstance(value, str) else None
    )
    return f"; did you mean '{near}'?" if near else ""


def _explain_tag(key: Key, value: Any, schema: Schema) -> tuple[Key, str]:
    """Explain a mapping whose tag, such as its codec, is unknown or missing."""
    tag, known = schema["discriminator"]["propertyName"], list(schema["discriminator"]["mapping"])
    if tag not in value:
        return (*key, tag), f"required but missing; must be {_either(known)}"
    word = str(value[tag])
    return (*key, tag), f"unknown {tag} '{word}'{suggestion(word, known, label='known')}"


def _without_tags(location: tuple[int | str, ...], data: object, schema: Schema, *, missing: bool) -> Key:
    """Drop the names of union members that pydantic mixes into a location.

    A key may have the name of a member, as in `policy: deadline, deadline: 4`; so the first part after a
    choice is always dropped.
    """
    key: list[int | str] = []
    in_choice = "oneOf" in schema
    for part in location:
        if in_choice:
            in_choice, schema = False, member_for(schema, data)
        elif (isinstance(data, dict) and part in data) or (isinstance(data, list) and isinstance(part, int)):
            data = data[part]  # type: ignore[index]
            key.append(part)
            schema = below(schema, part)
            in_choice = "oneOf" in schema
    return (*key, location[-1]) if missing else tuple(key)


def _schema_at(key: Sequence[Any], data: Any, schema: Schema) -> tuple[Schema, object]:
    """Give the schema of a key and what the data have there, going into the members that the data take."""
    for part in key:
        schema = below(member_for(schema, data), part)
        data = data[part] if isinstance(data, list) else data.get(part) if isinstance(data, dict) else None
    return schema, data


def _allowed(schema: Schema, key: Key) -> str:
    """Describe in words what a schema accepts."""
    if "discriminator" in schema:
        tag = schema["discriminator"]["propertyName"]
        return f"a mapping with a {tag} of {_either(schema['discriminator']['mapping'])}"
    if "oneOf" in schema:
        return " or ".join(_allowed(member, key) for member in schema["oneOf"])
    if "const" in schema or "enum" in schema:
        return _either(schema.get("enum", [schema.get("const")]))
    if schema["type"] == "object":
        return _allowed_mapping(list(schema.get("properties", ())))
    if schema["type"] in {"integer", "number"}:
        return _allowed_number(schema, str(key[-1]))
    if schema["type"] == "array":
        least, most = schema.get("minItems"), schema.get("maxItems")
        return (
            "a list"
            if least is None
            else f"a list of {least}"
            if least == most
            else f"a list of at least {least}"
        )
    pattern = schema.get("pattern")
    return PATTERNS.get(pattern, f"text like {pattern}") if pattern else "text"


def _allowed_mapping(keys: Sequence[str]) -> str:
    if not keys:
        return "a mapping of names of your own"
    return f"a mapping with the key{'s' if len(keys) > 1 else ''} {', '.join(keys)}"


def _allowed_number(schema: Schema, name: str) -> str:
    unit = words_of_unit(name)
    noun = f"a number of {unit}" if unit else "a whole number" if schema["type"] == "integer" else "a number"
    bounds = " and ".join(f"{sign} {schema[bound]}" for bound, sign in RANGES.items() if bound in schema)
    return f"{noun} {bounds}".rstrip()


def _either(words: Iterable[object]) -> str:
    *most, last = map(str, words)
    return f"{', '.join(most)} or {last}" if most else last


def _shown(value: object) -> str:
    if isinstance(value, dict | list | tuple):
        noun = "mapping" if isinstance(value, dict) else "list"
        return f"a {noun}" if value else f"an empty {noun}"
    return repr(value) if isinstance(value, str) else json.dumps(value)
