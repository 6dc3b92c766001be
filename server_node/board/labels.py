"""The scenario's words for devices and links, short enough for a table."""

from pathlib import PurePath

from scenarios.schema.network import FleetGroup, names_of
from scenarios.schema.scenario import Scenario


def labels_of(scenario: Scenario) -> dict[str, tuple[str, str]]:
    """Give of each client the words for device and link; empty where the scenario says nothing of them."""
    words = [_words(group) for group in scenario.fleet for _ in range(group.size)]
    return dict(zip(names_of(scenario.fleet), words, strict=True))


def _words(group: FleetGroup) -> tuple[str, str]:
    device, link = group.device, group.link
    return (
        ("" if device == "instant" else PurePath(device).stem) if isinstance(device, str) else "own",
        ("" if link == "none" else link) if isinstance(link, str) else "own",
    )
