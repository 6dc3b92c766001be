"""Makes the devices of a fleet, for real and for virtual time."""

import copy
import functools
from collections.abc import Sequence
from dataclasses import replace

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
from scenarios.schema.scenario import Scenario, client_names
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

    Raises:
        ScenarioError: a name that is not in the scenario's fleet, data that cannot be found, used or divided.
    """
    task = task_of(scenario)
    fleet = client_names(scenario)
    unknown = sorted(set(names) - set(fleet))
    if unknown:
        raise ScenarioError(f"no such client: {', '.join(unknown)}; {tell_names(fleet)}")
    made = initial_model(replace(task, tail=nn.Identity), scenario.seed)[0]
    initial = head_vector(made)
    task = replace(task, head=(lambda: copy.deepcopy(made)) if len(names) > 1 else lambda: made)
    journal = journal or Journal(())
    tells_rows = {}
    if scenario.flows.own_rows:
        tells_rows["rows_of"] = lambda inputs: rows_read(copy.deepcopy(made), inputs)

    def device(name: str, data: Split, tested: Split | None = None, own: OwnData | None = None) -> Device:
        return Device(
            task,
            initial,
            data,
            client=name,
            seed=scenario.seed,
            batch_size=scenario.task.batch_size,
            training=scenario.training,
            place=place,
            held_out=tested,
            look=None if own is None or unfit is None else own.look,
            error_feedback=scenario.flows.error_feedback,
            timed=functools.partial(journal.timed, name),
            **tells_rows,
        )

    if scenario.task.partition != "local":
        data = rehearse_devices(scenario, task, names)
        shares = dict(zip(fleet, client_rows(scenario, data), strict=True))
        return {name: device(name, data.train.take(shares[name])) for name in names}
    devices = {}
    for name in names:
        try:
            own = _own_data(scenario, task, name, alone=len(names) == 1)
            devices[name] = device(name, *own.read(), own)
        except ScenarioError as error:
            if unfit is None:
                raise
            unfit[name] = str(error)
    return devices


def _own_data(scenario: Scenario, task: Task, client: str, *, alone: bool) -> OwnData:
    place = own_place(scenario, client, alone=alone)
    share, seed = scenario.task.held_out, scenario.seed
    return OwnData(place, lambda: held_out(read_own(scenario, task, client, place), share, seed))
