"""Runs a scenario in virtual time: the state machines of a live run, over a modelled network.

No protocol decision is made here. sim.simulation.driver drives the state machines, sim.network.broker carries
their messages, and here jobs take the time that the scenario gives to device and server.
"""

import functools
import gc
import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path

from broker.exits import STOPPED
from broker.files import writing
from broker.machine.actions import ComputeDone, Online, Received, StopAsked
from broker.stopping import Stop
from broker.wire.messages import Activations, Hello
from edge_client.core import ClientCore
from edge_client.observer import log_warning
from scenarios.errors import MissingDataError
from scenarios.loading.rehearsal import rehearse
from scenarios.schema.links import link_of
from scenarios.schema.network import FleetGroup
from scenarios.schema.scenario import Scenario, client_names
from scenarios.tasks import task_of
from server_node.checkpoint import tensors_of
from server_node.observer import observer
from server_node.protocol.core import ServerCore
from server_node.record import RunFolder
from server_node.summary import Summary
from server_node.vocabulary.jobs import CloseRound, TailJob, TailResult, TailStep, TailUpdate
from server_node.vocabulary.ledger import Ledger
from server_node.vocabulary.reports import Fact, RoundReport, Watch
from sim.chrome_trace import SERVER, Trace
from sim.network.availability import presence
from sim.network.broker import VirtualBroker
from sim.network.clock import Clock
from sim.network.csv_inputs import Interval, check_csv_inputs
from sim.network.endpoint import Endpoint, NetworkStats
from sim.network.link import links_of
from sim.simulation import workers
from sim.simulation.devices import group_of_each, make_computer, make_endpoints
from sim.simulation.driver import Actor
from sim.simulation.workers import Workers, settled

STANDSTILL_S = 7 * 86_400.0
"""Watchdog: stop the run if no round has closed within the last 7 virtual days (checked every 7 days)."""


def simulate(
    scenario: Scenario,
    folder: Path,
    *,
    timing_only: bool = False,
    threads: int | None = None,
    watch: Watch = lambda _fact, _ledger: None,
    stop: Stop | None = None,
) -> Summary:
    """Run a scenario in virtual time and leave its folder.

    The same scenario gives the same metrics and trace, to the byte, on the same machine and versions.

    Args:
        scenario: what to run.
        folder: where results go.
        timing_only: train nothing; messages have their sizes, jobs their durations.
        threads: so many devices train at the same time, the cores' number if None; the results are the same.
        watch: hears of rounds and of trouble as they happen.
        stop: ends the run early, cleanly, between two events; the summary's reason is then "stopped".

    Returns:
        The content of summary.json.

    Raises:
        ScenarioError: data or trace files that cannot be used.
        RunError: the folder cannot be written to.
    """
    task = task_of(scenario)
    check_csv_inputs(scenario)
    with suppress(MissingDataError) if timing_only else nullcontext():
        rehearse(scenario, task)
    clock, ledger = Clock(), Ledger()
    trace = Trace(client_names(scenario))
    record = RunFolder(
        folder, scenario, mode="simulate", metric=task.metric, ledger=ledger, clock=lambda: clock.now
    )
    report = observer(record, ledger, watch)
    jobs = workers.stand_ins(scenario, task) if timing_only else workers.training(scenario, task, threads)
    with _collector_off() if timing_only else nullcontext(), jobs as who:
        run = VirtualRun(scenario, who, clock=clock, ledger=ledger, trace=trace, report=report)
        reason = run.to_its_end(stop or Stop())
    with writing(folder):
        trace.write(folder / "trace.json")
    tensors = None if who.model is None else tensors_of(*who.model)
    return record.finish(reason, tensors, network=asdict(run.network_stats))


