"""Makes the devices of a virtual run: state machine, driver, computer and place in the network."""

import functools
from collections.abc import Callable
from typing import NamedTuple

from broker.wire.messages import Hello
from edge_client.actions import ProtocolWarning
from edge_client.core import ClientCore
from edge_client.jobs import ClientJob, ClientResult, Stock
from scenarios.schema.devices import device_of
from scenarios.schema.links import link_of
from scenarios.schema.scenario import Scenario, client_names, group_of_each
from server_node.vocabulary.plan import Plan
from sim.chrome_trace import Trace
from sim.network.broker import VirtualBroker
from sim.network.clock import Clock
from sim.network.endpoint import Endpoint
from sim.network.links.changing_link import links_of
from sim.simulation.ahead.device import Device, Keeper
from sim.simulation.devices import Computer, make_computer, make_endpoint
from sim.simulation.driver import Actor
from sim.simulation.fleet.energy import Energy
from sim.simulation.fleet.meter import Meter
from sim.simulation.workers import Workers

Warn = Callable[[ProtocolWarning], None]


class Member(NamedTuple):
    """A device without its place in the network."""

    core: ClientCore
    computer: Computer
    actor: Actor[ClientJob, ClientResult, ProtocolWarning]


class Maker:
    """Makes the devices of a fleet, by their numbers in it.

    Args:
        scenario: fleet and network.
        who: does their jobs.
        clock: virtual time.
        trace: takes their spans.
        broker: takes what they say.
        energy: looks at their meters.
        warn: hears what they warn of.
    """

    def __init__(
        self,
        scenario: Scenario,
        who: Workers,
        clock: Clock,
        trace: Trace,
        broker: VirtualBroker,
        energy: Energy,
        warn: Warn,
    ) -> None:
        self._scenario, self._who, self._clock, self._trace = scenario, who, clock, trace
        self._broker, self._energy, self._warn = broker, energy, warn
        self._names, self._groups = client_names(scenario), list(group_of_each(scenario))
        self._hello = functools.cache(functools.partial(_hello, who.plan))

    def hello(self, number: int) -> Hello:
        """Give what a device says of itself."""
        return self._hello(self._who.stocks[number])

    def computer(self, number: int) -> Computer:
        """Give a device its speed."""
        return make_computer(
            self._names[number],
            self._groups[number],
            self._scenario,
            samples=self._who.stocks[number].samples,
            plan=self._who.plan,
            run=self._who.devices[number],
            clock=self._clock,
            trace=self._trace,
        )

    def alike(self, number: int) -> tuple[object, ...]:
        """Give the same for devices that are alike, but for their names."""
        return id(self._groups[number]), self._who.stocks[number].samples, id(self._who.devices[number])

    def member(self, number: int, endpoint: Endpoint) -> Member:
        """Give a device its state machine, speed and meter."""
        computer, power = self.computer(number), device_of(self._groups[number].device).power
        core = ClientCore(self._who.plan.run, endpoint.client, self.hello(number))
        publish = functools.partial(self._broker.publish, endpoint)
        actor = Actor(self._clock, core, publish, computer.compute, self._warn)
        computer.handle = endpoint.handle = actor.feed
        if power is not None:
            self._energy.add(endpoint.client, number, Meter(power, computer, endpoint))
        return Member(core, computer, actor)

    def device(self, number: int, keeper: Keeper) -> Device:
        """Make a device that may be at rest."""
        client, group, scenario = self._names[number], self._groups[number], self._scenario
        links = links_of(link_of(group.link), seed=scenario.seed, owner=client, tcp=scenario.network.tcp)
        endpoint = make_endpoint(client, group, scenario, links, self._trace)
        self._broker.add(endpoint)
        core, computer, actor = self.member(number, endpoint)
        device = endpoint.sleeper = Device(keeper, number, endpoint, core, computer, actor.carry_out)
        return device


def _hello(plan: Plan, stock: Stock) -> Hello:
    return Hello(
        0,
        plan.digest,
        stock.samples,
        package=plan.package,
        model=plan.model,
        held_out=stock.held_out,
        rows=stock.rows,
    )
