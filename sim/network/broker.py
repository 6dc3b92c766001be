"""The network in virtual time: messages from the server through the broker to devices, and back.

As a real broker does, it receives a whole message before it passes it on, retains the run's state for clients
that connect later, publishes the last will of a client that has vanished, and drops silently what its queues
cannot hold.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import msgspec

from broker.machine.actions import Online, Publish, Received
from broker.wire import topics
from broker.wire.chunks import MAX_PACKET_BYTES
from broker.wire.link_bytes import message_on_link
from broker.wire.messages import RunScenario, Status
from broker.wire.packing import Scale
from scenarios.schema.network import BrokerModel
from sim.chrome_trace import Trace
from sim.network.broker_queues import ServiceQueue, Window
from sim.network.clock import Clock
from sim.network.endpoint import Endpoint, InFlight, NetworkStats
from sim.network.links.link import TcpLink
from sim.network.links.shared_link import SharedTcpLink
from sim.network.showing import show

SUBACK_BYTES = 6
"""For our two topics; MQTT 3.1.1, 3.9."""

UNNOTICED_KEEPALIVES = 1.5
"""A broker takes a client for lost after so many keepalives of silence (MQTT 3.1.1, 3.1.2.10)."""


class VirtualBroker:
    """Everything between the state machines.

    Args:
        clock: virtual time.
        model: the broker's speed and limits.
        run: name of the run.
        server_up: link from the server to the broker.
        server_down: link from the broker to the server.
        trace: takes the spans.
        packet_bytes: largest payload of an MQTT packet.

    Attributes:
        network_stats: bytes, and messages that were lost or dropped.
        to_server: takes what arrives at the server.
        find: gives the endpoint of a device that was not added, by the topic on which it hears the server.
        tell_others: tells such devices what all are told.
        retained: the state of the run, for devices that connect.
        trace: takes the spans.
    """

    def __init__(
        self,
        clock: Clock,
        model: BrokerModel,
        *,
        run: str,
        server_up: TcpLink,
        server_down: TcpLink,
        trace: Trace,
        packet_bytes: int = MAX_PACKET_BYTES,
    ) -> None:
        self._scale = Scale(packet_bytes)
        self.network_stats = NetworkStats()
        self.to_server: Callable[[Received], None] = lambda _: None
        self._clock = clock
        self._run = run
        self._at_work: set[Endpoint] = set()
        self._by_topic: dict[str, Endpoint] = {}
        self.find: Callable[[str], Endpoint] = self._by_topic.__getitem__
        self.tell_others: Callable[[InFlight], None] = lambda _: None
        self.retained: InFlight | None = None
        self._service = ServiceQueue(model)
        self._server_up = server_up
        self._server_down = server_down
        self._server_window = Window(model)
        self._unnoticed_s = UNNOTICED_KEEPALIVES * model.keepalive_s
        self.trace = trace

    @property
    def endpoints(self) -> Iterator[Endpoint]:
        """Those of all devices that are not at rest."""
        return (each for each in self._by_topic.values() if not each.is_at_rest)

    def add(self, endpoint: Endpoint) -> None:
        """Have one more device."""
        endpoint.totals, endpoint.at_work = self.network_stats, self._at_work
        self._by_topic[topics.down(self._run, endpoint.client)] = endpoint

    def at_work(self) -> Iterator[str]:
        """Give the clients whose links may have done something since this was called last."""
        before = list(self._at_work)
        self._at_work.clear()
        self._at_work.update(endpoint for endpoint in before if endpoint.is_sharing)
        return (endpoint.client for endpoint in before)

    @property
    def takes_time(self) -> bool:
        """Whether it takes time from the server to the devices' links, or back."""
        paths = self._server_up.path, self._server_down.path
        return not all(path.instant for path in paths) or self._service.takes_time

    def put_in_flight(self, publish: Publish) -> InFlight:
        """Weigh a message that is published now."""
        wire, packets, qos = self._scale.weigh(publish.topic, publish.message)
        on_link = message_on_link(wire, packets, qos)
        return InFlight(publish, wire, packets * qos, on_link, self._clock.now)

    # -- presence --------------------------------------------------------------------------------------

    def connect(self, *endpoints: Endpoint) -> None:
        """Let devices connect: TCP's handshake, CONNECT and SUBSCRIBE take a round trip each.

        Of those that stand one after another here and are subscribed at the same time that is one event.
        """
        for after_s, alike in itertools.groupby(endpoints, lambda endpoint: 5 * endpoint.down.latency_s):
            coming = []
            for endpoint in alike:
                endpoint.session += 1
                coming.append((endpoint, endpoint.session))
            self._clock.at(self._clock.now + after_s, self._subscribed, coming)

    def _subscribed(self, coming: Sequence[tuple[Endpoint, int]]) -> None:
        with self._clock.together():
            for endpoint, session in coming:
                if session == endpoint.session:
                    self.subscribe(endpoint, session)

    def subscribe(self, endpoint: Endpoint, session: int) -> None:
        """Note that the broker has the subscription; what it sends from now on comes after its SUBACK."""
        if endpoint.will:  # the new connection takes over; the old one ends without a DISCONNECT
            self._publish_will(endpoint)
        endpoint.will = endpoint.subscribed = True
        endpoint.connects(self._run, self._clock.now)
        clock = self._clock
        endpoint.carry(endpoint.down, clock, clock.now, SUBACK_BYTES, self._connected, endpoint, session)
        if self.retained is not None:
            self.down(endpoint, msgspec.structs.replace(self.retained, asked_s=self._clock.now))

    def _connected(self, _start_s: float, endpoint: Endpoint, session: int) -> None:
        if session != endpoint.session:
            return
        endpoint.online = True
        if endpoint.unsent:
            waiting = endpoint.unsent
            endpoint.unsent = deque(each for each in waiting if each.pubacks)
            for in_flight in waiting:
                self._up(endpoint, in_flight)
        endpoint.connection += 1
        endpoint.handle(Online(endpoint.connection))

    def lose(self, endpoint: Endpoint) -> None:
        """Let a device lose its connection without a DISCONNECT, and with it all that is under way."""
        endpoint.session += 1
        endpoint.count_pings(self._clock.now)
        endpoint.online = endpoint.subscribed = False
        for link in (endpoint.up, endpoint.down):
            if isinstance(link, SharedTcpLink):  # of other links, each message is counted when it is due
                self.network_stats.lost += link.under_way
            link.reset()
        endpoint.window.reset()
        if endpoint.will:
            due_s = self._clock.now + self._unnoticed_s
            self._clock.at(due_s, self._notice_absence, endpoint, endpoint.session)

    def _notice_absence(self, endpoint: Endpoint, session: int) -> None:
        if session == endpoint.session:
            self._publish_will(endpoint)

    def _publish_will(self, endpoint: Endpoint) -> None:
        endpoint.will = False
        status = Status(online=False, session=endpoint.connection)
        will = Publish(topics.status(self._run, endpoint.client), status, retain=True)
        self._pass_up(endpoint, self.put_in_flight(will))

    # -- device to server ------------------------------------------------------------------------------

    def publish(self, endpoint: Endpoint, publish: Publish) -> None:
        """Take a message of a device; it is kept while the device is away, and until its PUBACK comes."""
        in_flight = self.put_in_flight(publish)
        if endpoint.unsent is not None and (in_flight.pubacks or not endpoint.online):
            endpoint.unsent.append(in_flight)
        if endpoint.online:
            self._up(endpoint, in_flight)

    def _up(self, endpoint: Endpoint, in_flight: InFlight) -> None:
        clock, whose = self._clock, (endpoint, endpoint.session)
        up, wire_bytes = endpoint.up, in_flight.wire_bytes
        endpoint.carry(up, clock, clock.now, wire_bytes, self.at_broker, *whose, in_flight)

    def at_broker(self, start_s: float, endpoint: Endpoint, session: int, in_flight: InFlight) -> None:
        """Take a message that a device sent; it began to leave at `start_s`."""
        if session != endpoint.session:
            self.network_stats.lost += 1
            return
        if endpoint.unsent and in_flight.pubacks:
            endpoint.unsent.popleft()  # a link keeps the order
        endpoint.counts(*in_flight.on_link, self._clock.now)
        endpoint.down.acknowledge(start_s, self._clock.now, in_flight.pubacks)
        if endpoint.lane is not None:
            show(self.trace, endpoint.lane, "uplink", in_flight, start_s, self._clock.now)
        self._pass_up(endpoint, in_flight)

    def _pass_up(self, endpoint: Endpoint, in_flight: InFlight) -> None:
        now_s = self._clock.now
        received = Received(endpoint.client, in_flight.publish.message, in_flight.wire_bytes)
        served_s = self._service.serve(now_s, in_flight.wire_bytes)
        if self._server_down.path.instant and served_s <= now_s:
            self.to_server(received)
            return
        admitted_s = self._server_window.admit(served_s, waits=in_flight.pubacks > 0)
        if admitted_s is None:
            self.network_stats.dropped += 1
            return
        arrival_s = self._server_down.carry(admitted_s, in_flight.wire_bytes).arrival_s
        self._server_window.sent(arrival_s + self._server_down.latency_s)
        self._clock.at(arrival_s, self.to_server, received)

    # -- server to device ------------------------------------------------------------------------------

    def publish_from_server(self, publish: Publish) -> None:
        """Take a message of the server."""
        in_flight = self.put_in_flight(publish)
        now_s = self._clock.now
        if self._server_up.path.instant:
            self._route(in_flight)
            return
        arrival_s = self._server_up.carry(now_s, in_flight.wire_bytes).arrival_s
        if arrival_s <= now_s:
            self._route(in_flight)
        else:
            self._clock.at(arrival_s, self._route, in_flight)

    def _route(self, in_flight: InFlight) -> None:
        if isinstance(in_flight.publish.message, RunScenario):
            return  # kept for devices without a file; these here have theirs
        if in_flight.publish.retain:  # the run's state, for everybody
            self.retained = in_flight
            with self._clock.together():
                for endpoint in self.endpoints:
                    if endpoint.subscribed:
                        self.down(endpoint, in_flight)
            self.tell_others(in_flight)
            return
        receiver = self._by_topic.get(in_flight.publish.topic) or self.find(in_flight.publish.topic)
        if receiver.sleeper is not None:
            receiver.sleeper.wake()
        if receiver.subscribed:
            self.down(receiver, in_flight)
        else:
            self.network_stats.lost += 1

    def down(self, endpoint: Endpoint, in_flight: InFlight) -> None:
        """Send a message to a device that is subscribed, and not at rest."""
        served_s = self._service.serve(self._clock.now, in_flight.wire_bytes)
        link, session = endpoint.down, endpoint.session
        if isinstance(link, SharedTcpLink):
            self._clock.at(served_s, self._down_shared, link, endpoint, session, in_flight)
            return
        admitted_s = endpoint.window.admit(served_s, waits=in_flight.pubacks > 0)
        if admitted_s is None:
            self.network_stats.dropped += 1
            return
        arrival_s = endpoint.carry(
            link, self._clock, admitted_s, in_flight.wire_bytes, self.at_device, endpoint, session, in_flight
        )
        assert arrival_s is not None  # the link is its own
        endpoint.window.sent(arrival_s + link.latency_s)

    def _down_shared(
        self, link: SharedTcpLink, endpoint: Endpoint, session: int, in_flight: InFlight
    ) -> None:
        if session != endpoint.session:
            self.network_stats.lost += 1
        elif endpoint.window.has_room(link.under_way):
            clock, wire_bytes = self._clock, in_flight.wire_bytes
            endpoint.carry(link, clock, clock.now, wire_bytes, self.at_device, endpoint, session, in_flight)
        else:
            self.network_stats.dropped += 1

    def at_device(self, start_s: float, endpoint: Endpoint, session: int, in_flight: InFlight) -> None:
        """Let a device hear a message that began to leave at `start_s`."""
        if session != endpoint.session:
            self.network_stats.lost += 1
            return
        endpoint.counts(in_flight.on_link.back, in_flight.on_link.there, self._clock.now)
        endpoint.up.acknowledge(start_s, self._clock.now, in_flight.pubacks)
        if endpoint.lane is not None:
            show(self.trace, endpoint.lane, "downlink", in_flight, start_s, self._clock.now)
        endpoint.handle(Received("", in_flight.publish.message, in_flight.wire_bytes))
