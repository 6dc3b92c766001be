"""What kind of client each of a fleet is, as its scenario says: `raspberry-pi-4, 3g`."""

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from scenarios.schema.network import FleetGroup, names_of

_FLEET = TypeAdapter(tuple[FleetGroup, ...])


def groups_of(scenario: Mapping[str, Any]) -> dict[str, str]:
    """Name the group of each client of a scenario's fleet; empty if the fleet cannot be understood."""
    try:
        fleet = _FLEET.validate_python(scenario.get("fleet"))
    except ValidationError:  # of another version, or by another hand
        return {}
    kinds = [group.kind.replace("raspberry-pi", "pi") for group in fleet for _ in range(group.size)]
    return dict(zip(names_of(fleet), kinds, strict=True))
