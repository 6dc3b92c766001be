"""A whole run in virtual time: the state machines of a live run, over a modelled network.

No protocol decision is made here. sim.simulation.driver drives the state machines, sim.network.broker carries
their messages, and here jobs take the time that the scenario gives to device and server.
"""

import functools
import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future

from broker.exits import STOPPED
from broker.machine.actions import ComputeDone, Online, Received, StopAsked
from broker.stopping import Stop
from broker.wire.messages import BatchUp, HeadUpdate
from edge_client.actions import ClientEvent, ProtocolWarning
from edge_client.observer import log_warning
from scenarios.schema.devices import device_of
from scenarios.schema.network import Always, FleetGroup
from scenarios.schema.scenario import Scenario, client_names
from server_node.protocol.core import ServerCore
from server_node.vocabulary.jobs import TailForward, TailJob, TailResult, TailStep
from server_node.vocabulary.ledger import Ledger
from server_node.vocabulary.reports import Fact, RoundReport
from sim.chrome_trace import SERVER, Trace
from sim.network.availability import presence
from sim.network.broker import VirtualBroker
from sim.network.clock import Clock
from sim.network.csv_inputs import Interval
from sim.network.endpoint import Endpoint, Handle, NetworkStats
from sim.simulation.ahead.ahead import Ahead, Answer
from sim.simulation.ahead.device import line_of
from sim.simulation.ahead.rest import Rest
from sim.simulation.devices import GetsOn, looks, make_endpoints, members_of, server_links
from sim.simulation.driver import Actor
from sim.simulation.fleet.energy import Energy, Used
from sim.simulation.fleet.making import Maker
from sim.simulation.fleet.supply import Supply
from sim.simulation.server_times import ServerTimes
from sim.simulation.workers import Workers, settled

Act = Callable[[], None]

MOST_AT_ONCE = 1_000
"""So many devices connect in one event: between two events it is looked whether somebody asks to stop."""

EVENTS_A_LOOK = 2**16
"""From one word about how a fleet gathers to the next."""

STANDSTILL_S = 7 * 86_400.0
"""Watchdog: stop the run if no round has closed within the last 7 virtual days (checked every 7 days)."""


