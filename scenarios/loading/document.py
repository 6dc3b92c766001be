"""Scenario files as trees that know where every key came from: YAML, `extends` and overrides.

Two mappings merge key by key; where both have a key, the value of the extending one is taken. Lists are
replaced. A mapping that names another `codec`, `policy`, `pattern`, ... than the mapping it extends replaces
it whole, because the parameters of one codec mean nothing to another.
"""

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from broker.urls import masked_setting
from scenarios.errors import ScenarioError
from scenarios.loading.shipped import locate
from scenarios.schema.base import Key

TAGS = ("codec", "policy", "pattern", "distribution", "kind")
"""Keys whose value decides which other keys the mapping around them may have."""
MAX_DEPTH = 16
MAX_VALUES = 100_000
"""In one file. Aliases of aliases multiply, so that a file of a kilobyte can stand for billions of values."""
EACH = "*"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a key was written.

    Attributes:
        label: for messages, such as `my.yaml:12` or `--set training.cohort=5`.
        folder: what a path written there is relative to.
    """

    label: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Node:
    """A value and where its key was written.

    Attributes:
        value: a dict of Nodes by key, a list of Nodes, or a scalar.
        origin: where.
    """

    value: Any
    origin: Origin

    def plain(self) -> Any:
        """Give the value without origins."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def origin_of(self, key: Key) -> Origin:
        """Say where a key was written, or the nearest mapping around it when it was not."""
        node = self
        for part in key:
            try:
                node = node.value[part]
            except (LookupError, TypeError):
                break
        return node.origin


class _Loader(yaml.SafeLoader):
    """YAML's safe types; 1e-4 is a number, which YAML 1.1 takes for text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read(path: Path, extended_by: tuple[Path, ...] = ()) -> Node:
    """Read a scenario file and everything it extends.

    Args:
        path: the file.
        extended_by: the files that extend it, to notice a circle.

    Raises:
        ScenarioError: not readable, not YAML, a key twice, or `extends` something that cannot be had.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path}: cannot be read: {error}") from error
    node = parse(text, str(path), path.parent)
    if node.value is None:
        raise ScenarioError(f"{path}: is empty; must be a mapping of keys to values")
    if not isinstance(node.value, dict):
        raise ScenarioError(f"{path}: must be a mapping of keys to values")
    extends = node.value.pop("extends", None)
    if extends is None:
        return node
    return merge(_read_extended(extends, (*extended_by, path)), node)


def _read_extended(extends: Node, chain: tuple[Path, ...]) -> Node:
    where = f"{extends.origin.label}: extends"
    if not isinstance(extends.value, str):
        raise ScenarioError(f"{where}: must be the path of a file or the name of a shipped scenario")
    try:
        base = locate(extends.value, extends.origin.folder)
    except ScenarioError as error:
        raise ScenarioError(f"{where}: {error}") from error
    if base.resolve() in [path.resolve() for path in chain]:
        circle = " -> ".join(path.name for path in (*chain, base))
        raise ScenarioError(f"{where}: goes in a circle: {circle}")
    return read(base, chain)


def parse(text: str, source: str, folder: Path, *, numbered: bool = True) -> Node:
    """Parse YAML text.

    Args:
        text: the YAML.
        source: the file's name, or what else to call it in messages.
        folder: what paths in it are relative to.
        numbered: whether messages give the line as well.

    Raises:
        ScenarioError: not YAML, a key twice, a key that is no text, nested too deeply, too many values.
    """

    def origin(mark: yaml.Mark | None) -> Origin:
        return Origin(f"{source}:{mark.line + 1}" if mark and numbered else source, folder)

    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return Node(None, origin(None))
        return _build(loader, node, origin(node.start_mark), origin, itertools.count())
    except RecursionError as error:  # in PyYAML, before there is a tree
        raise ScenarioError(f"{source}: nested too deeply") from error
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", error)
        if "'\\t'" in str(problem):
            problem = "a tab; indent with spaces"
        raise ScenarioError(f"{origin(mark).label}: not YAML: {problem}") from error
    finally:
        loader.dispose()


