"""Runs the server over a transport: the state machine on the event loop, the tail on one thread."""

import asyncio
import copy
import logging
import secrets
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from broker.machine.asyncio_driver import Driver
from broker.machine.event_log import SERVER, Journal
from broker.transports.base import Connect, Will
from broker.wire import messages, topics
from broker.wire.messages import RunState
from scenarios.schema.scenario import (
    Scenario,
)
from scenarios.tasks import task_of
from scenarios.training import head_vector, initial_model
from server_node import checkpoint
from server_node.checkpoint import Progress
from server_node.protocol.core import ServerCore
from server_node.protocol.jobs import TailJob, TailResult, TailStep
from server_node.protocol.ledger import Ledger
from server_node.protocol.plan import make_plan
from server_node.protocol.reports import Dropped, Fact, Gathering, Refused, RoundReport, Watch
from server_node.record import RunFolder, Summary
from server_node.tail import Tail

log = logging.getLogger(__name__)


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
        RunError: a run name that cannot stand in a topic, no checkpoint.
        ScenarioError: a task that lacks its data.
        BrokerError: no broker, or one that refuses us.
    """
    journal = journal or Journal(())
    task = task_of(scenario)
    head, tail = initial_model(task, scenario.seed)
    incarnation = secrets.token_hex(4)
    plan = make_plan(scenario, task, run=run, incarnation=incarnation, head_size=head_vector(head).size)
    before = Progress(plan.digest, [], Ledger())
    if resume:
        before = checkpoint.restore(folder, plan.digest, head, tail)
    ledger = before.ledger
    record = RunFolder(folder, scenario, mode="live", metric=task.metric, ledger=ledger, rows=before.rows)
    test = task.load().test
    worker = Tail(task, test, head=head, tail=tail, plan=plan, training=scenario.training)

    def save() -> None:
        """Write a checkpoint on the tail's thread, after the round's jobs and before the next ones."""
        progress = Progress(plan.digest, list(record.rows), copy.deepcopy(ledger))
        pool.submit(checkpoint.save, folder, progress, head, tail).add_done_callback(Future.result)

    def report(fact: Fact) -> None:
        match fact:
            case RoundReport(metric=metric):
                record.round(fact)
                if metric is not None:
                    save()
            case Gathering():
                record.start_training_clock()
            case Dropped(number, client):
                log.info("round %d goes on without %s", number, client)
            case Refused(client, why):
                log.warning("refused a message of %s: %s", client, why)
        watch(fact, ledger)

    away = RunState("away", incarnation, 0, plan.rounds)
    will = Will(topics.state(run), messages.encode(away), retain=True)
    subscriptions = topics.server_subscriptions(run)
    with ThreadPoolExecutor(1, thread_name_prefix="tail") as pool:
        loop = asyncio.get_running_loop()

        async def compute(job: TailJob) -> TailResult:
            return await loop.run_in_executor(pool, _timed, worker, job, journal)

        async with connect(client_id=f"{run}-server", subscriptions=subscriptions, will=will) as transport:
            core = ServerCore(plan, ledger, len(before.rows))
            reason = await Driver(core, transport, compute, journal, report).run(stop)
    return record.finish(reason, (head, tail))


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
