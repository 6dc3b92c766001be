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
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from broker.machine.actions import Compute, ComputeDone, Publish, Received
from broker.wire import topics
from broker.wire.messages import Assignment, BatchUp, Features, Gradient, HeadUpdate
from edge_client.actions import ClientAction
from edge_client.core import ClientCore
from edge_client.jobs import BackwardStep, ClientJob
from sim.network.broker import VirtualBroker
from sim.network.clock import Clock
from sim.network.endpoint import Endpoint, InFlight
from sim.network.links.many_links import Columns, Numbers
from sim.simulation.ahead.device import (
    Act,
    Device,
    Tables,
    Talk,
    links_to_compute,
    stream_of,
    ways_s,
)
from sim.simulation.devices import Computer

LEAST = 12
"""So many devices must be told the same at once: for fewer ones arrays cost more than they save."""

_TO_COMPUTE = (Assignment, Gradient, Features)
"""Messages that a device answers when it has computed."""


class Ahead:
    """All devices whose answers may be computed ahead.

    Args:
        clock: virtual time.
        broker: of the general way.
        run: name of the run.
        is_over: says whether the server is done.
    """

    def __init__(self, clock: Clock, broker: VirtualBroker, run: str, is_over: Callable[[], bool]) -> None:
        self._clock = clock
        self._broker = broker
        self._run = run
        self._is_over = is_over
        self._devices: dict[Endpoint, Device] = {}
        self._tables = Tables()
        self._asked: list[tuple[Device, Publish]] = []
        self._talking: dict[Device, None] = {}

    def add(self, endpoint: Endpoint, core: ClientCore, computer: Computer, act: Act) -> None:
        """Compute a device's answers, if that can be done."""
        links = links_to_compute(endpoint)
        if links is not None:
            endpoint.ahead = self._devices[endpoint] = Device(self, endpoint, links, core, computer, act)

    def publish(self, publish: Publish) -> None:
        """Take a message of the server."""
        endpoint = self._broker.receiver(publish)
        device = None if endpoint is None else self._devices.get(endpoint)
        now_s = self._clock.now
        if device is None or not isinstance(publish.message, _TO_COMPUTE) or not device.waits(now_s):
            self._broker.publish_from_server(publish)
            return
        if not self._asked:
            self._clock.at(now_s, self.tell)
        device.is_asked = True
        self._asked.append((device, publish))

    def tell(self) -> None:
        """Let what was said at this time be heard and answered."""
        asked, self._asked = self._asked, []
        alike: dict[tuple[object, ...], list[tuple[Device, Publish]]] = defaultdict(list)
        for device, publish in asked:
            device.is_asked = False
            message = id(publish.message), len(publish.topic)
            alike[message + device.likeness()].append((device, publish))
        for told in alike.values():
            in_flight, now_s = self._broker.put_in_flight(told[0][1]), self._clock.now
            waits, devices = in_flight.pubacks > 0, [device for device, _ in told]
            if len(told) >= LEAST and all(
                d.endpoint.window.admit(now_s, waits=waits) == now_s for d in devices
            ):
                self._talk(devices, in_flight)
            else:
                for _, publish in told:
                    self._broker.publish_from_server(publish)

    def _talk(self, devices: Sequence[Device], told: InFlight) -> None:
        """Compute what devices that are alike hear of one message, and answer."""
        path, tables = devices[0].down.path, self._tables
        columns = tables.columns_of(devices)
        tables.pass_pubacks(devices)
        way_s = ways_s([device.down for device in devices])
        began_s, sent_s, heard_s = tables.down.carry(columns, path, self._clock.now, told.wire_bytes, way_s)
        received = Received("", told.publish.message, told.wire_bytes)
        jobs: list[ClientJob] = []
        places: list[int] = []
        busy_s = (sent_s - began_s).tolist()
        for place, (device, at_s) in enumerate(zip(devices, heard_s.tolist(), strict=True)):
            endpoint = device.endpoint
            device.down.busy_s += busy_s[place]
            endpoint.window.sent(at_s + path.latency_s)
            endpoint.at_work.add(endpoint)
            actions = device.core.handle(received, at_s)
            job = _job_of(actions)
            if job is not None and (not jobs or _are_alike(job, jobs[0])):
                jobs.append(job)
                places.append(place)
            else:
                tables.give_back(device)
                self._hears_at(at_s, device, told, float(began_s[place]), actions)
        if jobs:
            devices = [devices[place] for place in places]
            self._answer(devices, told, jobs, columns[places], began_s[places], heard_s[places])

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
        left_s, sent_s, arrival_s = uplinks.carry(columns, path, done_s, answer.wire_bytes, way_s)
        came = began_s.tolist(), heard_s.tolist(), done_s.tolist()
        went = left_s.tolist(), sent_s.tolist(), arrival_s.tolist()
        order = np.argsort(arrival_s).tolist()
        talk = Talk(devices, told, jobs, result, answer, *came, *went, before, jitter, order)
        for place, device in enumerate(devices):
            device.talk, device.place = talk, place
            device.heard = device.sent = False
            self._talking[device] = None
        self._clock.at(talk.arrival_s[order[0]], self._arrive, talk)

    def _arrive(self, talk: Talk) -> None:
        """Let one answer after the other arrive, until something else comes before the next one."""
        while True:
            device = talk.devices[talk.order[talk.next]]
            talk.next += 1
            if device.talk is talk:  # else it was given back
                self._answered(device, talk)
            if talk.next == len(talk.order):
                return
            next_s = talk.arrival_s[talk.order[talk.next]]
            if self._is_over() or not self._clock.passes_to(next_s):
                self._clock.at(next_s, self._arrive, talk)
                return

    def _answered(self, device: Device, talk: Talk) -> None:
        """Let an answer arrive at the broker, and so at the server."""
        endpoint, answer, now_s, place = device.endpoint, talk.answer, self._clock.now, device.place
        publish = self._end(device, talk)
        endpoint.sends(answer.on_link, now_s)
        if answer.pubacks:
            device.puback = talk.left_s[place], now_s, answer.pubacks
        self._broker.to_server(Received(endpoint.client, publish.message, answer.wire_bytes))

    def _end(self, device: Device, talk: Talk) -> Publish:
        """End a talk of which the answer has begun to leave; give the answer."""
        place = device.place
        if not device.sent:
            self._count(device, talk)
        device.talk = None
        del self._talking[device]
        (publish,) = device.core.handle(ComputeDone(talk.jobs[place], talk.result), talk.done_s[place])
        assert isinstance(publish, Publish)
        return publish

    def count(self) -> None:
        """Count what devices have heard, computed and sent until now."""
        for device in self._talking:
            assert device.talk is not None
            self._count(device, device.talk)
            device.endpoint.at_work.add(device.endpoint)

    def _count(self, device: Device, talk: Talk) -> None:
        place, now_s = device.place, self._clock.now
        heard_s, done_s = talk.heard_s[place], talk.done_s[place]
        if not device.heard and heard_s <= now_s:
            device.heard = True
            device.endpoint.receives(talk.told.on_link, heard_s)
            device.computer.busy_s += done_s - heard_s
        if not device.sent and done_s <= now_s:
            device.sent = True
            device.up.busy_s += talk.sent_s[place] - talk.left_s[place]

    def give_back(self, device: Device) -> None:
        """Let a device's links be what they are now, and what is to come happen in the general way."""
        talk, place = device.talk, device.place
        endpoint, up = device.endpoint, device.up
        self._tables.give_back(device)
        if talk is None:
            return
        self._count(device, talk)
        if device.sent:
            arrival_s, publish = talk.arrival_s[place], self._end(device, talk)
            answer = msgspec.structs.replace(talk.answer, publish=publish, asked_s=talk.done_s[place])
            endpoint.until_s = arrival_s
            left_s, session = talk.left_s[place], endpoint.session
            self._clock.at(arrival_s, self._broker.at_broker, left_s, endpoint, session, answer)
            return
        device.talk = None
        del self._talking[device]
        self._tables.up.give(device.column, up, talk.before[:, place])
        stream_of(up).state = talk.jitter[place]
        began_s, heard_s, job = talk.began_s[place], talk.heard_s[place], talk.jobs[place]
        if device.heard:
            up.acknowledge(began_s, heard_s, talk.told.pubacks)
            self._clock.at(talk.done_s[place], device.computer.done, job, talk.result)
        else:
            self._hears_at(heard_s, device, talk.told, began_s, [Compute(job)])

    def _hears_at(
        self, at_s: float, device: Device, told: InFlight, begun_s: float, actions: list[ClientAction]
    ) -> None:
        device.endpoint.until_s = at_s
        self._clock.at(at_s, self._hears, device, told, begun_s, actions)

    def _hears(self, device: Device, told: InFlight, begun_s: float, actions: list[ClientAction]) -> None:
        """Let a message arrive that the state machine of a device knows already; it asks for `actions`."""
        device.endpoint.receives(told.on_link, self._clock.now)
        device.up.acknowledge(begun_s, self._clock.now, told.pubacks)
        device.act(actions)


def _job_of(actions: list[ClientAction]) -> ClientJob | None:
    """Give the job if that is all that is asked for."""
    if len(actions) == 1 and isinstance(actions[0], Compute):
        return actions[0].job
    return None


def _are_alike(job: ClientJob, other: ClientJob) -> bool:
    """Say whether jobs that follow from one message take a device as long, and give the same."""
    if isinstance(job, BackwardStep) and isinstance(other, BackwardStep):
        return job.last is other.last
    return type(job) is type(other)
