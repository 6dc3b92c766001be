"""The devices of a simulated run: their place in the network, and how long their jobs take."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future

from broker.machine.actions import ComputeDone
from broker.wire.messages import Features
from edge_client.jobs import (
    BackwardStep,
    ClientJob,
    ClientResult,
    FirstBatch,
    HeldOutBatch,
    LookAtData,
    TopStep,
)
from scenarios.schema.devices import device_of
from scenarios.schema.links import link_of
from scenarios.schema.network import SERVER, Always, FleetGroup
from scenarios.schema.scenario import Scenario, client_names, group_of_each
from server_node.vocabulary.plan import Plan
from sim.chrome_trace import Trace
from sim.network.broker_queues import Window
from sim.network.clock import Clock
from sim.network.endpoint import Endpoint, Handle
from sim.network.links.access_point import bottlenecks_of, sends_segments
from sim.network.links.changing_link import links_of
from sim.network.links.link import TcpLink
from sim.network.links.shared_link import SharedTcpLink, shared
from sim.simulation.fleet.device_model import Phase, SlowdownSampler, Work, fedavg_work_of, of_share, work_of
from sim.simulation.recorder import RunJob

GetsOn = Callable[[str, int, int], bool]
"""Is told from time to time what is done, how much of it, and of how much (0: not known); says whether that
goes on, or somebody has asked to stop."""


def looks(done: int) -> bool:
    """Say whether it is time to tell of that, with so much done: each thousandth device."""
    return done > 0 and done % 1_000 == 0


class Computer:
    """Does a device's jobs at once, and hands over each result when its time has passed.

    Args:
        clock: virtual time.
        run: does a job, at once.
        work: seconds of each kind of job.
        slowdown: draws the factor on these seconds.
        trace: takes the spans.
        lane: of the trace, if the device has one.

    Attributes:
        handle: takes the results.
        busy_s: how long it has computed; a job counts as a whole when it begins.
    """

    __slots__ = ("_clock", "_lane", "_trace", "busy_s", "handle", "run", "slowdown", "work")

    def __init__(
        self,
        clock: Clock,
        run: RunJob[ClientJob, ClientResult],
        work: Work,
        slowdown: SlowdownSampler,
        trace: Trace,
        lane: int | None,
    ) -> None:
        self._clock = clock
        self.run = run
        self.work = work
        self.slowdown = slowdown
        self._trace = trace
        self._lane = lane
        self.busy_s = 0.0
        self.handle: Handle = lambda _: None

    def compute(self, job: ClientJob) -> None:
        """Take a job of the device's state machine."""
        result = self.run(job)
        now_s = self._clock.now
        done_s = self.show(job, now_s, self.slowdown.factor())
        self.busy_s += done_s - now_s
        self._clock.at(done_s, self.done, job, result)

    def show(self, job: ClientJob, time_s: float, factor: float) -> float:
        """Put a job that begins at a time on the trace, if that shows the device; say when it is done."""
        for name, seconds in self.phases(job):
            begun_s = time_s
            time_s += seconds * factor
            if self._lane is not None:
                self._trace.span(self._lane, name, begun_s, time_s)
        return time_s

    def phases(self, job: ClientJob) -> tuple[Phase, ...]:
        """Give what it does for a job, and how long that takes without slowdown."""
        work = self.work
        if isinstance(job, FirstBatch):
            trains = work.start if job.assignment.steps else work.alone
            return work.evaluate if job.assignment.first_step else trains
        if isinstance(job, BackwardStep):
            return work.finish if job.last else work.learn
        match job:
            case HeldOutBatch(features=Features()):
                return work.top + work.evaluate  # after the last features there is no batch; they are few
            case HeldOutBatch():
                return work.evaluate
            case TopStep():
                return work.top
            case LookAtData():
                return ()  # in virtual time no data change

    def done(self, job: ClientJob, result: ClientResult | Future[ClientResult]) -> None:
        """Hand over what a job came to."""
        self.handle(ComputeDone(job, result.result() if isinstance(result, Future) else result))


