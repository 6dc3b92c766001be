"""Settings in words: `deadline, 2 s, minimum 6` for {policy: deadline, deadline_s: 2, minimum: 6}."""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress

_NAMED = ("policy", "codec", "rule", "pattern", "distribution", "name")
"""Keys whose value says what a mapping is, so that the key need not be said."""

_UNITS = {"_s": " s", "_ms": " ms", "_us": " us", "_kbps": " kbit/s"}


def in_words(value: object) -> str:
    """Write a value of a scenario's key, or the JSON text of one that stands in a table."""
    value = parsed(value)
    if isinstance(value, Mapping):
        named = str(next(iter(value.values()), ""))
        return ", ".join(_pair(str(key), inner, named) for key, inner in value.items()) or "default"
    if isinstance(value, list):
        return "; ".join(map(in_words, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.12g}"
    return "not given" if value is None else str(value)


def compact(value: object) -> str:
    """Write a value for a narrow table or a file's name: of a mapping what is in it, such as pq-1152-1-2."""
    value = parsed(value)
    if isinstance(value, Mapping):
        return "-".join(map(compact, value.values()))
    if isinstance(value, list):
        return "-".join(map(compact, value))
    return value if isinstance(value, str) else json.dumps(value, default=str)


def parsed(value: object) -> object:
    """Read the JSON text of a mapping or list; a table's columns have no such type."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        with suppress(ValueError):
            return json.loads(value)
    return value


def _pair(key: str, value: object, named: str) -> str:
    if key in _NAMED:
        return in_words(value)
    if isinstance(value, Mapping | list):
        return f"{key} ({in_words(value)})"
    name, unit = with_unit(key)
    own = (
        "" if name == named else f"{name.replace('_', ' ')} "
    )  # deadline, 2 s rather than deadline, deadline 2 s
    return f"{own}{in_words(value)}{unit}"


def with_unit(key_path: str) -> tuple[str, str]:
    """Split the last part of a key path into its name and, with a space before it, its unit."""
    name = key_path.rpartition(".")[2]
    for end, unit in _UNITS.items():
        if name.endswith(end):
            return name.removesuffix(end), unit
    return name, ""


def short_keys(key_paths: Iterable[str]) -> dict[str, str]:
    """Shorten key paths to their last part where that says which one is meant."""
    paths = list(key_paths)
    last = [path.rpartition(".")[2] for path in paths]
    return {path: path if last.count(short) > 1 else short for path, short in zip(paths, last, strict=True)}


def key_in_words(key_path: str, key_paths: Iterable[str]) -> str:
    """Name a key among others, with its unit: `uplink (kbit/s)`."""
    short = short_keys([*key_paths, key_path] if key_path not in (paths := list(key_paths)) else paths)
    name, unit = with_unit(short[key_path])
    whole = short[key_path].rpartition(".")[0]
    return f"{whole + '.' if whole else ''}{name}{f' ({unit.strip()})' if unit else ''}".replace("_", " ")


def keys_in_words(keys: Mapping[str, object]) -> str:
    """Write the keys of a setting and their values in one line."""
    short = short_keys(keys)
    alone = sum(isinstance(parsed(value), Mapping) for value in keys.values()) == 1
    return ", ".join(_labelled(short[key], value, named=not alone) for key, value in keys.items())


def _labelled(key: str, value: object, *, named: bool) -> str:
    """Write a key and its value; a mapping says itself what it is, unless there are several."""
    words = in_words(value)
    if isinstance(parsed(value), Mapping) and not named:
        return words
    name, unit = with_unit(key)
    whole = key.rpartition(".")[0]
    return f"{whole + '.' if whole else ''}{name} {words}{unit}".replace("_", " ")