def _build(
    loader: _Loader,
    node: yaml.Node,
    at: Origin,
    origin: Callable[[yaml.Mark], Origin],
    values: Iterator[int],
    depth: int = 0,
) -> Node:
    """Turn YAML's tree, written at `at`, into ours, which has a copy where YAML has an alias.

    `values` counts the values that are already made.
    """
    if depth > MAX_DEPTH:  # also ends an alias to a mapping around it
        raise ScenarioError(f"{at.label}: nested too deeply")
    if next(values) >= MAX_VALUES:
        raise ScenarioError(f"{at.label}: more than {MAX_VALUES:,} values, counting what aliases repeat")
    if isinstance(node, yaml.MappingNode):
        children: dict[str, Node] = {}
        for key, value in node.value:
            here = origin(key.start_mark)
            if not isinstance(key, yaml.ScalarNode):
                raise ScenarioError(f"{here.label}: a key must be text")
            if key.value in children:
                raise ScenarioError(f"{here.label}: the key '{key.value}' is there twice")
            children[key.value] = _build(loader, value, here, origin, values, depth + 1)
        return Node(children, at)
    if isinstance(node, yaml.SequenceNode):
        items = [
            _build(loader, item, origin(item.start_mark), origin, values, depth + 1) for item in node.value
        ]
        return Node(items, at)
    try:
        return Node(loader.construct_object(node), at)
    except ValueError as error:  # such as the date 2024-99-99
        raise ScenarioError(f"{at.label}: cannot read '{node.value}': {error}") from error


def merge(base: Node, overlay: Node) -> Node:
    """Lay one tree over another; see the module's text for the rule."""
    if not isinstance(base.value, dict) or not isinstance(overlay.value, dict):
        return overlay
    for tag in TAGS:
        named = overlay.value.get(tag)
        if named is not None and tag in base.value and base.value[tag].value != named.value:
            return replace(overlay, origin=named.origin)
    children = dict(base.value)
    for key, child in overlay.value.items():
        children[key] = merge(children[key], child) if key in children else child
    return Node(children, overlay.origin)


def override(root: Node, assignment: str) -> Node:
    """Lay one `a.b.c=value` over a tree; the value is YAML, numbers in the key count list items from 0.

    Raises:
        ScenarioError: no such form, or no such list item.
    """
    key, equals, text = assignment.partition("=")
    label = masked_setting(f"--set {assignment}")
    if not equals or not is_key_path(key):
        raise ScenarioError(f"{label}: must be like training.cohort=5")
    return put(root, key, parse(text, label, Path(), numbered=False))


def is_key_path(text: str) -> bool:
    """Tell whether a text has the form a.b.c of a key path."""
    return all(text.split("."))


def put(root: Node, key_path: str, new: Node) -> Node:
    """Lay a value at a key path such as fleet.0.count over a tree.

    Raises:
        ScenarioError: no such list item.
    """
    return _put(root, key_path.split("."), new)


def _put(node: Node | None, key: list[str], new: Node) -> Node:
    if not key:
        return merge(node, new) if node else new
    first, rest = key[0], key[1:]
    if node and isinstance(node.value, list):
        if not first.isdecimal() or int(first) >= len(node.value):
            known = f"items 0 to {len(node.value) - 1}"
            raise ScenarioError(f"{new.origin.label}: '{first}' is no item of the list; it has {known}")
        items = list(node.value)
        items[int(first)] = _put(items[int(first)], rest, new)
        return Node(items, node.origin)
    child = node.value.get(first) if node and isinstance(node.value, dict) else None
    patch = Node({first: _put(child, rest, new)}, node.origin if node else new.origin)
    return merge(node, patch) if node else patch


def absolute_paths(node: Node, keys: set[Key], is_path: Callable[[str], bool] = bool) -> Node:
    """Make the paths at some keys absolute, each relative to where it was written; `~` is the home.

    EACH in a key stands for every item of a list, and every key of a mapping. What is no path stays.
    """

    def absolute(path: Node, _: Key) -> Node:
        return replace(path, value=str(_resolved(path))) if is_path(path.value) else path

    return _replace_at(node, keys, absolute)


def include(node: Node, keys: set[Key]) -> Node:
    """Put a file's content in place of its path, at those of some keys that name a .yaml file.

    Raises:
        ScenarioError: a file that is not there or cannot be read.
    """
    return _replace_at(node, keys, _included)


def _included(path: Node, key: Key) -> Node:
    if not path.value.endswith(".yaml"):
        return path
    file = _resolved(path)
    if not file.is_file():
        raise ScenarioError(f"{path.origin.label}: {'.'.join(map(str, key))}: no such file: {file}")
    return read(file)


def _resolved(path: Node) -> Path:
    return (path.origin.folder / Path(path.value).expanduser()).resolve()


def _replace_at(node: Node, keys: set[Key], new: Callable[[Node, Key], Node], at: Key = ()) -> Node:
    """Replace the texts at some keys below `at`, as of absolute_paths."""
    if () in keys and isinstance(node.value, str):
        return new(node, at)
    if isinstance(node.value, list):
        of_each = {key[1:] for key in keys if key and key[0] == EACH}
        items = [_replace_at(child, of_each, new, (*at, i)) for i, child in enumerate(node.value)]
        return Node(items, node.origin)
    if not isinstance(node.value, dict):
        return node
    children = {
        name: _replace_at(
            child, {key[1:] for key in keys if key and key[0] in (name, EACH)}, new, (*at, name)
        )
        for name, child in node.value.items()
    }
    return Node(children, node.origin)
