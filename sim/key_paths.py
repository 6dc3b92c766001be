"""Trees of mappings and lists as flat mappings by key path."""

from collections.abc import Mapping
from typing import Any


def flat(tree: object, path: str = "") -> dict[str, Any]:
    """Name the leaves of nested mappings and lists by their key paths, such as `fleet.0.count`."""
    if isinstance(tree, Mapping):
        pairs = [(str(key), value) for key, value in tree.items()]
    elif isinstance(tree, list):
        pairs = [(str(index), value) for index, value in enumerate(tree)]
    else:
        return {path: tree}
    leaves: dict[str, Any] = {}
    for key, value in pairs:
        leaves |= flat(value, f"{path}.{key}" if path else key)
    return leaves


def value_at(tree: object, path: str) -> Any:
    """Give what stands at a key path of nested mappings and lists; None if nothing does."""
    for key in path.split("."):
        if isinstance(tree, list):
            tree = tree[int(key)] if key.isdigit() and int(key) < len(tree) else None
        else:
            tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree
