"""Tries the points of a grid before a sweep: each setting of task, model and codecs once, not each seed."""

import functools
from collections.abc import Sequence
from dataclasses import replace

from scenarios.errors import MissingDataError, ScenarioError
from scenarios.loading.grid import GridPoint
from scenarios.loading.load import dump_resolved
from scenarios.loading.rehearsal import rehearse
from scenarios.schema.devices import device_of
from scenarios.schema.network import FleetGroup, Network
from scenarios.schema.scenario import Scenario, client_names
from scenarios.task import Task
from scenarios.tasks import task_of


def try_points(points: Sequence[GridPoint]) -> str:
    """Rehearse the points of a grid; points that a rehearsal cannot tell apart are rehearsed once.

    Returns:
        Why a point cannot be trained here, since its data are not here or too few; empty when all can.

    Raises:
        ScenarioError: a point's task, or its data, cannot be used, or a device has too little memory; the
            sentence names the point.
    """
    tasks: dict[str, Task] = {}
    tried: set[str] = set()
    missing = ""
    for point in points:
        form = _tried_of(point.scenario)
        if form in tried:
            continue
        tried.add(form)
        values = ", ".join(f"{key}={value}" for key, value in point.values.items())
        try:
            rehearse(point.scenario, _task(point.scenario, tasks))
        except MissingDataError as error:
            missing = missing or f"at {values}: {error}"
        except ScenarioError as error:
            raise ScenarioError(f"at {values}: {error}") from error
    return missing


def _task(scenario: Scenario, made: dict[str, Task]) -> Task:
    """Make a scenario's task; points with the same one load its data once."""
    key = f"{scenario.training.method} {scenario.task.model_dump_json(exclude={'batch_size'})}"
    if key not in made:
        task = task_of(scenario)
        local = scenario.task.partition == "local"
        made[key] = task if local else replace(task, load=functools.cache(task.load))
    return made[key]


def _tried_of(scenario: Scenario) -> str:
    """Write what a rehearsal sees of a scenario: no seed, no times, no network."""
    training = scenario.training.model_copy(update={"rounds": 1, "head_lr": 1.0, "tail_lr": 1.0})
    devices = {(group.cut, device_of(group.device).ram_mib) for group in scenario.fleet}
    fleet = (FleetGroup(names=tuple(client_names(scenario))),)
    changes = {"name": "tried", "seed": 0, "training": training, "fleet": fleet, "network": Network()}
    return f"{sorted(devices, key=str)} {dump_resolved(scenario.model_copy(update=changes))}"
