"""Numbers with units, as people write them: what a key's number is counted in, what 1Mbit comes to there."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, TypeGuard

Family = Literal["time", "rate", "bytes", "share", "count"]

_TIMES_S = {
    "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0,
    "h": 3600.0, "hr": 3600.0, "d": 86400.0, "nanosecond": 1e-9, "microsecond": 1e-6, "millisecond": 1e-3,
    "second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0,
}  # fmt: skip
_SHARES = {"%": 0.01, "percent": 0.01, "pct": 0.01}
_PREFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "ki": 2.0**10, "mi": 2.0**20, "gi": 2.0**30}
_SIZE = re.compile(
    r"(?P<prefix>[kmg]i?)?(?P<what>bits?|bytes?|b)?(?P<each>/s|/sec|/second|ps)?", re.IGNORECASE
)
_NUMBER = re.compile(
    r"\s*(?P<number>[-+]?(?:\d[\d_]*(?:[.,]\d*)*|[.,]\d+)(?:[eE][-+]?\d+)?)\s*(?P<unit>[^\d\s].*?)?\s*"
)
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?")
_KEYS: dict[str, Family] = {
    "ns": "time",
    "us": "time",
    "ms": "time",
    "s": "time",
    "kbps": "rate",
    "bytes": "bytes",
}
"""The family of a key's number, by the last part of the key."""
_WORDS = {
    "s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds", "kbps": "kbit/s",
    "bytes": "bytes",
}  # fmt: skip
_SHARE_KEYS = {"fraction", "keep", "randomness", "loss", "held_out"}
_HUNDRED = 100
MIN_NOUN = 3
"""Letters of a word that is no unit but what is counted."""


class _Unit(NamedTuple):
    """What a key's number is counted in; `one` is how much that is of the family's own unit."""

    family: Family
    one: float


def words_of_unit(key: str) -> str | None:
    """Say what a key's number is counted in, such as seconds for retry_s."""
    stem, _, ending = key.rpartition("_")
    return _WORDS.get(ending) if stem else None


def number_to_write(key: str, value: object, schema: Mapping[str, Any]) -> str:
    """Give the end of a sentence about a value that is no number of a key, or out of its range.

    It tells the number to write for a text with a unit, such as 1000 for 1Mbit at uplink_kbps, for one in
    quotes, for a whole number with a point, and for a share that was given in percent. Empty when there is
    none that the key takes.

    Args:
        key: the last part of the key's path.
        value: what was written.
        schema: of a number, or of a choice with one.
    """
    members = [schema, *schema.get("oneOf", ())]
    schema = next((member for member in members if member.get("type") in {"integer", "number"}), {})
    if not schema:
        return ""
    if _is_number(value):
        if (
            isinstance(value, float)
            and value.is_integer()
            and schema["type"] == "integer"
            and _fits(value, schema)
        ):
            return f"; write {value:.0f}"
        share = value / _HUNDRED
        if not _is_share(key, schema) or value < 1:
            return ""
        example = f"{share:g} for {value:g} %" if _fits(share, schema) else "0.05 for 5 %"
        return f"; it is a share: write {example}"
    own = _unit_of(key) or _Unit("share" if schema["type"] == "number" else "count", 1.0)
    found = _read(value, own)
    if found is None:
        return ""
    number, note = found
    note = "" if own.family == "count" and note != _QUOTES else note
    written = f"{number:.12g}" if schema["type"] == "number" else f"{number:.0f}"
    return f"; write {written}{note}" if _fits(number, schema) else ""


def key_in_other_unit(word: str, value: object, known: Iterable[str]) -> tuple[str, str]:
    """Give the known key that an unknown one is in another unit, and the end of a sentence about it.

    An example is uplink_mbps: 1, for which it says `uplink_kbps: 1000`. Both are empty when there is none.
    """
    for key in known:
        own = _unit_of(key) or _Unit("share", 1.0)
        stem = key.rpartition("_")[0] if own.family != "share" else key
        if word == stem and own.family != "share":
            found = None if _is_number(value) else _read(value, own)
            if found and found[1] != _QUOTES:
                return key, f"; write {key}: {found[0]:.12g}"
        if not stem or not word.lower().startswith(f"{stem}_"):
            continue
        unit = word[len(stem) + 1 :]
        factor = _factor(unit.replace("_", "/"), own.family)
        if factor is None:
            continue
        if _is_number(value):
            return key, f"; write {key}: {value * factor / own.one:.12g}"
        read = _read(value, own)
        return (
            key,
            f"; write {key}: {read[0]:.12g}" if read else f"; write {key}, times {factor / own.one:.12g}",
        )
    return "", ""


def _unit_of(key: str) -> _Unit | None:
    stem, _, ending = key.rpartition("_")
    family = _KEYS.get(ending) if stem else None
    return _Unit(family, _factor(ending, family) or 1.0) if family else None


def _factor(unit: str, family: Family) -> float | None:
    """Give how much one of a unit is in seconds, kbit/s, bytes or as a share; None for no such unit."""
    plain = unit.lower()
    if family == "time":
        return _TIMES_S.get(plain, _TIMES_S.get(plain.removesuffix("s")))
    if family == "share":
        return _SHARES.get(plain)
    if family == "count":  # 1k; or what is counted, such as 10 rounds
        return _PREFIXES.get(plain, 1.0 if unit.isalpha() and len(unit) > MIN_NOUN else None)
    found = _SIZE.fullmatch(unit)
    if found is None or not unit or (found["each"] and family == "bytes"):
        return None
    size, what = _PREFIXES[(found["prefix"] or "").lower()], found["what"] or ""
    if family == "bytes":
        return size / 8 if what.lower().startswith("bit") else size
    in_bytes = what == "B" or what.lower().startswith("byte")
    return size * (8 if in_bytes else 1) / 1000


_QUOTES = " without quotes"


def _read(value: object, own: _Unit) -> tuple[float, str] | None:
    """Read a text with a number; give it in the unit of its key, and what to add to a sentence about it."""
    found = _NUMBER.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return None
    text, unit = found["number"].replace("_", ""), found["unit"]
    plain = text.replace(",", "") if _THOUSANDS.fullmatch(text) else text.replace(",", ".")
    try:
        number = float(plain)
    except ValueError:  # such as 1.2.3
        return None
    if not unit:
        either = (
            f", or {float(text.replace(',', '.')):.12g} if the comma is a point" if _doubtful(text) else ""
        )
        return number, either or (_QUOTES if plain == text else "")
    factor = _factor(unit, own.family)
    if factor is None:
        return None
    return number * factor / own.one, " for minutes" if unit == "m" else ""


def _doubtful(text: str) -> bool:
    return text.count(",") == 1 and _THOUSANDS.fullmatch(text) is not None and "." not in text


def _fits(number: float, schema: Mapping[str, Any]) -> bool:
    return (
        number >= schema.get("minimum", number)
        and number > schema.get("exclusiveMinimum", number - 1)
        and number <= schema.get("maximum", number)
        and number < schema.get("exclusiveMaximum", number + 1)
        and (schema["type"] == "number" or number == round(number, 0))
    )


def _is_share(key: str, schema: Mapping[str, Any]) -> bool:
    said = key in _SHARE_KEYS or "share" in schema.get("description", "").lower()
    return schema["type"] == "number" and said


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
