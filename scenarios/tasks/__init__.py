"""The tasks a scenario can name, and the user's own."""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from scenarios.errors import ScenarioError, suggestion
from scenarios.heads.auxiliary import with_auxiliary
from scenarios.heads.parts import with_norms_at_home
from scenarios.metrics import with_metric
from scenarios.task import Split, Task
from scenarios.tasks import (
    debtags,
    digits28,
    fashion_mnist,
    femnist,
    leaf_shakespeare,
    shakespeare,
    stackoverflow,
    watch_exercises,
)
from scenarios.tasks.user_module import import_module, own_task
from scenarios.training import uncut
from scenarios.u_shape import u_shaped, with_top_at_server

if TYPE_CHECKING:
    from scenarios.cutting.early import EarlyCut
    from scenarios.schema.scenario import Scenario
    from scenarios.schema.task_spec import TaskSpec

TASKS: dict[str, Callable[[Path | None], Task]] = {
    "digits28": digits28.task,
    "fashion_mnist": fashion_mnist.task,
    "femnist": femnist.task,
    "shakespeare": shakespeare.task,
    "watch_exercises": watch_exercises.task,
    "debtags": debtags.task,
    "leaf_shakespeare": leaf_shakespeare.task,
    "stackoverflow_tags": stackoverflow.tags,
    "stackoverflow_nwp": stackoverflow.next_word,
}
"""Functions that make a task. Each takes the folder of the data, or None for the usual one."""


def load_task(spec: "TaskSpec", method: str = "split") -> Task:
    """Make the task that a scenario names, with its model cut as a training method needs it.

    No data are read, except a few rows to find out about a model that is to be cut.

    Raises:
        ScenarioError: an unknown name, a folder that the task has no use for or lacks, a module of the
            user's that does not give a task, or a method for which it does not name the layers.
    """
    return _shaped(_task(spec), method)


def _task(spec: "TaskSpec") -> Task:
    if spec.second_cut is not None and spec.cut is None:
        raise ScenarioError("goes with task.cut, which names the first one", key="task.second_cut")
    if spec.module is not None:
        if spec.path is not None:
            raise ScenarioError("goes with a built-in task; your module knows its data", key="task.path")
        if spec.cut is not None or spec.model is not None:
            from scenarios.tasks.own_model import own_model  # noqa: PLC0415  other devices need none of it

            return own_model(spec, import_module(spec.module))
        return own_task(spec.module, spec.name)
    if spec.cut is not None or spec.model is not None:
        raise ScenarioError("goes with task.module: the built-in tasks have their own cut", key="task.cut")
    if spec.name not in TASKS:
        known = suggestion(spec.name, TASKS, label="known")
        raise ScenarioError(
            f"unknown task '{spec.name}'{known}; your own one needs task.module", key="task.name"
        )
    return TASKS[spec.name](spec.path)


def test_of(scenario: "Scenario", task: Task) -> Split | None:
    """Read what the server evaluates on; None if the metric comes from rows that devices keep for it.

    Raises:
        ScenarioError: the data cannot be found or used.
    """
    return None if scenario.task.held_out else task.test()


def task_of(scenario: "Scenario") -> Task:
    """Make a scenario's task; see load_task."""
    task = load_task(scenario.task, scenario.training.method)
    if scenario.training.has_auxiliary:
        task = with_auxiliary(task, scenario.seed)
    if scenario.training.batch_norm == "local":
        task = with_norms_at_home(task)
    early = functools.cache(functools.partial(_early_cut, task))
    return replace(with_metric(task, scenario.task.metric), early=early)


def _early_cut(task: Task, layer: str) -> "EarlyCut":
    """Cut a task's head once more; see Task.early."""
    from scenarios.cutting.early import TRIED_ROWS, early_cut  # noqa: PLC0415  other devices need none of it

    if task.example is not None:
        return early_cut(task.head, layer, task.example())
    if not task.is_shared:
        raise ScenarioError(
            "needs a few rows of inputs, to see where the head can be cut: the task must give an `example`"
        )
    return early_cut(task.head, layer, task.load().train.batch(slice(TRIED_ROWS))[0])


def _shaped(task: Task, method: str) -> Task:
    match method:
        case "fedavg":
            return uncut(task)
        case "u_shape":
            return u_shaped(task)
        case _:
            return with_top_at_server(task)
