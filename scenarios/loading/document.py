"""Scenario files as trees that know where every key came from: YAML, `extends` and overrides.

Two mappings merge key by key; where both have a key, the value of the extending one is taken. Lists are
replaced. A mapping that names another `codec`, `policy`, `pattern`, ... than the mapping it extends replaces
it whole, because the parameters of one codec mean nothing to another.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from broker.urls import masked_setting
from scenarios.errors import ScenarioError, one_line
from scenarios.loading.shipped import locate
from scenarios.loading.yaml_tree import Node, parse
from scenarios.schema.base import Key
from scenarios.text_files import read_text

TAGS = ("codec", "policy", "pattern", "distribution", "kind")
"""Keys whose value decides which other keys the mapping around them may have."""
EACH = "*"
MAX_LABEL = 100
"""Characters of a setting that a message repeats."""


def read(path: Path, extended_by: tuple[Path, ...] = ()) -> Node:
    """Read a scenario file and everything it extends.

    Args:
        path: the file.
        extended_by: the files that extend it, to notice a circle.

    Raises:
        ScenarioError: not readable, not YAML, a key twice, or `extends` something that cannot be had.
    """
    node = parse(read_text(path), str(path), path.parent)
    if not isinstance(node.value, dict):
        kind = (
            "is empty" if node.value is None else "is a list" if isinstance(node.value, list) else "is text"
        )
        raise ScenarioError(f"{path}: {kind}; must be a mapping of keys to values")
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
    label = one_line(masked_setting(f"--set {assignment}"), MAX_LABEL)
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
            known = f"items 0 to {len(node.value) - 1}" if node.value else "no items"
            raise ScenarioError(f"{new.origin.label}: '{first}' is no item of the list; it has {known}")
        items = list(node.value)
        items[int(first)] = _put(items[int(first)], rest, new)
        return Node(items, node.origin)
    around = node if node and isinstance(node.value, dict) else None
    patch = Node({first: _put(around and around.value.get(first), rest, new)}, (around or new).origin)
    return merge(around, patch) if around else patch


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
