"""Tries many scenarios before any of them runs: each task, model and codecs once, not each seed."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import replace

from scenarios.errors import ScenarioError
from scenarios.loading.load import dump_resolved
from scenarios.loading.rehearsal import rehearse
from scenarios.schema.devices import device_of
from scenarios.schema.network import FleetGroup, Network
from scenarios.schema.scenario import Scenario, client_names
from scenarios.task import Task
from scenarios.tasks import task_of

MOST_NAMES = 3
"""So many of those that have the same mistake are named."""
Named = tuple[str, Scenario]
"""A scenario, and what it is called where something is told of it."""
Mistake = tuple[str, ScenarioError]
"""The same of what is wrong with one."""


def try_all(named: Iterable[Named]) -> list[Mistake]:
    """Rehearse scenarios; those that a rehearsal cannot tell apart are rehearsed once.

    Returns:
        What is wrong, each with the name of the first that it was found at: a MissingDataError where the data
        are not here, or too few; else a ScenarioError, since the task, or its data, cannot be used, or a
        device has too little memory.
    """
    tasks: dict[str, Task] = {}
    tried: set[str] = set()
    mistakes: list[Mistake] = []
    for name, scenario in named:
        form = _tried_of(scenario)
        if form in tried:
            continue
        tried.add(form)
        try:
            rehearse(scenario, _task(scenario, tasks))
        except ScenarioError as error:
            mistakes.append((name, error))
    return mistakes


def refuse_all(mistakes: Iterable[Mistake]) -> None:
    """Tell all mistakes at once.

    Raises:
        ScenarioError: there is one.
    """
    if lines := in_lines(mistakes):
        raise ScenarioError("\n".join(lines))


def in_lines(mistakes: Iterable[Mistake]) -> list[str]:
    """Write each mistake once, with the names of those that have it."""
    names: dict[str, list[str]] = {}
    for name, error in mistakes:
        names.setdefault(str(error), []).append(name)
    return [f"{_some(list(dict.fromkeys(each)))}: {text}" for text, each in names.items()]


def _some(names: Sequence[str]) -> str:
    more = f"; and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return "; ".join(names[:MOST_NAMES]) + more


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