def kinds_of(scenario: Scenario) -> list[str]:
    """Say what each client is, in the order of the fleet."""
    return [group.kind for group in group_of_each(scenario)]


def server_links(scenario: Scenario) -> tuple[TcpLink, TcpLink]:
    """Give the link between server and broker, up and down."""
    network = scenario.network
    return links_of(link_of(network.server.link), seed=scenario.seed, owner=SERVER, tcp=network.tcp)


def make_endpoints(
    scenario: Scenario,
    clock: Clock,
    trace: Trace,
    working: GetsOn = lambda *_: True,
    wanted: Callable[[FleetGroup], bool] = lambda _: True,
) -> dict[str, Endpoint]:
    """Give the clients of wanted groups their links, behind their access points; fewer if it is stopped."""
    by_segments = {group.via for group in scenario.fleet if sends_segments(link_of(group.link))}
    access_points = {
        name: bottlenecks_of(
            clock, point, seed=scenario.seed, owner=f"access point {name}", by_segments=name in by_segments
        )
        for name, point in scenario.network.access_points.items()
    }
    endpoints: dict[str, Endpoint] = {}
    names = client_names(scenario)
    for group, number in members_of(scenario, wanted):
        if looks(len(endpoints)) and not working("links made:", len(endpoints), scenario.fleet_size):
            break
        client = names[number]
        own = links_of(link_of(group.link), seed=scenario.seed, owner=client, tcp=scenario.network.tcp)
        links = own if group.via is None else shared(clock, own, access_points[group.via])
        endpoints[client] = make_endpoint(client, group, scenario, links, trace)
    return endpoints


def groups_of(scenario: Scenario) -> Iterator[tuple[FleetGroup, range]]:
    """Give the groups of a fleet, each with the places of its clients in `client_names`."""
    end = 0
    for group in scenario.fleet:
        begin, end = end, end + group.size
        yield group, range(begin, end)


def members_of(scenario: Scenario, wanted: Callable[[FleetGroup], bool]) -> Iterator[tuple[FleetGroup, int]]:
    """Give the places of all clients of wanted groups, each with its group; a fleet may be large."""
    for group, numbers in groups_of(scenario):
        if wanted(group):
            for number in numbers:
                yield group, number


def make_endpoint(
    client: str,
    group: FleetGroup,
    scenario: Scenario,
    links: tuple[TcpLink | SharedTcpLink, TcpLink | SharedTcpLink],
    trace: Trace,
) -> Endpoint:
    """Give a client its place in the network, with its links up and down."""
    up, down = links
    return Endpoint(
        client,
        up,
        down,
        Window(scenario.network.broker),
        leaves=not isinstance(group.availability, Always) or group.battery is not None,
        lane=trace.lane(client),
        keepalive_s=scenario.network.broker.keepalive_s,
    )


def make_computer(
    client: str,
    group: FleetGroup,
    scenario: Scenario,
    *,
    samples: int,
    plan: Plan,
    run: RunJob[ClientJob, ClientResult],
    clock: Clock,
    trace: Trace,
) -> Computer:
    """Give a client its speed.

    Args:
        client: its name.
        group: what it is.
        scenario: seed, batch size and method.
        samples: that it has.
        plan: says what it has of the head.
        run: does its jobs.
        clock: virtual time.
        trace: takes the spans.
    """
    profile, batch = device_of(group.device), min(samples, scenario.task.batch_size)
    if scenario.training.method == "fedavg":
        work = fedavg_work_of(profile, batch, scenario.training.local_steps)
    else:
        own = of_share(profile, plan.share_of(client), plan.whole_head)
        work = work_of(own, batch, plan.local_steps)
    slowdown = SlowdownSampler(group.slowdown, seed=scenario.seed, client=client)
    return Computer(clock, run, work, slowdown, trace, trace.lane(client))
