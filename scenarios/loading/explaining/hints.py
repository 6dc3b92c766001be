"""What people write, and what the schema has for it: units, and words of other tools."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeGuard

TIMES_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0}
RATES_KBPS = {
    "bps": 1e-3, "bit": 1e-3, "bit/s": 1e-3, "kbps": 1.0, "kbit": 1.0, "kbit/s": 1.0, "mbps": 1e3,
    "mbit": 1e3, "mbit/s": 1e3, "gbps": 1e6, "gbit": 1e6, "gbit/s": 1e6,
}  # fmt: skip
SHARES = {"%": 0.01, "percent": 0.01}

WORDS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds", "kbps": "kbit/s"}
"""What a number is counted in, by the last part of its key."""

SHARE_KEYS = {"held_out", "loss"}
PERCENT = range(1, 100)

PATTERNS = {r"^[A-Za-z0-9_-]{1,32}$": "text of 1 to 32 letters, digits, _ or -"}

ELSEWHERE = {
    "lr": ("head_lr", "tail_lr"),
    "learning_rate": ("head_lr", "tail_lr"),
    "epochs": ("rounds", "local_steps"),
    "local_epochs": ("local_steps",),
    "clients": ("cohort", "count"),
    "clients_per_round": ("cohort",),
    "packet_loss": ("loss",),
    "dataset": ("name",),
    "alpha": ("dirichlet_alpha", "quantity_skew"),
}
"""Keys that other tools have, and what they are called here."""

RATES = {"lr", "learning_rate"}


class _Unit(NamedTuple):
    units: Mapping[str, float]
    one: float


def _unit_of(key: str) -> _Unit | None:
    """Give the units that a key's number may be told in, and which of them is its own."""
    if key in SHARE_KEYS:
        return _Unit(SHARES, 1.0)
    ending = key.rpartition("_")[2].lower()
    units = next((units for units in (TIMES_S, RATES_KBPS) if "_" in key and ending in units), None)
    return _Unit(units, units[ending]) if units else None


def words_of_unit(key: str) -> str | None:
    """Say what a key's number is counted in, such as seconds for retry_s."""
    return WORDS.get(key.rpartition("_")[2]) if "_" in key else None


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def number_to_write(key: str, value: object) -> str:
    """Give the end of a sentence about a value that is no number of a key, or out of its range.

    It tells the number to write for a text with a unit, such as 1000 for 1Mbit at uplink_kbps, or for one in
    quotes; and for a share that was given in percent. Empty when there is none.
    """
    if key in SHARE_KEYS and _is_number(value) and value in PERCENT:
        return f"; it is a share: write {value / 100:g} for {value:g} %"
    found = (
        re.fullmatch(r"\s*(\d+(?:[.,]\d+)?)\s*([^\d\s].*?)?\s*", value) if isinstance(value, str) else None
    )
    if found is None:
        return ""
    number, unit, own = float(found[1].replace(",", ".")), (found[2] or "").lower(), _unit_of(key)
    if not unit:
        return f"; write {number:.12g} without quotes" if "," not in found[1] else f"; write {number:.12g}"
    if own is None or unit not in own.units:
        return ""
    return f"; write {number * own.units[unit] / own.one:.12g}"


def key_in_other_unit(word: str, value: object, known: Iterable[str]) -> str:
    """Give the end of a sentence about an unknown key that is a known one in another unit.

    An example is uplink_mbps: 1, for which it says `uplink_kbps: 1000`. Empty when there is none.
    """
    own = _unit_of(word)
    stem = word.rpartition("_")[0]
    for key in known:
        other = _unit_of(key)
        if own is None or other is None or other.units is not own.units or key.rpartition("_")[0] != stem:
            continue
        factor = own.one / other.one
        if _is_number(value):
            return f"; write {key}: {value * factor:.12g}"
        return f"; write {key}, times {factor:.12g}"
    return ""


def key_of_other_tool(word: str, known: Iterable[str]) -> str:
    """Give the end of a sentence about an unknown key that other tools have; empty for none."""
    here = [key for key in ELSEWHERE.get(word, ()) if key in set(known)]
    if not here and word in RATES:
        return "; the rates are training.head_lr and training.tail_lr"
    return f"; did you mean {' or '.join(map(repr, here))}?" if here else ""
