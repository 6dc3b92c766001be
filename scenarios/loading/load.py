"""Makes a checked Scenario from a file, and YAML from a Scenario."""

import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import ValidationError

from scenarios.errors import ScenarioError, one_line
from scenarios.loading import document
from scenarios.loading.checks import problems
from scenarios.loading.explaining.explain import explain
from scenarios.loading.explaining.json_schema import tree_of, with_default_tags
from scenarios.loading.shipped import locate
from scenarios.loading.yaml_tree import Node, parse
from scenarios.schema.base import Key, Part
from scenarios.schema.links import names_a_file
from scenarios.schema.scenario import Scenario
from scenarios.tasks.user_module import is_file

__all__ = ["ScenarioError", "dump_resolved", "load_scenario"]

P = TypeVar("P", bound=Part)

SWEEP = "sweep"
"""The key of what `fedlite sweep` varies. A single run ignores it."""

TRACES: set[Key] = {
    ("fleet", document.EACH, "link", "trace"),
    ("network", "server", "link", "trace"),
    ("network", "access_points", document.EACH, "trace"),
}
PROFILES: set[Key] = {("fleet", document.EACH, "device"), ("network", "server")}
"""Keys whose value may be the path of a file that `fedlite calibrate` wrote. Its content is put there."""


def load_scenario(name_or_path: str | Path, overrides: Sequence[str] = (), *, data: str = "") -> Scenario:
    """Load a scenario.

    Args:
        name_or_path: a shipped scenario's name, or the path of a YAML file.
        overrides: such as "training.cohort=5"; they change the file, in this order.
        data: see lay_over.

    Raises:
        ScenarioError: everything that is wrong, one line for each mistake: where, which key, what is allowed.
    """
    root, _ = read_tree(name_or_path, overrides, data=data)
    return check(root)


def plain_scenario(task: str, clients: int, overrides: Sequence[str] = ()) -> Scenario:
    """Make the plainest scenario with a task: equal random shares, nothing compressed, one round.

    Args:
        task: its name.
        clients: how many.
        overrides: as of load_scenario.

    Raises:
        ScenarioError: as of load_scenario.
    """
    text = (
        f"{{name: plain, task: {{name: {task}, partition: iid}}, "
        f"training: {{rounds: 1, cohort: 1, head_lr: 0.1}}, fleet: [{{count: {clients}}}]}}"
    )
    return check(lay_over(parse(text, task, Path(), numbered=False), overrides))


def read_tree(
    name_or_path: str | Path, overrides: Sequence[str] = (), *, data: str = ""
) -> tuple[Node, Node | None]:
    """Read a scenario without checking it; give its tree, and separately what it sweeps, if anything.

    Raises:
        ScenarioError: a file or an override that cannot be read.
    """
    root = lay_over(document.read(locate(str(name_or_path), Path())), overrides, data=data)
    return root, root.value.pop(SWEEP, None)


def lay_over(root: Node, overrides: Sequence[str], *, data: str = "") -> Node:
    """Lay settings over a tree, and before them where a device has its data.

    Args:
        root: the tree.
        overrides: such as "training.cohort=5".
        data: a path, as a device's bundle names it; empty: none. With `partition: local` it is task.data, of
            other runs task.path.

    Raises:
        ScenarioError: a setting that cannot be read.
    """
    changed = functools.reduce(document.override, overrides, root)
    if not data:
        return changed
    task = changed.plain().get("task")
    key = "data" if isinstance(task, dict) and task.get("partition") == "local" else "path"
    return functools.reduce(document.override, [f"task.{key}={json.dumps(data)}", *overrides], root)


def check(root: Node, *, with_files: bool = True) -> Scenario:
    """Make a scenario from a tree.

    Args:
        root: the tree.
        with_files: read the files of PROFILES that it names.

    Raises:
        ScenarioError: everything that is wrong with it, as of load_scenario.
    """
    root = _with_absolute_paths(root)
    if with_files:
        root = document.include(root, PROFILES)
    root = document.absolute_paths(root, TRACES, names_a_file)
    scenario = typed(root, Scenario, also=("extends", SWEEP))
    refuse(root, problems(scenario))
    return scenario


def typed(root: Node, model: type[P], *, also: Sequence[str] = ()) -> P:
    """Make a typed mapping, such as a Scenario, from a tree.

    Args:
        root: the tree.
        model: of the mapping.
        also: keys at the top of the file that are read elsewhere, for messages.

    Raises:
        ScenarioError: keys or values that the type does not allow, one line for each mistake.
    """
    data, schema = root.plain(), tree_of(model)
    complete = with_default_tags(data, schema)
    try:
        # from JSON: there pydantic is strict about numbers, and still makes codecs and paths
        return model.model_validate_json(json.dumps(complete, default=str), strict=True)
    except ValidationError as error:
        raise ScenarioError(_lines(root, explain(error, data, schema, also=also))) from error


def refuse(root: Node, found: Sequence[tuple[Key, str]]) -> None:
    """Raise ScenarioError if anything is wrong with a tree, with the line of each key."""
    if found:
        raise ScenarioError(_lines(root, found))


def dump_resolved(scenario: Scenario) -> str:
    """Write a scenario as YAML, defaults included, that loads again as an equal one."""
    data = scenario.model_dump(mode="json", by_alias=True, exclude_none=True)
    return yaml.safe_dump(data, sort_keys=False)


def _with_absolute_paths(root: Node) -> Node:
    keys: set[Key] = {("task", "path"), ("task", "data"), ("broker", "ca_file"), ("broker", "password_file")}
    keys |= {("fleet", document.EACH, part, "file") for part in ("slowdown", "availability")}
    task = root.plain().get("task")
    module = task.get("module") if isinstance(task, dict) else None
    if isinstance(module, str) and is_file(module):
        keys.add(("task", "module"))
    return document.absolute_paths(root, keys)


def _lines(root: Node, found: Iterable[tuple[Key, str]]) -> str:
    return "\n".join(
        one_line(f"{root.origin_of(key).label}: {'.'.join(map(str, key))}: {text}") for key, text in found
    )