@contextmanager
def _collector_off() -> Iterator[None]:
    """Let Python look for no cycles of garbage: in 100,000 devices that takes seconds, and they leave none.

    Training does leave some (torch, a user's task), so this is for timing-only.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class VirtualRun:
    """A server, a broker and a fleet in virtual time.

    Args:
        scenario: fleet and network.
        who: does the jobs.
        clock: virtual time.
        ledger: counts the messages.
        trace: takes the spans.
        report: hears the facts of the server's state machine; what devices warn of is logged.
    """

    def __init__(
        self,
        scenario: Scenario,
        who: Workers,
        *,
        clock: Clock,
        ledger: Ledger,
        trace: Trace,
        report: Callable[[Fact], None],
    ) -> None:
        self._clock = clock
        self._trace = trace
        self._tail = who.tail
        self._model = scenario.network.server
        self._waiting_since_s: dict[str, float] = {}  # traced clients' activations at the server
        self._report = report
        endpoints = make_endpoints(scenario, clock, trace)
        server_up, server_down = links_of(link_of(self._model.link), seed=scenario.seed, owner="server")
        self._broker = VirtualBroker(
            clock,
            scenario.network.broker,
            run=who.plan.run,
            endpoints=endpoints,
            server_up=server_up,
            server_down=server_down,
            trace=trace,
            packet_bytes=who.plan.packet_bytes,
        )
        self._broker.to_server = self._arrived
        core = ServerCore(who.plan, ledger)
        self._server = Actor(clock, core, self._broker.publish_from_server, self._compute, self._on_report)
        clock.at(0.0, self._server.feed, Online())
        self._rounds = 0
        clock.at(STANDSTILL_S, self._watchdog, 0)
        for number, group in enumerate(group_of_each(scenario)):
            endpoint = endpoints[who.plan.clients[number]]
            self._add_device(endpoint, group, scenario, who, number)

    @property
    def network_stats(self) -> NetworkStats:
        """What the network did."""
        return self._broker.network_stats

    def to_its_end(self, stop: Stop) -> str:
        """Let time pass until the server is done, or somebody stops it; say why it ended."""
        step = self._clock.step
        while self._server.reason is None:
            step()
            if stop.asked:
                self._server.feed(StopAsked(STOPPED))
        return self._server.reason

    def _on_report(self, fact: Fact) -> None:
        self._rounds += isinstance(fact, RoundReport)
        self._report(fact)

    def _watchdog(self, rounds: int) -> None:
        """End a run that has come to a standstill, such as one whose devices have all left for good."""
        if self._rounds == rounds:
            self._server.feed(StopAsked(f"no round has ended in {STANDSTILL_S:.0f} virtual seconds"))
        self._clock.at(self._clock.now + STANDSTILL_S, self._watchdog, self._rounds)

    def _add_device(
        self, endpoint: Endpoint, group: FleetGroup, scenario: Scenario, who: Workers, number: int
    ) -> None:
        """Give a device its state machine, and let it connect when it is there."""
        plan, client, stock = who.plan, endpoint.client, who.stocks[number]
        computer = make_computer(
            client,
            group,
            scenario,
            samples=stock.samples,
            run=who.devices[number],
            clock=self._clock,
            trace=self._trace,
        )
        hello = Hello(
            0,
            plan.digest,
            stock.samples,
            package=plan.package,
            model=plan.model,
            held_out=stock.held_out,
        )
        core = ClientCore(plan.run, client, hello)
        publish = functools.partial(self._broker.publish, endpoint)
        actor = Actor(self._clock, core, publish, computer.compute, log_warning)
        computer.handle = endpoint.handle = actor.feed
        self._connect_at(endpoint, presence(group.availability, seed=scenario.seed, client=client))

    def _connect_at(self, endpoint: Endpoint, intervals: Iterator[Interval]) -> None:
        """Let a device appear and vanish as its intervals say."""
        for from_s, to_s in intervals:
            self._clock.at(from_s, self._broker.connect, endpoint)
            if math.isfinite(to_s):
                self._clock.at(to_s, self._disconnect, endpoint, intervals)
            return

    def _disconnect(self, endpoint: Endpoint, intervals: Iterator[Interval]) -> None:
        self._broker.lose(endpoint)
        self._connect_at(endpoint, intervals)

    def _arrived(self, received: Received) -> None:
        if isinstance(received.message, Activations) and self._trace.lane(received.sender) is not None:
            self._waiting_since_s[received.sender] = self._clock.now
        self._server.feed(received)

    def _compute(self, job: TailJob) -> None:
        """Do a job of the server, and let it take its time."""
        result = self._tail(job)
        now_s = self._clock.now
        end_s = now_s + self._seconds(job)
        self._trace.span(SERVER, type(job).__name__, now_s, end_s)
        if isinstance(job, TailStep):
            for client, _, _ in job.batches:
                lane = self._trace.lane(client)
                if lane is not None:
                    self._trace.span(lane, "queue", self._waiting_since_s.get(client, now_s), now_s)
                    self._trace.span(lane, "tail", now_s, end_s)
        self._clock.at(end_s, self._computed, job, result)

    def _computed(self, job: TailJob, result: TailResult | Future[TailResult]) -> None:
        self._server.feed(ComputeDone(job, settled(result)))

    def _seconds(self, job: TailJob) -> float:
        match job:
            case TailStep(batches=batches):
                samples = sum(message.count for _, message, _ in batches)
                return self._model.tail_batch_s + samples * self._model.tail_sample_s
            case TailUpdate():
                return self._model.update_s
            case CloseRound():
                return self._model.close_s
            case _:
                return 0.0
