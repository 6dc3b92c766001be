"""YAML text as a tree that knows where every key came from."""

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scenarios.errors import ScenarioError
from scenarios.loading.explaining.yaml_words import in_words
from scenarios.schema.base import Key

MAX_DEPTH = 16
MAX_VALUES = 100_000
"""In one file. Aliases of aliases multiply, so that a file of a kilobyte can stand for billions of values."""
MERGE = "tag:yaml.org,2002:merge"


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

    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = f":{text.count(chr(10), 0, error.position) + 1}" if numbered else ""
        raise ScenarioError(f"{source}{line}: not YAML: {in_words(error)}") from error
    try:
        node = loader.get_single_node()
        if node is None:
            return Node(None, origin(None))
        return _build(loader, node, origin(node.start_mark), origin, itertools.count())
    except RecursionError as error:  # in PyYAML, before there is a tree
        raise ScenarioError(f"{source}: nested too deeply") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ScenarioError(f"{origin(mark).label}: not YAML: {in_words(error)}") from error
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
        shared: list[Node] = []
        for key, value in node.value:
            here = origin(key.start_mark)
            if not isinstance(key, yaml.ScalarNode):
                raise ScenarioError(f"{here.label}: a key must be text")
            if key.value in children:
                raise ScenarioError(f"{here.label}: the key '{key.value}' is there twice")
            child = _build(loader, value, here, origin, values, depth + 1)
            if key.tag == MERGE:
                shared += child.value if isinstance(child.value, list) else [child]
            else:
                children[key.value] = child
        return Node(_with_shared(children, shared), at)
    if isinstance(node, yaml.SequenceNode):
        items = [
            _build(loader, item, origin(item.start_mark), origin, values, depth + 1) for item in node.value
        ]
        return Node(items, at)
    try:
        return Node(loader.construct_object(node), at)
    except ValueError as error:  # such as the date 2024-99-99
        raise ScenarioError(f"{at.label}: cannot read '{node.value}': {error}") from error


def _with_shared(children: dict[str, Node], shared: list[Node]) -> dict[str, Node]:
    """Give a mapping's keys and those of the mappings that it takes with `<<: *name`; its own count more."""
    for other in shared:
        if not isinstance(other.value, dict):
            raise ScenarioError(
                f"{other.origin.label}: <<: must be a mapping that is marked with &, as *name"
            )
        children = {**other.value, **children}
    return children
