"""Turns pydantic's errors about a scenario, or a similar file, into sentences that tell what to change.

What is allowed at a key is read from the schema, so that messages always agree with it.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from scenarios.errors import nearest
from scenarios.loading.explaining.hints import PATTERNS, meant_by_key, value_to_write
from scenarios.loading.explaining.json_schema import Schema, below, default_tag, member_for, tag_of
from scenarios.loading.explaining.units import number_to_write, words_of_unit
from scenarios.schema.base import Key

MOST_SHOWN = 100
"""Characters of a value in a message."""
RANGES = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def explain(
    error: ValidationError, data: object, schema: Schema, *, also: Sequence[str] = ()
) -> list[tuple[Key, str]]:
    """Say what is wrong, as pairs of key and sentence.

    Args:
        error: what validating `data` raised.
        data: the file, as plain mappings, lists and scalars.
        schema: of what it was to be, from json_schema.tree_of.
        also: keys that the file may have at its top and that are no part of the schema.
    """
    found = [
        _explain_one(details, data, schema, also)
        for details in error.errors(include_url=False)
        if not _is_consequence(details)
    ]
    meant = {key for mistake in found for key in mistake.meant}
    return [
        (mistake.key, mistake.text) for mistake in found if not (mistake.missing and mistake.key in meant)
    ]


class _Mistake(NamedTuple):
    """A mistake.

    Attributes:
        key: where.
        text: the sentence.
        missing: the key is not there.
        meant: the keys that somebody may have meant who wrote this one.
    """

    key: Key
    text: str
    missing: bool = False
    meant: tuple[Key, ...] = ()


def _is_consequence(details: ErrorDetails) -> bool:
    """Say whether an error follows from a mistake that has its own message.

    A list of which items are wrong is too short for pydantic, since it counts those that are right.
    """
    if details["type"] == "too_short":
        return bool(len(details["input"]) >= details["ctx"]["min_length"])
    return details["type"] == "default_factory_not_called"


def _explain_one(details: ErrorDetails, data: object, root: Schema, also: Sequence[str]) -> _Mistake:
    key = _without_tags(details["loc"], data, root, missing=details["type"] == "missing")
    match details["type"]:
        case "missing":
            text = f"required but missing; must be {allowed(_schema_at(key, data, root)[0], key)}"
            return _Mistake(key, text, missing=True)
        case "extra_forbidden" | "unexpected_keyword_argument":
            schema, around = _schema_at(key[:-1], data, root)
            return _explain_unknown(key, schema, around, root, also if len(key) == 1 else ())
        case "value_error":
            return _Mistake(key, _in_words_of(str(details["ctx"]["error"]), *_schema_at(key, data, root)))
        case "union_tag_invalid" | "union_tag_not_found":
            return _explain_tag(key, details["input"], _schema_at(key, data, root)[0])
        case _:
            schema, value = _schema_at(key, data, root)[0], details["input"]
            hint = value_to_write(str(key[-1]) if key else "", value, schema)
            return _Mistake(key, f"must be {allowed(schema, key)}, not {_shown(value)}{hint}")


def _in_words_of(text: str, schema: Schema, data: object) -> str:
    """Add the number to write to what a class of the schema says about one of its keys, named first."""
    word = text.partition(" ")[0]
    own = below(member_for(schema, data), word)
    return text + (number_to_write(word, data[word], own) if isinstance(data, dict) and word in data else "")


def _explain_unknown(key: Key, schema: Schema, data: object, root: Schema, also: Sequence[str]) -> _Mistake:
    """Explain a key that a mapping may not have, or not with the tag that it has by default."""
    word, known = str(key[-1]), member_for(schema, data).get("properties", {})
    value = data.get(word) if isinstance(data, dict) else None
    tag, default = tag_of(schema), default_tag(schema)
    others = [name for name, keys in _members(schema).items() if word in keys]
    of_bits = _of_bits(word, value, schema, data)
    meant, near = ((), "") if others or of_bits else meant_by_key(word, value, [*known, *also], root)
    near = f"{near}{' ' if near.endswith('?') else '; '}allowed: {', '.join((*known, *also))}"
    if tag and isinstance(data, dict) and default and tag not in data:
        text = f"unknown key of {tag} {default}, the default{near}; for another {tag} name it: "
        text += _either(others or list(schema["discriminator"]["mapping"]))
    else:
        with_other = f"; it goes with {tag} {_either(others)}" if others else ""
        text = f"unknown key{near}{with_other if of_bits is None else of_bits}"
    return _Mistake(key, text, meant=tuple((*key[:-1], each) for each in meant))


def _of_bits(word: str, value: object, schema: Schema, data: object) -> str | None:
    """Say which codec has the number of bits that somebody wrote beside another; None for any other key."""
    wanted = f"int{value}"
    if word not in {"bit", "bits"} or wanted not in _members(schema) or not isinstance(data, dict):
        return None
    return f"; for {value} bits write codec: {wanted}" if data.get("codec") != wanted else ""


def _members(schema: Schema) -> dict[str, Schema]:
    """Give the keys that go with each tag of a choice."""
    tag = tag_of(schema)
    return {each["properties"][tag]["const"]: each["properties"] for each in schema["oneOf"]} if tag else {}


def _explain_tag(key: Key, value: Any, schema: Schema) -> _Mistake:
    """Explain a mapping whose tag, such as its codec, is unknown or missing."""
    tag, known = schema["discriminator"]["propertyName"], list(schema["discriminator"]["mapping"])
    if tag not in value:
        return _Mistake((*key, tag), f"required but missing; must be {_either(known)}")
    word = value[tag]
    near = (
        nearest(f"{word}{value.get('bits', value.get('bit', ''))}", known) if isinstance(word, str) else None
    )
    hint = f"; did you mean '{near}'?" if near else ";"
    return _Mistake((*key, tag), f"unknown {tag} {_shown(word)}{hint} known: {', '.join(known)}")


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


def allowed(schema: Schema, key: Key) -> str:
    """Describe in words what a schema accepts."""
    if "discriminator" in schema:
        tag = schema["discriminator"]["propertyName"]
        return f"a mapping with a {tag} of {_either(schema['discriminator']['mapping'])}"
    if "oneOf" in schema:
        return " or ".join(allowed(member, key) for member in schema["oneOf"])
    if "const" in schema or "enum" in schema:
        return _either(schema.get("enum", [schema.get("const")]))
    if schema["type"] == "object":
        return _allowed_mapping(list(schema.get("properties", ())))
    if schema["type"] in {"integer", "number"}:
        return _allowed_number(schema, str(key[-1]))
    if schema["type"] == "boolean":
        return "true or false"
    if schema["type"] == "array":
        least, most = schema.get("minItems"), schema.get("maxItems")
        length = "" if least is None else f" of {least}" if least == most else f" of at least {least}"
        return f"a list{length}"
    pattern = schema.get("pattern")
    return PATTERNS.get(pattern, f"text like {pattern}") if pattern else "text"


def _allowed_mapping(keys: Sequence[str]) -> str:
    if not keys:
        return "a mapping of names of your own"
    return f"a mapping with the key{'s' if len(keys) > 1 else ''} {', '.join(keys)}"


def _allowed_number(schema: Schema, name: str) -> str:
    unit = words_of_unit(name)
    noun = "a whole number" if schema["type"] == "integer" else "a number"
    noun += f" of {unit}" if unit else ""
    bounds = " and ".join(f"{sign} {schema[bound]}" for bound, sign in RANGES.items() if bound in schema)
    return f"{noun} {bounds}".rstrip()


def _either(words: Iterable[object]) -> str:
    *most, last = map(str, words)
    return f"{', '.join(most)} or {last}" if most else last


def _shown(value: object) -> str:
    if isinstance(value, dict | list | tuple):
        noun = "mapping" if isinstance(value, dict) else "list"
        return f"a {noun}" if value else f"an empty {noun}"
    text = repr(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..., {len(text):,} characters"
