"""Computes what many devices will answer, when the server says the same to all of them.

Between the server's message and a device's answer nothing of others matters on a link of its own. So all of
that is computed at once, for a whole cohort as arrays. What happens next is the answer's arrival at the
broker. The same state machines decide, and the times are the same to the last bit:
sim.network.links.many_links does for many links what TcpLink does for one.

Not every device has such a link, and something else may be said to one that is at work. Then its links become
again what they are at that time, and the general way goes on from there, with sim.network.broker and the
device's own Computer.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np

from broker.machine.actions import Compute, ComputeDone, Publish, Received
from broker.wire import topics
from broker.wire.messages import Assignment, BatchUp, Features, Gradient, HeadUpdate, Message
from edge_client.actions import ClientAction
from edge_client.core import ClientCore
from edge_client.jobs import ClientJob
from sim.network.broker import VirtualBroker
from sim.network.clock import Clock
from sim.network.endpoint import Endpoint, InFlight
from sim.network.links.many_links import Columns, Numbers
from sim.network.showing import show
from sim.simulation.ahead.device import Act, Device, links_to_compute, stream_of, ways_s
from sim.simulation.ahead.greeting import can_greet, greet
from sim.simulation.ahead.tables import Tables
from sim.simulation.ahead.talk import Places, Talk, are_alike, job_of
from sim.simulation.devices import Computer

LEAST = 12
"""So many devices must be told the same at once: for fewer ones arrays cost more than they save."""

_TO_COMPUTE = (Assignment, Gradient, Features)
"""Messages that a device answers when it has computed."""

Answer = tuple[str, Message, int, float]
"""What arrives at the server: whose, what, bytes of its MQTT packets, and when."""


class Ahead:
    """All devices whose answers may be computed ahead.

    Args:
        clock: virtual time.
        broker: of the general way.
        run: name of the run.
        take: hands answers to the server, until it has something to do; false when it is done.
        waiting_since_s: is told when an answer came, of clients that the trace shows.
    """

    def __init__(
        self,
        clock: Clock,
        broker: VirtualBroker,
        run: str,
        take: Callable[[Iterator[Answer]], bool],
        waiting_since_s: dict[str, float],
    ) -> None:
        self._clock = clock
        self._broker = broker
        self._run = run
        self._take = take
        self._waiting_since_s = waiting_since_s
        self._devices: dict[str, Device] = {}  # by the topic on which each hears the server
        self._tables = Tables(broker.network_stats)
        self._asked: dict[tuple[int, int, int], list[tuple[Device, Publish]]] = defaultdict(list)
        self._talks: dict[Talk, None] = {}

    def add(self, endpoint: Endpoint, core: ClientCore, computer: Computer, act: Act) -> None:
        """Compute a device's answers, if that can be done."""
        links = links_to_compute(endpoint)
        if links is not None:
            device = endpoint.ahead = Device(self, endpoint, links, core, computer, act)
            self._devices[topics.down(self._run, endpoint.client)] = device

    def greet(self, device: Device, state: InFlight) -> bool:
        """Compute how a device connects and greets; false if that must go step by step."""
        return can_greet(device, state, self._clock.now) and greet(device, state, self._broker, self._clock)

    def publish(self, publish: Publish) -> None:
        """Take a message of the server."""
        device, message = self._devices.get(publish.topic), publish.message
        now_s = self._clock.now
        if device is None or not isinstance(message, _TO_COMPUTE) or not device.waits(now_s):
            self._broker.publish_from_server(publish)
            return
        if not self._asked:
            self._clock.at(now_s, self.tell)
        device.is_asked = True
        alike = id(message), len(publish.topic), device.kind or self._tables.kind_of(device)
        self._asked[alike].append((device, publish))

    def tell(self) -> None:
        """Let what was said at this time be heard and answered."""
        asked, now_s = list(self._asked.values()), self._clock.now
        self._asked.clear()
        for told in asked:
            in_flight = self._broker.put_in_flight(told[0][1])
            waits = in_flight.pubacks > 0
            for device, _ in told:
                device.is_asked = False
            if len(told) >= LEAST and all(
                device.endpoint.window.admit(now_s, waits=waits) == now_s for device, _ in told
            ):
                self._talk([device for device, _ in told], in_flight)
            else:
                for _, publish in told:
                    self._broker.publish_from_server(publish)

    def _talk(self, devices: Sequence[Device], told: InFlight) -> None:
        """Compute what devices that are alike hear of one message, and answer."""
        self._bring_up_to_date()
        path, tables = devices[0].down.path, self._tables
        columns = tables.columns_of(devices)
        tables.pass_pubacks(columns, devices)
        way_s = ways_s([device.down for device in devices])
        began_s, sent_s, heard_s = tables.down.carry(columns, path, self._clock.now, told.wire_bytes, way_s)
        tables.down.occupy(columns, sent_s - began_s)
        received = Received("", told.publish.message, told.wire_bytes)
        jobs: list[ClientJob] = []
        others: list[tuple[int, list[ClientAction]]] = []
        for place, (device, at_s) in enumerate(zip(devices, heard_s.tolist(), strict=True)):
            device.endpoint.window.sent(at_s + path.latency_s)
            actions = device.core.handle(received, at_s)
            job = job_of(actions)
            if job is not None and (not jobs or are_alike(job, jobs[0])):
                jobs.append(job)
            else:
                others.append((place, actions))
        for place, actions in others:
            tables.give_back(devices[place])
            self._broker.note_at_work([devices[place].endpoint])
            self._hears_at(float(heard_s[place]), devices[place], told, float(began_s[place]), actions)
        if others:
            places = np.delete(np.arange(len(devices)), [place for place, _ in others])
            devices = [devices[place] for place in places.tolist()]
            columns, began_s, heard_s = columns[places], began_s[places], heard_s[places]
        if jobs:
            self._answer(devices, told, jobs, columns, began_s, heard_s)

    def _answer(
        self,
        devices: Sequence[Device],
        told: InFlight,
        jobs: Sequence[ClientJob],
        columns: Columns,
        began_s: Numbers,
        heard_s: Numbers,
    ) -> None:
        """Compute when devices that do alike jobs answer; see Talk."""
        first, path, uplinks = devices[0], devices[0].up.path, self._tables.up
        before = uplinks.copy(columns)
        jitter = [stream_of(device.up).state for device in devices]
        uplinks.acknowledge(columns, path, began_s, heard_s, told.pubacks)
        result, factor = first.computer.run(jobs[0]), first.computer.slowdown.factor()
        assert isinstance(result, BatchUp | HeadUpdate)
        done_s = heard_s
        for _, seconds in first.computer.phases(jobs[0]):
            done_s = done_s + seconds * factor
        answer = self._broker.put_in_flight(Publish(topics.up(self._run, first.endpoint.client), result))
        way_s = ways_s([device.up for device in devices])
        went = uplinks.carry(columns, path, done_s, answer.wire_bytes, way_s)
        lanes = enumerate(device.endpoint.lane for device in devices)
        traced = {place: lane for place, lane in lanes if lane is not None}
        came = began_s, heard_s, done_s
        talk = Talk(devices, columns, told, jobs, result, answer, *came, *went, before, jitter, traced)
        self._talks[talk] = None
        self._clock.at(talk.next_s, self._arrive, talk)

    def _arrive(self, talk: Talk) -> None:
        """Let one answer after the other arrive, until something else comes before the next one."""
        while self._take(self._coming(talk)) and not talk.is_over:
            if not self._clock.passes_to(talk.next_s):
                self._clock.at(talk.next_s, self._arrive, talk)
                return

    def _coming(self, talk: Talk) -> Iterator[Answer]:
        """Give the answer that arrives now, and those to come before anything else happens."""
        devices, times, passes_to = talk.devices, talk.times_s, self._clock.passes_to
        wire_bytes, last = talk.answer.wire_bytes, len(talk.order)
        while True:
            place, at_s = talk.order[talk.next], times[talk.next]
            talk.next += 1
            device = devices[place]
            if device.talk is talk:  # else it was given back
                publish = self._end(device, talk)
                if place in talk.traced:
                    self._waiting_since_s[device.endpoint.client] = at_s
                yield device.endpoint.client, publish.message, wire_bytes, at_s
            if talk.next == last or not passes_to(times[talk.next]):
                return

    def _end(self, device: Device, talk: Talk) -> Publish:
        """End a talk of which the answer has begun to leave; give the answer."""
        device.talk = None
        job = talk.jobs[device.place]
        (publish,) = device.core.handle(ComputeDone(job, talk.result), self._clock.now)
        assert isinstance(publish, Publish)
        return publish

    def count(self) -> None:
        """Count what devices have heard, computed and sent until now, where others look."""
        self._bring_up_to_date()
        self._broker.note_at_work(device.endpoint for device in self._tables.settle())

    def _bring_up_to_date(self) -> None:
        for talk in list(self._talks):
            self._count(talk)
            if talk.is_over:
                del self._talks[talk]

    def _count(self, talk: Talk) -> None:
        """Count in the tables what the devices of a talk have heard, computed and sent until now."""
        now_s, tables, columns = self._clock.now, self._tables, talk.columns
        told, answer = talk.told, talk.answer
        if talk.counted_s == now_s and talk.counted == talk.next:
            return
        talk.counted_s = now_s
        if len(places := talk.hears(now_s)):
            heard_s = talk.heard_s[places]
            tables.counts(columns[places], told.on_link.back, told.on_link.there, heard_s)
            tables.computes(columns[places], talk.done_s[places] - heard_s)
            self._show(talk, places, "downlink")
        if len(places := talk.sends(now_s)):
            tables.up.occupy(columns[places], talk.sent_s[places] - talk.left_s[places])
        if len(places := talk.arrives()):
            times = talk.left_s[places], talk.arrival_s[places]
            tables.answered(columns[places], answer.on_link, *times, answer.pubacks)
            self._show(talk, places, "uplink")

    def _show(self, talk: Talk, places: Places, direction: str) -> None:
        """Show what some devices have heard and compute, or have answered, if the trace shows them."""
        for place in talk.traced.keys() & places.tolist() if talk.traced else ():
            lane, computer, job = talk.traced[place], talk.devices[place].computer, talk.jobs[place]
            if direction == "downlink":
                heard_s = float(talk.heard_s[place])
                show(self._broker.trace, lane, direction, talk.told, float(talk.began_s[place]), heard_s)
                computer.show(job, heard_s, computer.slowdown.factor())
            else:
                answer = msgspec.structs.replace(talk.answer, asked_s=float(talk.done_s[place]))
                times = float(talk.left_s[place]), float(talk.arrival_s[place])
                show(self._broker.trace, lane, direction, answer, *times)

    def give_back(self, device: Device) -> None:
        """Let a device's links be what they are now, and what is to come happen in the general way."""
        talk, place = device.talk, device.place
        endpoint, up = device.endpoint, device.up
        self._bring_up_to_date()
        self._tables.give_back(device)
        self._broker.note_at_work([endpoint])
        if talk is None:
            return
        assert isinstance(talk, Talk)
        talk.goes_on[place] = False
        left_s, heard_s, done_s = (float(of[place]) for of in (talk.left_s, talk.heard_s, talk.done_s))
        if talk.sent[place]:
            publish, arrival_s = self._end(device, talk), float(talk.arrival_s[place])
            answer = msgspec.structs.replace(talk.answer, publish=publish, asked_s=done_s)
            endpoint.until_s = arrival_s
            self._clock.at(arrival_s, self._broker.at_broker, left_s, endpoint, endpoint.session, answer)
            return
        device.talk = None
        self._tables.up.give(device.column, up, talk.before[:, place])
        stream_of(up).state = talk.jitter[place]
        began_s, job = float(talk.began_s[place]), talk.jobs[place]
        if talk.heard[place]:
            up.acknowledge(began_s, heard_s, talk.told.pubacks)
            self._clock.at(done_s, device.computer.done, job, talk.result)
        else:
            self._hears_at(heard_s, device, talk.told, began_s, [Compute(job)])

    def _hears_at(
        self, at_s: float, device: Device, told: InFlight, begun_s: float, actions: list[ClientAction]
    ) -> None:
        device.endpoint.until_s = at_s
        self._clock.at(at_s, self._hears, device, told, begun_s, actions)

    def _hears(self, device: Device, told: InFlight, begun_s: float, actions: list[ClientAction]) -> None:
        """Let a message arrive that the state machine of a device knows already; it asks for `actions`."""
        endpoint, now_s = device.endpoint, self._clock.now
        endpoint.counts(told.on_link.back, told.on_link.there, now_s)
        if endpoint.lane is not None:
            show(self._broker.trace, endpoint.lane, "downlink", told, begun_s, now_s)
        device.up.acknowledge(begun_s, now_s, told.pubacks)
        device.act(actions)
