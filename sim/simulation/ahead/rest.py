"""Devices at rest: rows of tables. One that does what is not computed ahead is woken: it gets its objects."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from broker.machine.actions import Received
from broker.wire import topics
from broker.wire.messages import Hello, Message
from edge_client.actions import ClientAction
from edge_client.core import ClientCore
from scenarios.schema.scenario import Scenario, client_names
from server_node.vocabulary.plan import Plan
from sim.network.broker import VirtualBroker
from sim.network.clock import Clock
from sim.network.links.many_links import Columns
from sim.simulation.ahead.device import Device, Keeper, Line, line_of
from sim.simulation.ahead.states import State, become, state_of
from sim.simulation.ahead.tables import Tables
from sim.simulation.devices import Computer, groups_of

_MOST_STATES = 256
"""So many states of state machines are told apart; devices of others are not at work together any more."""


class Maker(Protocol):
    """Makes the devices of a fleet, by their numbers in it."""

    def device(self, number: int, keeper: Keeper) -> Device:
        """Make a device's objects."""

    def computer(self, number: int) -> Computer:
        """Make what does its jobs, alone."""

    def hello(self, number: int) -> Hello:
        """Give what it says of itself; the same object to those who say the same."""

    def alike(self, number: int) -> tuple[object, ...]:
        """Give the same for devices that are alike, but for their names."""


class Rest:
    """All devices of a fleet that may be at rest, by their numbers; these are their columns in the tables.

    Args:
        clock: virtual time.
        broker: of the general way.
        scenario: fleet and network.
        plan: says what each has of the head.
        maker: makes devices.

    Attributes:
        names: of all clients.
        lines: of those that may be at rest; None for others.
        states: of the state machines of those that are at rest; None: its objects are what it is.
        kinds: the same for devices that take the same time for the same work; 0: not known yet.
        numbers: by the topic on which each hears the server.
        awake: those that have objects; of one at rest these are what it was before.
    """

    def __init__(
        self, clock: Clock, broker: VirtualBroker, scenario: Scenario, plan: Plan, maker: Maker
    ) -> None:
        self._clock, self._broker, self._scenario, self._maker = clock, broker, scenario, maker
        self.run = plan.run
        self.names = client_names(scenario)
        lines = [(line_of(group), group.size) for group in scenario.fleet]
        self.lines = [line for line, size in lines for _ in range(size)]
        numbers = [number for number, line in enumerate(self.lines) if line is not None]
        self.numbers = {topics.down(self.run, self.names[number]): number for number in numbers}
        lanes = ((number, broker.trace.lane(self.names[number])) for number in numbers)
        self._lanes = {number: lane for number, lane in lanes if lane is not None}
        self.states: list[State | None] = [None] * len(self.names)
        self.kinds = [0] * len(self.names)
        self.awake: dict[int, Device] = {}
        self.tables = Tables(len(self.names), broker.network_stats, scenario.network.broker)
        self._kinds: dict[tuple[object, ...], int] = {}
        self._alike: dict[tuple[object, ...], int] = {}
        self._computers: list[Computer] = []
        self._shown: dict[int, Computer] = {}
        self._known: dict[tuple[object, ...], State] = {}
        self._columns = np.array(numbers, dtype=np.int64)

    def groups(self) -> Iterator[range]:
        """Give the numbers of each group of devices that may be at rest."""
        return (numbers for _, numbers in groups_of(self._scenario) if self.lines[numbers[0]] is not None)

    def line_of(self, number: int) -> Line:
        """Give the kind of link of a device that may be at rest."""
        line = self.lines[number]
        assert line is not None
        return line

    def hello_of(self, number: int) -> Hello:
        """Give what a device says of itself."""
        return self._maker.hello(number)

    def shown_of(self, numbers: Sequence[int]) -> dict[int, int]:
        """Give the places, of some devices, of those that the trace shows, with its lanes."""
        lanes = self._lanes
        return {place: lanes[number] for place, number in enumerate(numbers) if number in lanes}

    def begin(self, columns: Columns, state: State) -> None:
        """Let devices on one kind of link be at rest, with new links and state machines in some state."""
        numbers = columns.tolist()
        names = [self.names[number] for number in numbers]
        self.tables.begin(columns, self.line_of(numbers[0]), names, self._scenario.seed)
        for number in numbers:
            self.states[number] = state
            self.kind_of(number)  # noted now, where all are looked at anyway

    # Objects.

    def make(self, number: int, keeper: Keeper) -> Device:
        """Give the objects of a device that has some, or make them."""
        device = self.awake.get(number)
        if device is None:
            device = self.awake[number] = self._maker.device(number, keeper)
            device.endpoint.session = 1  # it connects when the run begins, and never again
        return device

    def wake(self, device: Device) -> None:
        """Let the objects of a device at rest be what it is."""
        state, endpoint = self.states[device.number], device.endpoint
        assert state is not None
        self.states[device.number] = None
        self.tables.give(device.number, device, self._clock.now)
        become(device.core, state)
        endpoint.connection = 1
        endpoint.online = endpoint.subscribed = endpoint.will = True
        endpoint.at_work.add(endpoint)

    def lie_down(self, devices: Sequence[Device]) -> None:
        """Let devices be at rest."""
        if not devices:
            return
        columns = np.array([device.number for device in devices])
        self.tables.take(columns, devices, self._clock.now)
        for device in devices:
            self.states[device.number] = self.known(state_of(device.core))

    def known(self, state: State) -> State:
        """Give the same tuple for the same state: who shares one does the same when it hears the same."""
        key = id(state[0]), *state[1:]  # the first one is the answer, which may be long
        if key not in self._known:
            if len(self._known) >= _MOST_STATES:
                self._known.clear()
            self._known[key] = state
        return self._known[key]

    # What devices do.

    def kind_of(self, number: int) -> int:
        """Number what devices have in common that take the same time for the same work; 0: not known yet."""
        device = self.awake.get(number)
        if device is not None:
            kind = self._kind(number, device.computer)
        else:
            alike = self._maker.alike(number)
            if alike not in self._alike:
                self._alike[alike] = self._kind(number, self._maker.computer(number))
            kind = self._alike[alike]
        self.kinds[number] = kind
        return kind

    def _kind(self, number: int, computer: Computer) -> int:
        if computer.slowdown.constant is None:
            return 0
        likeness = self.lines[number], computer.work, computer.slowdown.constant, computer.run
        kind = self._kinds.setdefault(likeness, len(self._kinds) + 1)
        if kind > len(self._computers):
            self._computers.append(computer)
        return kind

    def computer_of(self, kind: int) -> Computer:
        """Give what does the jobs of devices of a kind."""
        return self._computers[kind - 1]

    def shown_computer(self, number: int) -> Computer:
        """Give what does the jobs of a device that the trace shows."""
        if number not in self._shown:
            self._shown[number] = self._maker.computer(number)
        return self._shown[number]

    def core_of(self, number: int, state: State | None = None) -> ClientCore:
        """Give a state machine like that of a device: new, or in a state."""
        core = ClientCore(self.run, self.names[number], self.hello_of(number))
        if state is not None:
            become(core, state)
        return core

    def hear(self, number: int, state: State, message: Message) -> tuple[ClientCore, list[ClientAction]]:
        """Give the state machine of a device in some state that has heard a message, and what it asks for."""
        core = self.core_of(number, state)
        return core, core.handle(Received("", message, 0), self._clock.now)

    def connected(self) -> Columns:
        """Give the columns of those that are at rest."""
        states = self.states
        return self._columns[[states[number] is not None for number in self._columns.tolist()]]
