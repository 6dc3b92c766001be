"""Loads a user's observer: a function `observe(event)` in a Python file or module, or an entry point."""

import importlib
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path

from broker.errors import RunError
from scenarios.errors import ScenarioError
from scenarios.tasks.user_module import import_file, is_file
from server_node.trackers.events import Event, Sink

GROUP = "fedlite.observers"
"""The group of entry points in which a package names its observers."""
FUNCTION = "observe"


def own_observer(named: str) -> Sink:
    """Make a sink that hands each event to a user's function.

    Args:
        named: a Python file, an importable module, either with :FUNCTION after it if that is not called
            `observe`, or the name of an entry point.

    Raises:
        RunError: there is none, it fails while it is loaded, or it is no function.
    """
    observe = _found(named)

    def sink(events: Sequence[Event]) -> None:
        for event in events:
            observe(event)

    return sink


def _found(named: str) -> Callable[[Event], object]:
    points = entry_points(group=GROUP, name=named)
    place, colon, function = named.rpartition(":")
    place, function = (place, function) if colon else (named, FUNCTION)
    try:
        if points:
            found = next(iter(points)).load()
        else:
            module = import_file(Path(place)) if is_file(place) else importlib.import_module(place)
            found = getattr(module, function, None)
    except ScenarioError as error:
        raise RunError(f"--observer {named}: {error.detail}") from error
    except ModuleNotFoundError as error:
        if error.name != place.partition(".")[0]:
            raise RunError(f"--observer {named} fails: {error}") from error
        raise RunError(
            f"--observer {named}: no such file, module or entry point of the group {GROUP}"
        ) from error
    except Exception as error:  # whatever the user's code raises
        raise RunError(f"--observer {named} fails: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise RunError(f"--observer {named}: it has no function {function}(event)")
    observe: Callable[[Event], object] = found
    return observe
