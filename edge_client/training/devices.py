"""Makes the devices of a fleet, for real and for virtual time."""

import copy
import functools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from broker.machine.event_log import Journal
from edge_client.training.device import Device
from edge_client.training.own_data import OwnData
from scenarios.computing.placing import CPU
from scenarios.errors import ScenarioError
from scenarios.heads.rows_read import rows_read
from scenarios.loading.own_data import own_place, read_own
from scenarios.loading.rehearsal import rehearse_devices
from scenarios.local.held_out import held_out
from scenarios.partition import client_rows
from scenarios.schema.network import tell_names
from scenarios.schema.scenario import Scenario, client_names, early_cuts
from scenarios.task import Split, Task
from scenarios.tasks import task_of
from scenarios.training import head_vector, initial_model


def make_devices(
    scenario: Scenario,
    names: Sequence[str],
    journal: Journal | None = None,
    *,
    unfit: dict[str, str] | None = None,
    place: torch.device = CPU,
    task: Task | None = None,
) -> dict[str, Device]:
    """Give each named client its head and its data.

    Args:
        scenario: what runs.
        names: of the clients.
        journal: hears how long they take for what.
        unfit: for a live run with `partition: local`. A client whose own data cannot be used is left out, and
            why stands here; the others look at theirs again from time to time. None: such a client is an
            error, and data are read once.
        place: where their heads compute.
        task: the scenario's task, as of task_of; made here if None.

    Raises:
        ScenarioError: a name that is not in the scenario's fleet, data that cannot be found, used or divided.
    """
    task = task or task_of(scenario)
    fleet = client_names(scenario)
    unknown = sorted(set(names) - set(fleet))
    if unknown:
        raise ScenarioError(f"no such client: {', '.join(unknown)}; {tell_names(fleet)}")
    made = initial_model(replace(task, tail=nn.Identity), scenario.seed)[0]
    initial = head_vector(made)
    task = replace(task, head=(lambda: copy.deepcopy(made)) if len(names) > 1 else lambda: made)
    journal, cuts = journal or Journal(()), early_cuts(scenario)
    tells_rows = {}
    if scenario.flows.own_rows:
        tells_rows["rows_of"] = lambda inputs: rows_read(copy.deepcopy(made), inputs)

    @functools.cache
    def share_of(cut: str | None) -> tuple[Task, npt.NDArray[np.float32]]:
        """Give the task with what a device has of the head, and what is sent of that as the run starts."""
        if cut is None:
            return task, initial
        early = task.early(cut)
        part = replace(task, cut_shape=early.cut_shape, head=lambda: early.part_of(task.head()))
        return part, initial[early.own]

    def make(name: str, data: Split, tested: Split | None = None, own: OwnData | None = None) -> Device:
        part, as_it_starts = share_of(cuts.get(name))
        device = Device(
            part,
            as_it_starts,
            data,
            client=name,
            seed=scenario.seed,
            batch_size=scenario.task.batch_size,
            training=scenario.training,
            place=place,
            held_out=tested,
            look=None if own is None or unfit is None else own.look,
            error_feedback=scenario.flows.error_feedback,
            holds_heads=scenario.flows.head_since == "last",
            timed=functools.partial(journal.timed, name),
            **tells_rows,
        )
        device.head.rest_between_rounds()
        return device

    if scenario.task.partition != "local":
        data = rehearse_devices(scenario, task, names)
        shares = dict(zip(fleet, client_rows(scenario, data), strict=True))
        return {name: make(name, data.train.take(shares[name])) for name in names}
    devices = {}
    for name in names:
        try:
            own = _own_data(scenario, task, name, alone=len(names) == 1)
            devices[name] = make(name, *own.read(), own)
        except ScenarioError as error:
            if unfit is None:
                raise
            unfit[name] = str(error)
    return devices


def _own_data(scenario: Scenario, task: Task, client: str, *, alone: bool) -> OwnData:
    place = own_place(scenario, client, alone=alone)
    share, seed = scenario.task.held_out, scenario.seed
    return OwnData(place, lambda: held_out(read_own(scenario, task, client, place), share, seed))
