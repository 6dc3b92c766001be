"""What a round comes to as named numbers, and a scenario as flat settings, the same for every tracker."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from server_node.trackers.events import Event

WIRE = "_wire_bytes"
"""How the columns end that count the bytes of a flow; which flows there are depends on the method."""

Setting = str | int | float | bool


def numbers_of(event: Event, *, metric: str, seconds: str) -> dict[str, float]:
    """Give a round's numbers by their names in a tracker; bytes and messages are totals since the run began.

    Args:
        event: a `round`.
        metric: what the task's metric is called.
        seconds: "virtual" or "wall".
    """
    wire = {key.removesuffix(WIRE): count for key, count in event.items() if key.endswith(WIRE)}
    found = {
        f"metric/{metric}": event["metric"],
        "loss": event["loss"],
        **{f"bytes/{name}": count for name, count in wire.items()},
        "bytes/up": sum(count for name, count in wire.items() if name.endswith("_up")),
        "bytes/down": sum(count for name, count in wire.items() if name.endswith("_down")),
        "bytes/links_up": event.get("links_up_bytes"),
        "bytes/links_down": event.get("links_down_bytes"),
        f"seconds/{seconds}": event["elapsed_s"],
        "clients/members": event["clients"],
        "clients/online": event["online"],
        "messages/rejected": event["rejected"],
        "messages/discarded_late": event["discarded_late"],
        "quantization_error": event["quantization_error"],
    }
    return {name: float(value) for name, value in found.items() if value is not None}


def flat(settings: Mapping[str, Any], at: str = "") -> dict[str, Setting]:
    """Give settings by dotted key, as `--set` writes them; a list of plain values is one setting."""
    return dict(_leaves(settings, at))


def _leaves(value: Any, at: str) -> Iterator[tuple[str, Setting]]:
    match value:
        case Mapping():
            for key, inner in value.items():
                yield from _leaves(inner, f"{at}.{key}" if at else str(key))
        case list() if any(isinstance(inner, dict | list) for inner in value):
            for number, inner in enumerate(value):
                yield from _leaves(inner, f"{at}.{number}")
        case str() | int() | float() | bool():
            yield at, value
        case _:
            yield at, json.dumps(value)
