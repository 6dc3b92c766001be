"""Hosts clients over a transport each: state machines on one event loop, training on a few threads."""

import asyncio
import functools
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from broker.machine.actions import Job
from broker.machine.asyncio_driver import Driver
from broker.machine.event_log import Journal
from broker.transports.base import Connect, Will
from broker.wire import messages, topics
from broker.wire.messages import Hello, Status
from edge_client.core import ClientCore, ProtocolWarning
from edge_client.device import Device
from scenarios.errors import ScenarioError
from scenarios.partition import client_rows
from scenarios.schema.scenario import Scenario, client_names, scenario_digest
from scenarios.task import initial_head
from scenarios.tasks import task_of

log = logging.getLogger(__name__)


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
        raise ScenarioError(f"no such client: {', '.join(unknown)}; the fleet is {fleet[0]} to {fleet[-1]}")
    initial = initial_head(task, scenario.seed)
    data = task.load()
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


async def host(
    scenario: Scenario,
    connect: Connect,
    *,
    run: str,
    names: Sequence[str],
    stop: asyncio.Event,
    jobs: int = 1,
    journal: Journal | None = None,
) -> dict[str, str]:
    """Take part in a run with some of its clients, until each is done.

    Args:
        scenario: the same as the server's.
        connect: makes a transport for each client.
        run: name of the run.
        names: which clients of the fleet.
        stop: set it to leave early, cleanly.
        jobs: how many clients may train at the same time.
        journal: hears what happens, for a trace.

    Returns:
        Why each client ended.

    Raises:
        ScenarioError: see make_devices.
        BrokerError: no broker, or one that refuses us.
    """
    journal = journal or Journal(())
    devices = make_devices(scenario, names, journal)
    with ThreadPoolExecutor(jobs, thread_name_prefix="train") as pool:
        async with asyncio.TaskGroup() as group:
            clients = {
                name: group.create_task(_client(scenario, connect, run, name, device, pool, stop, journal))
                for name, device in devices.items()
            }
    return {name: client.result() for name, client in clients.items()}


async def _client(
    scenario: Scenario,
    connect: Connect,
    run: str,
    name: str,
    device: Device,
    pool: ThreadPoolExecutor,
    stop: asyncio.Event,
    journal: Journal,
) -> str:
    loop = asyncio.get_running_loop()

    async def compute(job: Job) -> object:
        return await loop.run_in_executor(pool, device.run, job)

    hello = Hello(scenario_digest(scenario), device.samples, 0)
    will = Will(topics.status(run, name), messages.encode(Status(online=False)), retain=True)
    subscriptions = topics.client_subscriptions(run, name)
    async with connect(client_id=f"{run}-{name}", subscriptions=subscriptions, will=will) as transport:
        core = ClientCore(run, name, hello)
        return await Driver(core, transport, compute, journal, log_warning).run(stop)


def log_warning(fact: object) -> None:
    """Log what a client's state machine warns of; it reports nothing else."""
    if isinstance(fact, ProtocolWarning):
        log.warning("%s: %s", fact.client, fact.what)
