"""What people write where the schema has something else: words of other tools, and values of another form."""

import re
from collections.abc import Iterable, Sequence

from scenarios.errors import nearest, same_word
from scenarios.loading.explaining.json_schema import Schema, paths_of, tag_of
from scenarios.loading.explaining.units import key_in_other_unit, number_to_write

PATTERNS = {r"^[A-Za-z0-9_-]{1,32}$": "text of 1 to 32 letters, digits, _ or -"}

KEYS_ELSEWHERE = {
    "lr": ("head_lr", "tail_lr"),
    "learning_rate": ("head_lr", "tail_lr"),
    "client_lr": ("head_lr",),
    "server_lr": ("tail_lr",),
    "epochs": ("rounds", "local_steps"),
    "num_rounds": ("rounds",),
    "local_epochs": ("local_steps",),
    "steps": ("local_steps", "rounds"),
    "eval_every": ("evaluate_every",),
    "clients": ("cohort", "count"),
    "num_clients": ("count",),
    "clients_per_round": ("cohort",),
    "min_clients": ("minimum",),
    "timeout": ("deadline_s",),
    "timeout_s": ("deadline_s",),
    "packet_loss": ("loss",),
    "bandwidth": ("uplink_kbps", "downlink_kbps"),
    "bandwidth_kbps": ("uplink_kbps", "downlink_kbps"),
    "rate_kbps": ("uplink_kbps", "downlink_kbps"),
    "upload_kbps": ("uplink_kbps",),
    "download_kbps": ("downlink_kbps",),
    "delay_ms": ("latency_ms",),
    "ping_ms": ("latency_ms",),
    "dataset": ("name",),
    "model": ("module",),
    "alpha": ("dirichlet_alpha", "quantity_skew"),
    "bs": ("batch_size",),
    "batch": ("batch_size",),
    "uplink": ("activations_up", "head_update_up"),
    "downlink": ("gradient_down", "head_state_down"),
    "host": ("url",),
    "port": ("url",),
    "random_seed": ("seed",),
    "clusters": ("centroids",),
    "k": ("fraction", "centroids"),
}
"""Keys that other tools have, and what they are called here."""


def meant_by_key(word: str, value: object, known: Sequence[str], root: Schema) -> tuple[tuple[str, ...], str]:
    """Say what somebody may have meant by an unknown key.

    Args:
        word: the key.
        value: what it has.
        known: the keys that are allowed where it stands.
        root: the schema of the whole file, to find the key elsewhere.

    Returns:
        Those of the known keys that it may stand for, and the end of a sentence; both may be empty.
    """
    key, text = key_in_other_unit(word, value, known)
    if key:
        return (key,), text
    here = tuple(each for each in KEYS_ELSEWHERE.get(word.lower(), ()) if each in known)
    if here:
        return here, _did_you_mean(here)
    same = same_word(word, known)
    if same:
        return (same,), _did_you_mean([same])
    there = [path for each in (*KEYS_ELSEWHERE.get(word.lower(), ()), word) for path in paths_of(each, root)]
    if there:
        at_top = ", at the top of the file" if there == [word] else ""
        return (), f"; did you mean {' or '.join(map(repr, there[:3]))}{at_top}?"
    near = nearest(word, known)
    return ((near,), _did_you_mean([near])) if near else ((), "")


def _did_you_mean(words: Iterable[str]) -> str:
    return f"; did you mean {' or '.join(map(repr, words))}?"


def value_to_write(key: str, value: object, schema: Schema) -> str:
    """Give the end of a sentence about a value of the wrong kind or form: what to write; may be empty."""
    return (
        _near_value(schema, value)
        or number_to_write(key, value, schema)
        or _as_mapping(schema, value)
        or _as_list(schema, value)
        or _of_yaml(schema, value)
    )


def _near_value(schema: Schema, value: object) -> str:
    members = [schema, *schema.get("oneOf", ())]
    words = [word for member in members for word in member.get("enum", [member.get("const")])]
    known = [word for word in words if isinstance(word, str)]
    near = nearest(value, known) if isinstance(value, str) and known else None
    return f"; did you mean '{near}'?" if near else ""


def _as_mapping(schema: Schema, value: object) -> str:
    """Say how to write a value as the mapping that is asked for: int8 as {codec: int8}."""
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return "; write its keys below it, without '- '" if _takes(schema, "object") else ""
    if not isinstance(value, str):
        return ""
    tag = tag_of(schema)
    if tag:
        near = nearest(value, schema["discriminator"]["mapping"])
        return f"; write {{{tag}: {near}}}" if near else ""
    for member in (schema, *schema.get("oneOf", ())):
        for name, own in member.get("properties", {}).items():
            near = nearest(value, own["enum"]) if "enum" in own else None
            if near:
                return f"; write {{{name}: {near}}}"
        if "://" in value and "url" in member.get("properties", {}):
            return "; write {kind: url, url: ...}"
        if nearest(value, member.get("properties", {})):
            return f"; write {{{nearest(value, member['properties'])}: ...}}"
        if "name" in member.get("properties", {}):
            return f"; write {{name: {value}}}"
    return ""


def _as_list(schema: Schema, value: object) -> str:
    if _takes(schema, "array") and isinstance(value, dict):
        return "; put it into a list, with '- ' before its first key"
    return ""


def _of_yaml(schema: Schema, value: object) -> str:
    """Say what YAML made of a text, or of a word for true and false."""
    if isinstance(value, bool) and _takes(schema, "string"):
        return "; YAML reads yes, no, on and off as true or false: put the text in quotes"
    may_hold_password = "@" in str(value) or "://" in str(value)
    plain = value is not None and not isinstance(value, dict | list) and not may_hold_password
    if schema.get("pattern") in PATTERNS and plain:
        text = re.sub(r"[^A-Za-z0-9_-]+", "-", str(value)).strip("-")[:32]
        quoted = "" if isinstance(value, str) else ", in quotes"
        return f"; write '{text}'{quoted}" if text else ""
    if _takes(schema, "boolean") and str(value).lower() in _TRUTH:
        return f"; write {_TRUTH[str(value).lower()]}"
    return ""


_TRUTH = {"1": "true", "0": "false", "yes": "true", "no": "false", "on": "true", "off": "false",
          "true": "true", "false": "false", "y": "true", "n": "false"}  # fmt: skip


def _takes(schema: Schema, kind: str) -> bool:
    return any(member.get("type") == kind for member in (schema, *schema.get("oneOf", ())))
