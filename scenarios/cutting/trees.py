"""Tensors within what a layer gives: a tensor, or tuples, lists and mappings of them."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

Path = tuple[int | str, ...]
"""Where a tensor is in it: places in tuples and lists, keys of mappings; () is the whole."""


def tensors(value: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Give every tensor, and where it is."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from tensors(item, (*path, key))
    elif isinstance(value, tuple | list):
        for place, item in enumerate(value):
            yield from tensors(item, (*path, place))


def mapped(value: Any, act: Callable[[Path, Tensor], Any], path: Path = ()) -> Any:
    """Put something in the place of each tensor; all else stays."""
    if isinstance(value, Tensor):
        return act(path, value)
    if isinstance(value, dict):
        items = {key: mapped(item, act, (*path, key)) for key, item in value.items()}
        return items if type(value) is dict else type(value)(**items)
    if isinstance(value, tuple | list):
        parts = [mapped(item, act, (*path, place)) for place, item in enumerate(value)]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def at(value: Any, path: Path) -> Any:
    """Give what is at a place."""
    for key in path:
        value = value[key]
    return value
