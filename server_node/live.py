"""Runs the server over a transport: the state machine on the event loop, the tail on one thread.

Codecs of large messages are on a pool of further threads, for which the tail's waits.
"""

import asyncio
import copy
import functools
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Self

import torch

from broker.errors import BrokerError
from broker.exits import ANOTHER_SERVER, COMPLETE, STOPPED, SUPERSEDED
from broker.machine.asyncio_driver import FAREWELL_S, Driver, connected
from broker.machine.event_log import SERVER, Journal
from broker.machine.looking import looking
from broker.transports.base import Connect, Event, Transport, TransportStats, Will
from broker.transports.bulletin import Bulletin
from broker.wire import packing, topics
from broker.wire.messages import RunState
from scenarios.heads.parts import form_of
from scenarios.loading.published import offer_scenario
from scenarios.loading.trial.at_server import server_place
from scenarios.metrics import better_of
from scenarios.schema.broker import BrokerSpec
from scenarios.schema.scenario import Scenario
from scenarios.tasks import task_of, test_of
from scenarios.training import head_vector, initial_model
from server_node import checkpoint
from server_node.board.board import Board
from server_node.board.device_links import DeviceLinks
from server_node.board.labels import labels_of
from server_node.board.screen import Glance
from server_node.board.show import Show
from server_node.board.views import Views
from server_node.learning.replay import kept_in
from server_node.learning.spreading import spreading
from server_node.observer import observer
from server_node.ownership import SupersededError, owning
from server_node.progress import Standing, load_model, over, settings_of, standing_of
from server_node.protocol.core import ServerCore
from server_node.record import RunFolder
from server_node.saver import Keeper
from server_node.summary import Summary
from server_node.tail import Tail
from server_node.trackers.events import Tell, ended, silence
from server_node.vocabulary.head_share import with_initial
from server_node.vocabulary.jobs import TailForward, TailJob, TailResult, TailStep
from server_node.vocabulary.plan import Plan, make_plan
from server_node.vocabulary.reports import Fact, Gathering, RoundReport, Watch

log = logging.getLogger(__name__)

LAST_WORDS_S = 600.0
"""How long a server whose run is over tries to tell that to a broker that is away; clients wait for it."""


async def serve(
    scenario: Scenario,
    connect: Connect,
    *,
    run: str,
    folder: Path,
    stop: asyncio.Event,
    watch: Watch = lambda _fact, _ledger: None,
    fresh: bool = False,
    takeover: bool = False,
    one_connection: bool = False,
    journal: Journal | None = None,
    begun: asyncio.Event | None = None,
    posts: bool = False,
    glance: Glance = lambda _view: None,
    tell: Tell = silence,
) -> Summary:
    """Serve one run to its end and leave its folder. It goes on from the folder's newest good checkpoint.

    Args:
        scenario: what to run.
        connect: makes the transport.
        run: name of the run, in every topic.
        folder: where results go.
        stop: set it to pause the run: the next start goes on.
        watch: hears of rounds and of trouble as they happen, in the event loop.
        fresh: begin anew, over what the folder has.
        takeover: take the run over from a server that is at work.
        one_connection: the broker lets the server's user have one connection, as that of a fleet does.
        journal: hears what happens, for a trace.
        begun: is set when the broker has it that this server is in charge.
        posts: publish pages for `fedlite watch`.
        glance: is shown the run once a second, and once more at its end.
        tell: hears what trackers are told.

    Returns:
        The content of summary.json; when another server is in charge, that of this server's share, and
        nothing is written. A run that is over is not touched.

    Raises:
        RunError: a run name that cannot stand in a topic, a folder that another server or another scenario
            has, or that cannot be written to, checkpoints that are all damaged.
        ScenarioError: a task that lacks its data, a GPU that is not there.
        BrokerError: no broker, or one that refuses us.
    """
    journal = journal or Journal(())
    token = secrets.randbits(31)
    topics.check_name(run)
    with owning(folder, token, takeover=takeover) as owner, spreading(torch.get_num_threads()) as mapping:
        if fresh:
            checkpoint.remove(folder)
        standing = Standing() if fresh else standing_of(scenario, folder)
        finished = None if fresh else over(scenario, folder)
        task = task_of(scenario)
        head, tail = initial_model(task, scenario.seed)
        parameters = head_vector(head)
        plan = make_plan(scenario, task, run=run, head=form_of(head), incarnation=owner.incarnation)
        plan = replace(
            plan,
            token=token,
            takeover=takeover,
            one_connection=one_connection or scenario.broker.is_named_by_user,
            initial_head=parameters.astype("<f4").tobytes(),
            early=with_initial(plan.early, task, parameters),
            scenario=offer_scenario(scenario),
        )
        core = ServerCore(plan, standing.ledger, len(standing.rows))
        transport = _transport(connect, scenario.broker, plan, core)
        if finished is not None:
            if finished[0]["reason"] == COMPLETE:
                await _tell_who_waits(transport, core, stop)
            return finished[0]
        load_model(folder, standing, head, tail)
        worker = Tail(
            task,
            test_of(scenario, task),
            head=head,
            tail=tail,
            plan=plan,
            training=scenario.training,
            map_batches=mapping(scenario.task.batch_size * task.cut_size),
            map_updates=mapping(parameters.size),
            place=server_place(scenario, task),
        )
        worker.filter, kept = standing.filter, standing.tensors or {}
        worker.moments, worker.replay.kept = checkpoint.optimizers_in(kept), kept_in(kept)
        ledger = standing.ledger
        record = RunFolder(
            folder, scenario, mode="live", metric=task.metric, ledger=ledger, rows=standing.rows
        )
        record.better = better_of(task)
        record.damaged = standing.damaged
        keeper = Keeper(folder, owner, record, worker, settings_of(scenario))
        observe = observer(record, ledger, watch, tell)

        def report(fact: Fact) -> None:
            if isinstance(fact, Gathering | RoundReport):
                owner.take(core.incarnation)
            observe(fact)
            if isinstance(fact, RoundReport):
                keeper.keep(copy.deepcopy(ledger), must=fact.metric is not None)

        async def drive() -> str:
            async with connected(transport, stop) as there, keeper.watching():
                compute = _on(keeper.thread, worker, journal)
                announced = transport if begun is None else _Announcing(transport, begun)
                board = Board(core, plan, ledger, labels_of(scenario))
                views = Views(
                    board,
                    plan,
                    ledger,
                    record.rows,
                    metric=task.metric,
                    better=record.better,
                    epoch_s=time.time() - asyncio.get_running_loop().time(),
                )
                links = DeviceLinks(board, plan, ledger, functools.partial(scenario.broker.client_id_of, run))
                bulletin = Bulletin(transport, functools.partial(topics.watch, run)) if posts else None
                driver = Driver(links, announced, compute, journal, report, LAST_WORDS_S)
                show = Show(board, views, bulletin, glance)
                async with bulletin or nullcontext(), looking(show.look):
                    return await driver.run(stop) if there else STOPPED

        tell(record.began(run))
        reason = await _until_superseded(drive, keeper)
        summary = _finish(reason, record, keeper)
        tell(ended(reason, summary))
        return summary


