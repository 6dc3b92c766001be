"""Loads the user's own task: a Python file, or an importable module, with a function `task() -> Task`."""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from scenarios.errors import ScenarioError, in_words
from scenarios.task import Task

KEY = "task.module"


def is_file(module: str) -> bool:
    """Say whether a module is named by its file rather than by its import name."""
    return module.endswith(".py") or "/" in module


def import_module(module: str) -> ModuleType:
    """Import a user's module: a Python file by its path, or an importable one by its name.

    Raises:
        ScenarioError: there is no such module, or it fails.
    """
    with _telling(module):
        return import_file(Path(module)) if is_file(module) else importlib.import_module(module)


def own_task(module: str, name: str) -> Task:
    """Make the task of a user's module.

    Args:
        module: path of a Python file, or name of an importable module.
        name: what the scenario calls the task.

    Raises:
        ScenarioError: there is no such module, it fails, or its task() returns no Task of that name.
    """
    loaded = import_module(module)
    make = getattr(loaded, "task", None)
    with _telling(module):
        task = make() if callable(make) else None
    if make is None and hasattr(loaded, "build"):
        raise ScenarioError(
            "must name the layer to cut build() at; `fedlite scenarios cuts` lists them", key="task.cut"
        )
    if make is None:
        raise ScenarioError(f"{module} has no function task()", key=KEY)
    if not isinstance(task, Task):
        raise ScenarioError(f"task() of {module} must return a scenarios.task.Task", key=KEY)
    if task.name != name:
        raise ScenarioError(
            f"is '{name}', but the task of {module} is called '{task.name}': write that", key="task.name"
        )
    return task


@contextmanager
def _telling(module: str) -> Iterator[None]:
    try:
        yield
    except ScenarioError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise ScenarioError(f"{module} fails: {in_words(error)}", key=KEY) from error


def import_file(path: Path) -> ModuleType:
    """Import a Python file of the user's, whatever folder it is in.

    Raises:
        ScenarioError: there is no such file. What its code raises comes as it is.
    """
    if not path.is_file():
        raise ScenarioError(f"no such file: {path}", key=KEY)
    name = f"scenarios_own_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ScenarioError(f"{path} is no Python file", key=KEY)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while they are made
    spec.loader.exec_module(module)
    return module
