"""Makes the grid of a scenario's key `sweep`: every value with every value of the other keys.

An example: sweep: {training.correction.lambda: [0, 1.0e-5], fleet.0.link.uplink_kbps: [64, 256]}
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker.urls import masked, masked_setting
from scenarios.errors import ScenarioError
from scenarios.loading import document
from scenarios.loading.load import SWEEP, check, dump_resolved, read_tree
from scenarios.loading.yaml_tree import Node, parse
from scenarios.schema.scenario import Scenario

SEED = "seed"
"""Key of a scenario; runs that differ in nothing else are replicates."""


@dataclass(frozen=True, slots=True)
class GridPoint:
    """One scenario of a grid.

    Attributes:
        values: the value of each swept key, by key path, as written.
        scenario: complete, and without the grid.
    """

    values: dict[str, Any]
    scenario: Scenario

    @property
    def title(self) -> str:
        """Say which point it is, as the beginning of a sentence about it."""
        return "at " + ", ".join(f"{key}={value}" for key, value in self.values.items())


def load_grid(
    name_or_path: str | Path,
    overrides: Sequence[str] = (),
    grid: Sequence[str] = (),
    seeds: int | None = None,
) -> list[GridPoint]:
    """Load all points of a scenario's grid; the last key varies fastest.

    Args:
        name_or_path: a shipped scenario's name, or the path of a YAML file.
        overrides: such as "training.cohort=5"; they change the file before the grid does.
        grid: such as "training.cohort=5,10"; adds a key to the file's grid, or replaces the values of one.
        seeds: so many seeds for each point, from the scenario's on, in place of what the grid says of seeds.

    Raises:
        ScenarioError: everything that is wrong with any point, one line for each mistake; nothing to sweep;
            the same point twice.
    """
    root, swept = read_tree(name_or_path, overrides)
    axes = _axes(swept) if swept else {}
    for assignment in grid:
        axes |= _axis(assignment)
    if seeds:
        axes.pop(SEED, None)
        axes |= _seeds(root, seeds)
    if not axes:
        raise ScenarioError(
            f"{name_or_path}: sweeps nothing; give it a key sweep, --grid training.cohort=5,10 or --seeds 5"
        )
    points, mistakes = [], []
    for nodes in itertools.product(*axes.values()):
        try:
            points.append(_point(root, dict(zip(axes, nodes, strict=True))))
        except ScenarioError as error:
            mistakes += str(error).splitlines()
    if mistakes:
        raise ScenarioError("\n".join(dict.fromkeys(mistakes)))
    _refuse_twins(points)
    return points


def _point(root: Node, nodes: dict[str, Node]) -> GridPoint:
    for key_path, node in nodes.items():
        root = document.put(root, key_path, node)
    values = {key_path: _shown(key_path, node) for key_path, node in nodes.items()}
    return GridPoint(values, check(root))


def _shown(key_path: str, node: Node) -> Any:
    """Give a value as it may stand in results: of the broker's keys without a password."""
    return masked(str(node.plain())) if key_path.split(".", maxsplit=1)[0] == "broker" else node.plain()


def _axes(swept: Node) -> dict[str, list[Node]]:
    """Give the values of each key path in a scenario's key `sweep`."""
    if not isinstance(swept.value, dict):
        raise ScenarioError(
            f"{swept.origin.label}: {SWEEP}: must be a mapping of key paths to lists of values"
        )
    for key_path, values in swept.value.items():
        where = f"{values.origin.label}: {SWEEP}.{key_path}"
        if not document.is_key_path(key_path):
            raise ScenarioError(f"{where}: must be a key path like training.cohort")
        if not isinstance(values.value, list) or not values.value:
            raise ScenarioError(f"{where}: must be a list of at least one value")
    return {key_path: values.value for key_path, values in swept.value.items()}


def _axis(assignment: str) -> dict[str, list[Node]]:
    """Give the values in a text like training.cohort=5,10."""
    key_path, equals, text = assignment.partition("=")
    label = masked_setting(f"--grid {assignment}")
    if not equals or not text or not document.is_key_path(key_path):
        raise ScenarioError(f"{label}: must be like training.cohort=5,10")
    return {key_path: parse(f"[{text}]", label, Path(), numbered=False).value}


def _seeds(root: Node, count: int) -> dict[str, list[Node]]:
    """Give an axis of the scenario's seed and the next ones."""
    written = root.value.get(SEED)
    first = written.value if written is not None and isinstance(written.value, int) else 0
    return _axis(f"{SEED}={','.join(str(first + number) for number in range(count))}")


def _refuse_twins(points: list[GridPoint]) -> None:
    seen: dict[str, dict[str, Any]] = {}
    for point in points:
        twin = seen.setdefault(dump_resolved(point.scenario), point.values)
        if twin is not point.values:
            raise ScenarioError(f"{SWEEP}: {twin} and {point.values} are the same scenario")
