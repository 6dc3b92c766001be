"""Reads and tries the data that a device has itself (`partition: local`)."""

from pathlib import Path

import numpy as np
from torch import nn

from scenarios.errors import MissingDataError, ScenarioError
from scenarios.loading.trial.data_checks import wrong_split, wrong_values
from scenarios.loading.trial.trial import Trial, Wrong, batch_of, refuse, tried
from scenarios.local.places import KEY, place_of
from scenarios.local.shares import read_share
from scenarios.schema.scenario import Scenario, client_names
from scenarios.seeded import seeded
from scenarios.seeds import derive_seed
from scenarios.task import Split, Task


def own_place(scenario: Scenario, client: str, *, alone: bool) -> Path:
    """Give the folder or file with a client's data; see place_of.

    Raises:
        MissingDataError: the scenario names none.
        ScenarioError: nothing is there.
    """
    root = scenario.task.data
    if root is None:
        raise MissingDataError("partition: local needs the devices' own data: name them with --data", key=KEY)
    return place_of(root, client, alone=alone, fleet=client_names(scenario))


def read_own(scenario: Scenario, task: Task, client: str, place: Path | None = None) -> Split:
    """Read a client's own data, and try them: kind, values, and a batch through the head.

    Args:
        scenario: what runs.
        task: its task, as of task_of.
        client: its name.
        place: as of own_place; None: where it is when the whole fleet is here.

    Raises:
        MissingDataError: the scenario names no place.
        ScenarioError: the data cannot be used; the sentence says why.
    """
    place = place or own_place(scenario, client, alone=scenario.fleet_size == 1)
    read = task.load_local or read_share
    try:
        split = tried(f"load_local() of the task, for client {client},", lambda: read(place, client))
        refuse(wrong_split("local", split, task, may_be_empty=True))
        refuse(wrong_values(split, task, whose=f"client {client}"))
        if len(split):
            with seeded(derive_seed(scenario.seed, "rehearsal")):
                trial = Trial(scenario, task, task.head(), nn.Identity())
            rows = np.arange(len(split))
            trial.forward(split, batch_of(scenario, task, split, {client: rows}))
    except Wrong as error:
        raise ScenarioError(f"{place}, the data of client {client}: {error}", key=KEY) from error
    return split  # type: ignore[no-any-return]