def _finish(reason: str, record: RunFolder, keeper: Keeper) -> Summary:
    """Write what is left to write, unless the folder is another server's; give the summary."""
    if reason in (SUPERSEDED, ANOTHER_SERVER):
        return record.summary(reason)
    record.checkpoint_error = keeper.error
    return record.finish(reason, keeper.tensors)


async def _until_superseded(drive: Callable[[], Awaitable[str]], keeper: Keeper) -> str:
    """Drive a server to its end, and write the last checkpoint; give the reason for which it ended."""
    reason = SUPERSEDED
    with suppress(SupersededError), keeper:
        try:
            ended = await drive()
        except* SupersededError:
            ended = SUPERSEDED
        if ended not in (SUPERSEDED, ANOTHER_SERVER):
            await keeper.write_last()
        reason = ended
    return reason


async def _tell_who_waits(transport: Transport, core: ServerCore, stop: asyncio.Event) -> None:
    """Tell clients that the run is over; a broker that is not there now has none that wait."""

    async def compute(job: TailJob) -> TailResult:
        raise AssertionError(f"a run that is over has a job: {job}")

    with suppress(TimeoutError, BrokerError):
        async with asyncio.timeout(FAREWELL_S), transport as there:
            await Driver(core, there, compute, Journal(())).run(stop)


class _Announcing:
    """A transport that sets an event when the broker has acknowledged the first state of the run."""

    def __init__(self, transport: Transport, begun: asyncio.Event) -> None:
        self._transport = transport
        self._begun = begun

    @property
    def stats(self) -> TransportStats:
        return self._transport.stats

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Whoever made the transport leaves it."""

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> None:
        """See Transport.publish."""
        await self._transport.publish(topic, payload, retain=retain, qos=qos)
        if topics.parse(topic).kind == "state":
            self._begun.set()

    def events(self) -> AsyncIterator[Event]:
        """See Transport.events."""
        return self._transport.events()


def _transport(connect: Connect, broker: BrokerSpec, plan: Plan, core: ServerCore) -> Transport:
    """Make the server's transport; its last will tells the clients when the server is gone.

    Two servers of one run have two client ids: else the broker would end one's connection for the other's.
    Where the client id has to be the user's name, that cannot be.
    """

    def will(_connection: int) -> Will:
        away = RunState("away", core.number_of_will, core.token, 0, plan.rounds)
        return Will(topics.state(plan.run), packing.encode(away), retain=True)

    subscriptions = topics.server_subscriptions(plan.run)
    name = "server" if broker.is_named_by_user else f"server-{plan.token:08x}"
    client_id = broker.client_id_of(plan.run, name)
    return connect(client_id=client_id, subscriptions=subscriptions, will=will)


def _on(
    thread: ThreadPoolExecutor, worker: Tail, journal: Journal
) -> Callable[[TailJob], Awaitable[TailResult]]:
    """Make the function that does a job on the tail's thread."""
    loop = asyncio.get_running_loop()
    return lambda job: loop.run_in_executor(thread, _timed, worker, job, journal)


def _timed(worker: Tail, job: TailJob, journal: Journal) -> TailResult:
    """Do a job and note on whose lanes it took how long."""
    from_s = time.monotonic()
    result = worker.run(job)
    to_s = time.monotonic()
    journal.span(SERVER, type(job).__name__, from_s, to_s)
    if isinstance(job, TailForward | TailStep):
        for client, message in job.waited.items():
            journal.span(client, "tail", from_s, to_s, message.round, message.step)
    return result