class VirtualRun:
    """A server, a broker and a fleet in virtual time.

    Args:
        scenario: fleet and network.
        who: does the jobs.
        clock: virtual time.
        ledger: counts the messages.
        trace: takes the spans.
        report: hears the facts of the server's state machine; what devices warn of is logged.
        remember: hears them instead while the run is repeated, and devices are not heard.
        working: hears how it gets on where that takes long, see GetsOn.

    Attributes:
        events: that have happened.
        rounds: that have ended.
        energy: what the devices draw.
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
        remember: Callable[[Fact], None] = lambda _fact: None,
        working: GetsOn = lambda *_: True,
    ) -> None:
        self._clock = clock
        self._trace = trace
        self._tail = who.tail
        self._seconds = ServerTimes(scenario, who.plan).seconds
        self._waiting_since_s: dict[str, float] = {}  # traced clients' activations at the server
        self._report = report
        self._remember = remember
        self._working = working
        self._repeats = False
        self.events = self.rounds = 0
        plan = who.plan
        server_up, server_down = server_links(scenario)
        self._broker = VirtualBroker(
            clock,
            scenario.network.broker,
            run=plan.run,
            server_up=server_up,
            server_down=server_down,
            trace=trace,
            packet_bytes=plan.packet_bytes,
        )
        self._broker.to_server = self._arrived
        powers = [(device_of(group.device).power, group.size) for group in scenario.fleet]
        self.energy = Energy(clock, powers, plan.clients, self._at_work)
        self._maker = Maker(scenario, who, clock, trace, self._broker, self.energy, self._on_warning)
        publish = self._broker.publish_from_server
        self._ahead: Ahead | None = None
        self._core = ServerCore(plan, ledger)
        if who.learners is None and not self._broker.takes_time:
            rest = Rest(clock, self._broker, scenario, plan, self._maker)
            self._ahead = Ahead(clock, self._broker, rest, self._answers_come, self._waiting_since_s, working)
            publish = self._ahead.publish
        self._server = Actor(clock, self._core, publish, self._compute, self._on_report)
        clock.at(0.0, self._server.feed, Online())
        clock.at(STANDSTILL_S, self._watchdog, 0)
        self._comes_at_once: list[Endpoint] = []
        self._add_devices(scenario, working)
        self._connect_those()

    @property
    def network_stats(self) -> NetworkStats:
        """What the network did until now."""
        if self._ahead is not None:
            self._ahead.count_pings()
        for endpoint in self._broker.endpoints:
            endpoint.count_pings(self._clock.now)
        return self._broker.network_stats

    @property
    def link_bytes(self) -> tuple[int, int]:
        """Bytes on the devices' links, up and down, but for the pings of silences that go on."""
        if self._ahead is not None:
            self._ahead.bring_up_to_date()
        stats = self._broker.network_stats
        return stats.uplink_bytes, stats.downlink_bytes

    def _at_work(self) -> tuple[Iterator[str], Used | None]:
        used = None if self._ahead is None else self._ahead.used()
        return self._broker.at_work(), used

    @property
    def now_s(self) -> float:
        """Virtual time."""
        return self._clock.now

    @property
    def reason(self) -> str | None:
        """Why the server is done; None while it is not."""
        return self._server.reason

    def to_its_end(self, stop: Stop, between: Callable[[bool], None] | None = None) -> str:
        """Let time pass until the server is done, or somebody stops it; say why it ended.

        Args:
            stop: whether somebody asks to.
            between: is called after each event; told whether the run stops there.
        """
        step = self._clock.step
        while self._server.reason is None:
            step()
            self.events += 1
            if not self.events % EVENTS_A_LOOK and not self._core.online:
                self._working(f"{self._clock.now:.2f} s of virtual time, events:", self.events, 0)
            stops = stop.asked  # looked at once: it may be set at any moment
            if between is not None:
                between(stops)
            if stops:
                self._server.feed(StopAsked(STOPPED))
        return self._server.reason

    def repeat(self, events: int) -> None:
        """Let so many events happen again, of which everybody has heard; fewer if the server is done then."""
        self._repeats = True
        while self.events < events and self._server.reason is None:
            self._clock.step()
            self.events += 1
        self._repeats = False

    def _on_report(self, fact: Fact) -> None:
        self.rounds += isinstance(fact, RoundReport)
        (self._remember if self._repeats else self._report)(fact)

    def _on_warning(self, warning: ProtocolWarning) -> None:
        if not self._repeats:
            log_warning(warning)

    def _watchdog(self, rounds: int) -> None:
        """End a run that has come to a standstill, such as one whose devices have all left for good."""
        if self.rounds == rounds:
            self._server.feed(StopAsked(f"no round has ended in {STANDSTILL_S:.0f} virtual seconds"))
        self._clock.at(self._clock.now + STANDSTILL_S, self._watchdog, self.rounds)

    def _add_devices(self, scenario: Scenario, working: GetsOn) -> None:
        """Make the devices that are not at rest, and let them connect when they are there."""
        rest, names = self._ahead is not None, client_names(scenario)

        def is_awake(group: FleetGroup) -> bool:
            return not rest or line_of(group) is None

        endpoints = make_endpoints(scenario, self._clock, self._trace, working, is_awake)
        for made, (group, number) in enumerate(members_of(scenario, is_awake)):
            endpoint = endpoints.get(names[number])  # None: somebody has stopped it
            if endpoint is None or (looks(made) and not working("devices made:", made, len(endpoints))):
                break
            self._add_device(endpoint, group, number, scenario.seed)

    def _add_device(self, endpoint: Endpoint, group: FleetGroup, number: int, seed: int) -> None:
        """Make a device, and let it connect when it is there."""
        self._broker.add(endpoint)
        client, (_, computer, actor) = endpoint.client, self._maker.member(number, endpoint)
        come: Act = functools.partial(self._broker.connect, endpoint)
        go: Act = functools.partial(self._broker.lose, endpoint)
        meter = self.energy.meters.get(client)
        if meter is not None and group.battery is not None:
            supply = self.energy.supplies[client] = Supply(self._clock, group.battery, meter, come, go)
            computer.handle = endpoint.handle = functools.partial(_feed_and_look, actor.feed, supply)
            come, go = supply.appear, supply.vanish
        if group.battery is None and isinstance(group.availability, Always):
            self._comes_at_once.append(endpoint)
            if len(self._comes_at_once) == MOST_AT_ONCE:
                self._connect_those()
            return
        self._connect_those()  # the order is that of the fleet
        self._connect_at(come, go, presence(group.availability, seed=seed, client=client))

    def _connect_those(self) -> None:
        """Let devices that are always there connect when the run begins: so many in one event."""
        if self._comes_at_once:
            self._clock.at(0.0, self._broker.connect, *self._comes_at_once)
            self._comes_at_once.clear()

    def _connect_at(self, come: Act, go: Act, intervals: Iterator[Interval]) -> None:
        """Let a device appear and vanish as its intervals say."""
        for from_s, to_s in intervals:
            self._clock.at(from_s, come)
            if math.isfinite(to_s):
                self._clock.at(to_s, self._disconnect, come, go, intervals)
            return

    def _disconnect(self, come: Act, go: Act, intervals: Iterator[Interval]) -> None:
        go()
        self._connect_at(come, go, intervals)

    def _arrived(self, received: Received) -> None:
        if self._trace.lane(received.sender) is not None and isinstance(
            received.message, BatchUp | HeadUpdate
        ):
            self._waiting_since_s[received.sender] = self._clock.now
        self._server.feed(received)

    def _answers_come(self, answers: Iterator[Answer]) -> bool:
        """Hand answers to the server until it has something to do; say whether it goes on after that."""
        self._server.carry_out(self._core.take_answers(answers))
        return self._server.reason is None

    def _compute(self, job: TailJob) -> None:
        """Do a job of the server, and let it take its time."""
        result = self._tail(job)
        now_s = self._clock.now
        end_s = now_s + self._seconds(job)
        self._trace.span(SERVER, type(job).__name__, now_s, end_s)
        if isinstance(job, TailForward | TailStep):
            for client, message in job.waited.items():
                lane = self._trace.lane(client)
                if lane is not None:
                    self._trace.span(lane, "queue", self._waiting_since_s.get(client, now_s), now_s)
                    self._trace.span(lane, "tail", now_s, end_s, round=message.round, step=message.step)
        self._clock.at(end_s, self._computed, job, result)

    def _computed(self, job: TailJob, result: TailResult | Future[TailResult]) -> None:
        self._server.feed(ComputeDone(job, settled(result)))


def _feed_and_look(feed: Handle, supply: Supply, event: ClientEvent) -> None:
    """Hand an event to a device, and look what that has left in its battery."""
    feed(event)
    supply.look()
