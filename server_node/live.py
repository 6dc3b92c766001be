"""Runs the server over a transport: the state machine on the event loop, the tail on one thread."""

import asyncio
import copy
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from broker.errors import RunError
from broker.machine.asyncio_driver import Driver
from broker.machine.event_log import SERVER, Journal
from broker.transports.base import Connect, Transport, Will
from broker.wire import messages, topics
from broker.wire.messages import RunState
from scenarios.errors import ScenarioError
from scenarios.loading.published import publish_scenario
from scenarios.schema.scenario import (
    Scenario,
)
from scenarios.tasks import task_of
from scenarios.training import head_vector, initial_model
from server_node import checkpoint
from server_node.checkpoint import Progress
from server_node.observer import observer
from server_node.protocol.core import ServerCore
from server_node.protocol.jobs import TailJob, TailResult, TailStep
from server_node.protocol.ledger import Ledger
from server_node.protocol.plan import Plan, make_plan
from server_node.protocol.reports import Fact, RoundReport, Watch
from server_node.record import RunFolder
from server_node.summary import Summary
from server_node.tail import Tail

log = logging.getLogger(__name__)

ENVELOPE_BYTES = 8
"""Of RunScenario: what is around the packed scenario."""


async def serve(
    scenario: Scenario,
    connect: Connect,
    *,
    run: str,
    folder: Path,
    stop: asyncio.Event,
    watch: Watch = lambda _fact, _ledger: None,
    resume: bool = False,
    journal: Journal | None = None,
) -> Summary:
    """Serve one run to its end and leave its folder.

    Args:
        scenario: what to run.
        connect: makes the transport.
        run: name of the run, in every topic.
        folder: where results go.
        stop: set it to end the run early, cleanly.
        watch: hears of rounds and of trouble as they happen, in the event loop.
        resume: go on from the folder's checkpoint.
        journal: hears what happens, for a trace.

    Returns:
        The content of summary.json.

    Raises:
        RunError: a run name that cannot stand in a topic, no checkpoint to resume from, a folder that cannot
            be written to.
        ScenarioError: a task that lacks its data.
        BrokerError: no broker, or one that refuses us.
    """
    journal = journal or Journal(())
    task = task_of(scenario)
    head, tail = initial_model(task, scenario.seed)
    parameters = head_vector(head)
    plan = replace(
        make_plan(scenario, task, run=run, head_size=parameters.size),
        token=secrets.randbits(31),
        initial_head=parameters.astype("<f4").tobytes(),
        scenario=_published(scenario),
    )
    before = Progress(plan.digest, [], Ledger())
    if resume:
        before = checkpoint.restore(folder, plan.digest, head, tail)
    ledger = before.ledger
    test = task.load().test
    worker = Tail(task, test, head=head, tail=tail, plan=plan, training=scenario.training)
    record = RunFolder(folder, scenario, mode="live", metric=task.metric, ledger=ledger, rows=before.rows)
    core = ServerCore(plan, ledger, len(before.rows))
    client_id = scenario.broker.client_id_of(run, "server")
    with ThreadPoolExecutor(1, thread_name_prefix="tail") as thread:
        compute = _on(thread, worker, journal)
        async with _connected(connect, client_id, plan, core) as transport, asyncio.TaskGroup() as saves:
            observe = observer(record, ledger, watch)

            def report(fact: Fact) -> None:
                observe(fact)
                if isinstance(fact, RoundReport) and fact.metric is not None:
                    progress = Progress(plan.digest, list(record.rows), copy.deepcopy(ledger))
                    # Handed over at once: after the round's jobs, before the next ones change the model.
                    saving = thread.submit(checkpoint.save, folder, progress, head, tail)
                    saves.create_task(_note_save(saving, record))

            reason = await Driver(core, transport, compute, journal, report).run(stop)
    return record.finish(reason, (head, tail))


def _published(scenario: Scenario) -> bytes:
    """Give what devices without a file are told of the scenario; nothing if it is too long for that."""
    try:
        return publish_scenario(scenario, scenario.broker.packet_bytes - ENVELOPE_BYTES)
    except ScenarioError as error:
        log.warning("devices cannot get the scenario from the broker, they need its file: %s", error)
        return b""


def _connected(connect: Connect, client_id: str, plan: Plan, core: ServerCore) -> Transport:
    """Make the server's transport; its last will tells the clients when the server is gone."""

    def will(_connection: int) -> Will:
        away = RunState("away", core.incarnation, core.token, 0, plan.rounds)
        return Will(topics.state(plan.run), messages.encode(away), retain=True)

    subscriptions = topics.server_subscriptions(plan.run)
    return connect(client_id=client_id, subscriptions=subscriptions, will=will)


def _on(
    thread: ThreadPoolExecutor, worker: Tail, journal: Journal
) -> Callable[[TailJob], Awaitable[TailResult]]:
    """Make the function that does a job on the tail's thread."""
    loop = asyncio.get_running_loop()
    return lambda job: loop.run_in_executor(thread, _timed, worker, job, journal)


async def _note_save(saving: Future[None], record: RunFolder) -> None:
    """Wait for a checkpoint. A run goes on without one; the log and the summary say so."""
    try:
        await asyncio.wrap_future(saving)
    except RunError as error:
        if record.checkpoint_error is None:
            log.warning("the run goes on without a checkpoint: %s", error)
        record.checkpoint_error = str(error)
    else:
        record.checkpoint_error = None


def _timed(worker: Tail, job: TailJob, journal: Journal) -> TailResult:
    """Do a job and note on whose lanes it took how long."""
    from_s = time.monotonic()
    result = worker.run(job)
    to_s = time.monotonic()
    journal.span(SERVER, type(job).__name__, from_s, to_s)
    if isinstance(job, TailStep):
        for client, message, _ in job.batches:
            journal.span(client, "tail", from_s, to_s, message.round, message.step)
    return result
