"""Hosts clients over a transport each: state machines on one event loop, training on a few threads."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence

import msgspec

from broker.exits import STOPPED
from broker.machine.asyncio_driver import Driver, connected
from broker.machine.event_log import Journal
from broker.machine.workers import Workers
from broker.transports.base import Connect, Will
from broker.wire import packing, topics
from broker.wire.messages import Hello, Status
from edge_client.board import Board, WatchedClient
from edge_client.core import ClientCore
from edge_client.jobs import ClientJob, ClientResult
from edge_client.memory import too_small
from edge_client.observer import log_warning
from edge_client.training.device import Device
from edge_client.training.devices import make_devices
from scenarios.errors import ScenarioError
from scenarios.fingerprint import model_fingerprint, package_version
from scenarios.loading.trial.memory import need_of
from scenarios.schema.scenario import Scenario, early_cuts, scenario_digest
from scenarios.task import Task
from scenarios.tasks import task_of

log = logging.getLogger(__name__)


async def host(
    scenario: Scenario,
    connect: Connect,
    *,
    run: str,
    names: Sequence[str],
    stop: asyncio.Event,
    jobs: int = 1,
    journal: Journal | None = None,
    board: Board | None = None,
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
        board: takes note of what happens, for whoever looks at it.

    Returns:
        Why each client ended; of one whose own data cannot be used, why it did not begin ("data: ...").

    Raises:
        ScenarioError: see make_devices; or no client's own data can be used.
        BrokerError: no broker, or one that refuses us.
    """
    journal = journal or Journal(())
    board = board or Board.of(run, names)
    unfit: dict[str, str] = {}
    task = task_of(scenario)
    devices = make_devices(scenario, names, journal, unfit=unfit, task=task)
    if not devices:
        raise ScenarioError("\n".join(dict.fromkeys(unfit.values())))
    for name, why in unfit.items():
        log.error("%s does not take part: %s", name, why)
    for name, device in devices.items():
        if not device.stock.samples:
            log.warning("%s has no samples yet; it waits for some, and is not chosen before", name)
    _tell_of_memory(scenario, task, devices, jobs)
    digest, model = scenario_digest(scenario), model_fingerprint(scenario, task)

    def greeting(device: Device) -> Hello:
        stock = device.stock
        return Hello(0, digest, package=package_version(), model=model, **msgspec.structs.asdict(stock))

    with Workers(jobs, "train") as workers:
        async with asyncio.TaskGroup() as group:
            clients = {
                name: group.create_task(
                    _client(
                        greeting(device),
                        connect,
                        scenario.broker.client_id_of(run, name),
                        run,
                        name,
                        device,
                        workers,
                        stop,
                        journal,
                        board,
                    )
                )
                for name, device in devices.items()
            }
    return {name: client.result() for name, client in clients.items()} | {
        name: f"data: {why}" for name, why in unfit.items()
    }


def _tell_of_memory(scenario: Scenario, task: Task, devices: Mapping[str, Device], jobs: int) -> None:
    """Warn if the process may come to need more memory than there is."""
    name, largest = max(devices.items(), key=lambda each: len(each[1].data))
    if not len(largest.data):
        return
    inputs, _ = largest.data.batch(1, 0)
    held = sum(device.data.nbytes for device in devices.values())
    cut, heads = early_cuts(scenario).get(name), len(devices)
    need = need_of(
        scenario, task, largest.head.module, inputs, own_bytes=held, cut=cut, heads=heads, jobs=jobs
    )
    if why := too_small(sum(need), need.words):
        log.warning(why)


async def _client(
    hello: Hello,
    connect: Connect,
    client_id: str,
    run: str,
    name: str,
    device: Device,
    workers: Workers,
    stop: asyncio.Event,
    journal: Journal,
    board: Board,
) -> str:
    def compute(job: ClientJob) -> asyncio.Future[ClientResult]:
        return workers.run(lambda: device.run(job))

    first_session = time.time_ns() // 1_000_000  # higher than that of an earlier process of this client

    def will(connection: int) -> Will:
        status = Status(online=False, session=first_session + connection)
        return Will(topics.status(run, name), packing.encode(status), retain=True)

    shows_metric = board.shows_metric and name == next(iter(board.records))
    subscriptions = topics.client_subscriptions(run, name, shows_metric=shows_metric)
    transport = connect(client_id=client_id, subscriptions=subscriptions, will=will)
    board.records[name].stats = transport.stats
    async with connected(transport, stop) as there:
        if not there:
            return STOPPED
        core = WatchedClient(
            ClientCore(run, name, hello, first_session, looks=device.data.looks), name, board
        )
        driver = Driver(core, transport, compute, journal, log_warning, overhear=board.overhear)
        return await driver.run(stop)
