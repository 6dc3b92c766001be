"""How a fleet connects, and what the server says to all: those at rest do and hear it at once, as arrays."""

from collections import defaultdict
from collections.abc import Container
from typing import Literal

import numpy as np

from sim.network.broker import VirtualBroker
from sim.network.clock import Clock
from sim.network.endpoint import InFlight
from sim.network.links.many_links import Columns, Numbers
from sim.simulation.ahead.device import Device, Keeper
from sim.simulation.ahead.greeting import can_greet, greet
from sim.simulation.ahead.rest import Rest
from sim.simulation.ahead.states import State, state_of
from sim.simulation.ahead.talk import Places
from sim.simulation.devices import GetsOn

MOST_AT_ONCE = 1_000
"""So many devices connect in one event: between two events it is looked whether somebody asks to stop."""


class Told:
    """What k devices at rest hear that are alike, on one kind of link.

    Args:
        told: the message.
        columns: of the devices in the tables.
        began_s: when it began to leave for each, shape (k,).
        heard_s: when it is heard.
        after: the state of each state machine after that; None if devices have something to say then.

    Attributes:
        columns: in the order in which they hear, as the times.
        goes_on: who was not woken before.
        counted: so many have heard, as far as that is counted.
    """

    def __init__(
        self, told: InFlight, columns: Columns, began_s: Numbers, heard_s: Numbers, after: State | None
    ) -> None:
        order = np.argsort(heard_s)
        self.told, self.after = told, after
        self.columns, self.began_s, self.heard_s = columns[order], began_s[order], heard_s[order]
        self.goes_on = np.ones(len(order), dtype=bool)
        self.counted = 0
        self._by_number = np.argsort(self.columns)

    @property
    def is_over(self) -> bool:
        """Whether all have heard."""
        return self.counted == len(self.columns)

    def place_of(self, number: int) -> int | None:
        """Give the place of a device that has not heard; None if it has, or is not told."""
        at = int(np.searchsorted(self.columns, number, sorter=self._by_number))
        if at == len(self.columns):
            return None
        place = int(self._by_number[at])
        waits = self.columns[place] == number and place >= self.counted and self.goes_on[place]
        return place if waits else None

    def hears(self, now_s: float) -> Places:
        """Give those who have heard until now, and were not given before."""
        # Those who have something to say are woken when they hear.
        side: Literal["left", "right"] = "left" if self.after is None else "right"
        upto = int(np.searchsorted(self.heard_s, now_s, side=side))
        places = np.arange(self.counted, upto)
        self.counted = max(upto, self.counted)
        return places[self.goes_on[places]]


class ToAll:
    """What happens to the whole fleet at one time, to those at rest.

    Args:
        clock: virtual time.
        broker: of the general way.
        rest: the devices.
        keeper: wakes them.
        at_work: those at work, who hear in the general way.
        working: is told how many have connected.
    """

    def __init__(
        self,
        clock: Clock,
        broker: VirtualBroker,
        rest: Rest,
        keeper: Keeper,
        at_work: Container[int],
        working: GetsOn,
    ) -> None:
        self._clock, self._broker, self._rest, self._keeper = clock, broker, rest, keeper
        self._at_work, self._working = at_work, working
        self._connected = 0
        self._told: list[Told] = []

    def connect(self, numbers: range) -> None:
        """Let devices of one group connect when the run begins."""
        after_s = 5 * self._rest.line_of(numbers[0]).down.latency_s  # see VirtualBroker.connect
        for begin in range(0, len(numbers), MOST_AT_ONCE):
            self._clock.at(after_s, self._subscribed, numbers[begin : begin + MOST_AT_ONCE])

    def _subscribed(self, numbers: range) -> None:
        rest, state = self._rest, self._broker.retained
        self._connected += len(numbers)
        self._working("devices connected:", self._connected, len(rest.numbers))
        if state is not None and can_greet(rest.line_of(numbers[0]), state, self._clock.now):
            greet(rest, numbers, state, self._broker, self._clock)
            return
        with self._clock.together():
            for number in numbers:
                self._broker.subscribe(rest.make(number, self._keeper).endpoint, 1)

    def tell(self, told: InFlight) -> None:
        """Tell a message of the server to all who are not awake."""
        rest, alike = self._rest, defaultdict[tuple[int, int], list[int]](list)
        others: list[int] = []
        for number in rest.numbers.values():
            state = rest.states[number]
            if number in self._at_work:
                others.append(number)
            elif state is not None:
                alike[id(rest.lines[number]), id(state)].append(number)
        for columns in map(np.array, alike.values()):
            can_hear = rest.tables.can_hear(columns, self._clock.now, waits=told.pubacks > 0)
            others += columns[~can_hear].tolist()
            if can_hear.any():
                self._tell(columns[can_hear], told)
        for number in others:
            self._keeper.wake(number)
            self._broker.down(rest.make(number, self._keeper).endpoint, told)

    def _tell(self, columns: Columns, told: InFlight) -> None:
        """Tell it to devices that are alike."""
        rest, first = self._rest, int(columns[0])
        state, path = rest.states[first], rest.line_of(first).down
        assert state is not None
        core, actions = rest.hear(first, state, told.publish.message)
        began_s, _, heard_s = rest.tables.sends(columns, path, self._clock.now, told.wire_bytes)
        rest.tables.is_busy_until(columns, heard_s)
        hears = Told(told, columns, began_s, heard_s, None if actions else rest.known(state_of(core)))
        self._told.append(hears)
        if actions:
            who = zip(hears.heard_s.tolist(), hears.columns.tolist(), strict=True)
            self._clock.in_turn((at_s, self._keeper.wake, (number,)) for at_s, number in who)

    def count(self) -> None:
        """Count in the tables what was heard until now."""
        for told in self._told:
            places, what = told.hears(self._clock.now), told.told
            if not len(places):
                continue
            columns, began_s, heard_s = told.columns[places], told.began_s[places], told.heard_s[places]
            tables, path = self._rest.tables, self._rest.line_of(int(columns[0])).up
            tables.counts(columns, what.on_link.back, what.on_link.there, heard_s)
            tables.up.links.acknowledge(columns, path, began_s, heard_s, what.pubacks)
            if told.after is not None and told.after is not self._rest.states[int(columns[0])]:
                for number in columns.tolist():
                    self._rest.states[number] = told.after
        self._told = [told for told in self._told if not told.is_over]

    def go_on(self, device: Device) -> None:
        """Let a device that is woken hear in the general way what it has not heard."""
        for told in self._told:
            place = told.place_of(device.number)
            if place is not None:
                told.goes_on[place] = False
                began_s, heard_s = float(told.began_s[place]), float(told.heard_s[place])
                endpoint = device.endpoint
                self._clock.at(
                    heard_s, self._broker.at_device, began_s, endpoint, endpoint.session, told.told
                )
