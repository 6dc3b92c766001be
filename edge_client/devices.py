"""Makes the devices of a fleet, for real and for virtual time."""

import functools
from collections.abc import Sequence

from broker.machine.event_log import Journal
from edge_client.device import Device
from scenarios.errors import ScenarioError
from scenarios.loading.rehearsal import rehearse_devices
from scenarios.partition import client_rows
from scenarios.schema.network import tell_names
from scenarios.schema.scenario import Scenario, client_names
from scenarios.tasks import task_of
from scenarios.training import initial_head


def make_devices(
    scenario: Scenario, names: Sequence[str], journal: Journal | None = None
) -> dict[str, Device]:
    """Give each named client its head and its share of the data.

    Args:
        scenario: what runs.
        names: of the clients.
        journal: hears how long they take for what.

    Raises:
        ScenarioError: a name that is not in the scenario's fleet, data that cannot be found or divided.
    """
    task = task_of(scenario)
    fleet = client_names(scenario)
    unknown = sorted(set(names) - set(fleet))
    if unknown:
        raise ScenarioError(f"no such client: {', '.join(unknown)}; {tell_names(fleet)}")
    initial = initial_head(task, scenario.seed)
    data = rehearse_devices(scenario, task, names)
    shares = dict(zip(fleet, client_rows(scenario, data), strict=True))
    journal = journal or Journal(())
    return {
        name: Device(
            task,
            initial,
            data.train.take(shares[name]),
            client=name,
            seed=scenario.seed,
            batch_size=scenario.task.batch_size,
            training=scenario.training,
            error_feedback=scenario.flows.error_feedback,
            timed=functools.partial(journal.timed, name),
        )
        for name in names
    }
