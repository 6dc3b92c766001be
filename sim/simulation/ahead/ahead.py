"""Computes what many devices will answer, when the server says the same to all of them.

Between the server's message and a device's answer nothing of others matters on a link of its own. So all of
that is computed at once, for a whole cohort as arrays. What happens next is the answer's arrival at the
broker. The same state machines decide, once for all devices that have heard and said the same. The times are
the same to the last bit: sim.network.links.many_links does for many links what TcpLink does for one.

Not every device has such a link, and something else may be said to one that is at work. Then it is woken: its
objects become what it is at that time, and the general way goes on from there, with sim.network.broker and
the device's own Computer.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from broker.machine.actions import Compute, ComputeDone, Publish, Received
from broker.wire.messages import Assignment, BatchUp, Features, Gradient, HeadUpdate, Message
from edge_client.jobs import ClientJob
from sim.network.broker import VirtualBroker
from sim.network.clock import Clock
from sim.network.endpoint import Endpoint, InFlight
from sim.network.showing import show
from sim.simulation.ahead.counting import count
from sim.simulation.ahead.device import Device
from sim.simulation.ahead.rest import Rest
from sim.simulation.ahead.states import State, state_of
from sim.simulation.ahead.talk import Talk, job_of
from sim.simulation.ahead.telling_all import ToAll
from sim.simulation.devices import GetsOn
from sim.simulation.fleet.energy import Used

LEAST = 12
"""So many devices must be told the same at once: for fewer ones arrays cost more than they save."""

_TO_COMPUTE = (Assignment, Gradient, Features)
"""Messages that a device answers when it has computed."""

Answer = tuple[str, Message, int, float]
"""What arrives at the server: whose, what, bytes of its MQTT packets, and when."""


class _Asked(NamedTuple):
    """Somebody who was told something a moment ago: that is not computed yet."""

    number: int
    publish: Publish
    state: State
    kind: int


class _Follows(NamedTuple):
    """What follows from what a device is told: its job, its answer, and what its state machine is then."""

    job: ClientJob
    answer: Publish
    after: State


class Ahead:
    """All devices whose answers may be computed ahead.

    Args:
        clock: virtual time.
        broker: of the general way.
        rest: the devices.
        take: hands answers to the server, until it has something to do; false when it is done.
        waiting_since_s: is told when an answer came, of clients that the trace shows.
        working: is told how far the fleet has come.
    """

    def __init__(
        self,
        clock: Clock,
        broker: VirtualBroker,
        rest: Rest,
        take: Callable[[Iterator[Answer]], bool],
        waiting_since_s: dict[str, float],
        working: GetsOn,
    ) -> None:
        self._clock, self._broker, self._rest = clock, broker, rest
        self._take = take
        self._waiting_since_s = waiting_since_s
        self._asked: list[_Asked] = []
        self._at: dict[int, Talk | None] = {}  # by number, of devices at work; None: asked a moment ago
        self._talks: dict[Talk, None] = {}
        self._to_all = ToAll(clock, broker, rest, self, self._at, working)
        broker.find, broker.tell_others = self._find, self._to_all.tell
        for numbers in rest.groups():
            self._to_all.connect(numbers)

    def _find(self, topic: str) -> Endpoint:
        return self._rest.make(self._rest.numbers[topic], self).endpoint

    def publish(self, publish: Publish) -> None:
        """Take a message of the server."""
        rest, message = self._rest, publish.message
        number = rest.numbers.get(publish.topic)
        if number is None or number in self._at or not isinstance(message, _TO_COMPUTE):
            self._broker.publish_from_server(publish)
            return
        state, kind = rest.states[number] or self._rests_soon(number), rest.kinds[number]
        if state is None or not (kind or rest.kind_of(number)):
            self._broker.publish_from_server(publish)
            return
        if not self._asked:
            self._clock.at(self._clock.now, self.tell)
        self._at[number] = None
        self._asked.append(_Asked(number, publish, state, rest.kinds[number]))

    def _rests_soon(self, number: int) -> State | None:
        """Give the state of a device that is awake, if it may be at rest."""
        device = self._rest.awake.get(number)
        may_rest = device is not None and device.may_rest(self._clock.now)
        return self._rest.known(state_of(device.core)) if device is not None and may_rest else None

    def tell(self) -> None:
        """Let what was said at this time be heard and answered."""
        self.bring_up_to_date()
        asked, self._asked = self._asked, []
        follows: dict[tuple[int, ...], _Follows | None] = {}
        alike: dict[tuple[int, ...], tuple[_Follows, list[_Asked]]] = {}
        for each in asked:
            number, publish, state, kind = each
            del self._at[number]
            told = id(publish.message), kind, len(publish.topic)
            hears = *told, id(state)
            if hears not in follows:
                follows[hears] = self._follows(each)
            what = follows[hears]
            if what is None:
                self._broker.publish_from_server(publish)
            else:
                alike.setdefault((*told, id(what.after)), (what, []))[1].append(each)
        for what, some in alike.values():
            if len(some) < LEAST or not self._talk(some, what):
                for each in some:
                    self._broker.publish_from_server(each.publish)

    def _follows(self, asked: _Asked) -> _Follows | None:
        """Give what follows from what a device is told, if it is a job alone."""
        rest = self._rest
        core, actions = rest.hear(asked.number, asked.state, asked.publish.message)
        job = job_of(actions)
        if job is None:
            return None
        result = rest.computer_of(asked.kind).run(job)
        assert isinstance(result, BatchUp | HeadUpdate)
        (answer,) = core.handle(ComputeDone(job, result), self._clock.now)
        assert isinstance(answer, Publish)
        return _Follows(job, answer, rest.known(state_of(core)))

    def _talk(self, asked: Sequence[_Asked], what: _Follows) -> bool:
        """Compute what devices that are alike hear of one message, and answer; false if they cannot rest."""
        rest, tables, now_s = self._rest, self._rest.tables, self._clock.now
        numbers = [each.number for each in asked]
        rest.lie_down([rest.awake[number] for number in numbers if rest.states[number] is None])
        columns, line = np.array(numbers), rest.line_of(numbers[0])
        told = self._broker.put_in_flight(asked[0].publish)
        if not tables.can_hear(columns, now_s, waits=told.pubacks > 0).all():
            return False
        began_s, _, heard_s = tables.sends(columns, line.down, now_s, told.wire_bytes)
        before = tables.up.copy(columns)
        tables.up.links.acknowledge(columns, line.up, began_s, heard_s, told.pubacks)
        computer, done_s = rest.computer_of(asked[0].kind), heard_s
        factor = computer.slowdown.factor()
        for _, seconds in computer.phases(what.job):
            done_s = done_s + seconds * factor
        answer = self._broker.put_in_flight(what.answer)
        went = tables.up.carry(columns, line.up, done_s, answer.wire_bytes)
        heard, shown = (began_s, heard_s, done_s), rest.shown_of(numbers)
        talk = Talk(numbers, told, what.job, answer, what.after, heard, went, before, asked[0].kind, shown)
        self._at.update(dict.fromkeys(numbers, talk))
        self._talks[talk] = None
        self._clock.at(talk.next_s, self._arrive, talk)
        return True

    def _arrive(self, talk: Talk) -> None:
        """Let one answer after the other arrive, until something else comes before the next one."""
        while self._take(self._coming(talk)) and not talk.is_over:
            if not self._clock.passes_to(talk.next_s):
                self._clock.at(talk.next_s, self._arrive, talk)
                return

    def _coming(self, talk: Talk) -> Iterator[Answer]:
        """Give the answer that arrives now, and those to come before anything else happens."""
        numbers, times, passes_to = talk.numbers, talk.times_s, self._clock.passes_to
        wire_bytes, last = talk.answer.wire_bytes, len(talk.order)
        at, states, names = self._at, self._rest.states, self._rest.names
        after, result = talk.after, talk.result
        while True:
            place, at_s = talk.order[talk.next], times[talk.next]
            talk.next += 1
            number = numbers[place]
            if at.get(number) is talk:  # else it was woken
                del at[number]
                states[number] = after
                if place in talk.traced:
                    self._waiting_since_s[names[number]] = at_s
                yield names[number], result, wire_bytes, at_s
            if talk.next == last or not passes_to(times[talk.next]):
                return

    # What is counted.

    def used(self) -> Used:
        """Count what devices have heard, computed and sent until now; give what those at rest have used."""
        self.bring_up_to_date()
        return self._rest.tables.used()

    def count_pings(self) -> None:
        """Count the pings of silences that go on."""
        self.bring_up_to_date()
        self._rest.tables.count_pings(self._rest.connected(), self._clock.now)

    def bring_up_to_date(self) -> None:
        """Count in the tables what devices have heard, computed and sent until now."""
        self._to_all.count()
        for talk in list(self._talks):
            count(talk, self._rest, self._broker.trace, self._clock.now)
            if talk.is_over:
                del self._talks[talk]

    # How a device is woken.

    def rests(self, number: int) -> bool:
        """Do as Keeper.rests."""
        return self._rest.states[number] is not None

    def wake(self, number: int) -> None:
        """Do as Keeper.wake."""
        rest = self._rest
        if number in self._at and self._at[number] is None:
            self.tell()
        state = rest.states[number]
        if state is None:
            return
        self.bring_up_to_date()
        device, talk = rest.make(number, self), self._at.pop(number, None)
        rest.wake(device)
        self._to_all.go_on(device)
        if talk is not None:
            self._go_on(device, talk)

    def _go_on(self, device: Device, talk: Talk) -> None:
        """Let happen in the general way what is to come of a talk."""
        place, endpoint, tables = talk.places[device.number], device.endpoint, self._rest.tables
        talk.goes_on[place] = False
        began_s, heard_s, done_s, left_s = (
            float(times[place]) for times in (talk.began_s, talk.heard_s, talk.done_s, talk.left_s)
        )
        received = Received("", talk.told.publish.message, talk.told.wire_bytes)
        job = job_of(device.core.handle(received, heard_s))
        assert job is not None
        if talk.sent[place]:
            (publish,) = device.core.handle(ComputeDone(job, talk.result), done_s)
            assert isinstance(publish, Publish)
            answer = msgspec.structs.replace(talk.answer, publish=publish, asked_s=done_s)
            endpoint.until_s = float(talk.arrival_s[place])
            self._clock.at(
                endpoint.until_s, self._broker.at_broker, left_s, endpoint, endpoint.session, answer
            )
            return
        tables.up.give(device.number, device.up, talk.uplinks.of(place))
        if talk.heard[place]:
            device.up.acknowledge(began_s, heard_s, talk.told.pubacks)
            self._clock.at(done_s, device.computer.done, job, talk.result)
        else:
            endpoint.until_s = heard_s
            self._clock.at(heard_s, self._hears, device, talk.told, began_s, job)

    def _hears(self, device: Device, told: InFlight, begun_s: float, job: ClientJob) -> None:
        """Let a message arrive that the state machine of a device knows already; it asks for a job."""
        endpoint, now_s = device.endpoint, self._clock.now
        endpoint.counts(told.on_link.back, told.on_link.there, now_s)
        if endpoint.lane is not None:
            show(self._broker.trace, endpoint.lane, "downlink", told, begun_s, now_s)
        device.up.acknowledge(begun_s, now_s, told.pubacks)
        device.act([Compute(job)])
