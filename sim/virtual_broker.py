"""The network in virtual time: messages from the server through the broker to devices, and back.

As a real broker does, it takes a message whole before it passes it on, keeps the run's state for those who
come later, says a vanished client's last will, and drops without a word what its queues cannot hold.
"""

import functools
from collections.abc import Callable, Mapping

import msgspec

from broker import topics
from broker.chunks import frame_sizes, wire_bytes
from broker.messages import Activations, Assignment, Gradient, HeadUpdate, Status, encoded_bytes
from broker.protocol import Online, Publish, Received
from scenarios.network import BrokerModel
from sim.bottleneck import SharedLine
from sim.broker_model import ServiceQueue, Window
from sim.clock import Clock
from sim.link import HEADER_BYTES, Line, framed_bytes
from sim.station import Parcel, Station, Tally
from sim.trace import Trace

PUBACK_BYTES = 4
"""MQTT 3.1.1, 3.4."""

ANSWER_BYTES = PUBACK_BYTES + HEADER_BYTES

SUBACK_BYTES = 6
"""For our two topics; MQTT 3.1.1, 3.9."""

UNNOTICED_KEEPALIVES = 1.5
"""So long a broker waits for a sign of life (MQTT 3.1.1, 3.1.2.10)."""


@functools.lru_cache(maxsize=1024)
def _answer_bytes(encoded: int) -> int:
    """Give the bytes of the PUBACKs for a message, with TCP/IP headers."""
    return ANSWER_BYTES * len(frame_sizes(encoded))


class VirtualBroker:
    """Everything between the state machines.

    Args:
        clock: virtual time.
        model: the broker's speed and limits.
        run: name of the run.
        stations: by client.
        server_up: line from the server to the broker.
        server_down: line from the broker to the server.
        trace: takes the spans.

    Attributes:
        tally: what the network did.
        to_server: takes what arrives at the server.
    """

    def __init__(
        self,
        clock: Clock,
        model: BrokerModel,
        *,
        run: str,
        stations: Mapping[str, Station],
        server_up: Line,
        server_down: Line,
        trace: Trace,
    ) -> None:
        self.tally = Tally()
        self.to_server: Callable[[Received], None] = lambda _: None
        self._clock = clock
        self._run = run
        self._stations = stations
        self._by_topic = {topics.down(run, client): station for client, station in stations.items()}
        self._retained: Parcel | None = None
        self._service = ServiceQueue(model)
        self._server_up = server_up
        self._server_down = server_down
        self._server_window = Window(model)
        self._unnoticed_s = UNNOTICED_KEEPALIVES * model.keepalive_s
        self._trace = trace

    def _parcel(self, publish: Publish) -> Parcel:
        size = encoded_bytes(publish.message)
        wire = wire_bytes(publish.topic, size)
        return Parcel(publish, wire, framed_bytes(wire), _answer_bytes(size), self._clock.now)

    # -- presence --------------------------------------------------------------------------------------

    def connect(self, station: Station) -> None:
        """Let a device appear: TCP's handshake, CONNECT and SUBSCRIBE take a round trip each."""
        station.session += 1
        subscribed_s = self._clock.now + 5 * station.down.latency_s
        self._clock.at(subscribed_s, self._subscribed, station, station.session)

    def _subscribed(self, station: Station, session: int) -> None:
        """The broker has the subscription; what it says from now on comes after its SUBACK."""
        if session != station.session:
            return
        if station.will:  # the new connection takes over; the old one ends without a DISCONNECT
            self._say_will(station)
        station.will = station.subscribed = True
        line = station.down
        if isinstance(line, SharedLine):
            line.send(SUBACK_BYTES, self._connected, station, session)
        else:
            carried = line.carry(self._clock.now, SUBACK_BYTES)
            self._clock.at(carried.arrival_s, self._connected, carried.start_s, station, session)
        if self._retained is not None:
            self._down(station, msgspec.structs.replace(self._retained, asked_s=self._clock.now))

    def _connected(self, _start_s: float, station: Station, session: int) -> None:
        if session != station.session:
            return
        station.online = True
        for parcel in station.unsent or ():
            self._up(station, parcel)
        station.handle(Online())

    def lose(self, station: Station) -> None:
        """Let a device vanish without a word, and all that is under way with it."""
        station.session += 1
        station.online = station.subscribed = False
        for line in (station.up, station.down):
            self.tally.lost += line.under_way if isinstance(line, SharedLine) else 0  # others count later
            line.reset()
        station.window.reset()
        if station.will:
            self._clock.at(
                self._clock.now + self._unnoticed_s, self._notice_absence, station, station.session
            )

    def _notice_absence(self, station: Station, session: int) -> None:
        if session == station.session:
            self._say_will(station)

    def _say_will(self, station: Station) -> None:
        station.will = False
        will = Publish(topics.status(self._run, station.client), Status(online=False), retain=True)
        self._pass_up(station, self._parcel(will))

    # -- device to server ------------------------------------------------------------------------------

    def publish(self, station: Station, publish: Publish) -> None:
        """Take a message of a device; it is kept while the device is away."""
        parcel = self._parcel(publish)
        if station.unsent is not None:
            station.unsent.append(parcel)
        if station.online:
            self._up(station, parcel)

    def _up(self, station: Station, parcel: Parcel) -> None:
        line, session = station.up, station.session
        if isinstance(line, SharedLine):
            line.send(parcel.wire_bytes, self._at_broker, station, session, parcel)
        else:
            carried = line.carry(self._clock.now, parcel.wire_bytes)
            self._clock.at(carried.arrival_s, self._at_broker, carried.start_s, station, session, parcel)

    def _at_broker(self, start_s: float, station: Station, session: int, parcel: Parcel) -> None:
        if session != station.session:
            self.tally.lost += 1
            return
        if station.unsent is not None:
            station.unsent.popleft()  # a line keeps the order
        self.tally.uplink_bytes += parcel.link_bytes
        self.tally.downlink_bytes += parcel.answer_bytes
        station.down.acknowledge(start_s, self._clock.now, parcel.answer_bytes // ANSWER_BYTES)
        if station.lane is not None:
            self._show(station.lane, "uplink", parcel, start_s)
        self._pass_up(station, parcel)

    def _pass_up(self, station: Station, parcel: Parcel) -> None:
        now_s = self._clock.now
        received = Received(station.client, parcel.publish.message, parcel.wire_bytes)
        served_s = self._service.serve(now_s, parcel.wire_bytes)
        if self._server_down.path.instant and served_s <= now_s:
            self.to_server(received)
            return
        admitted_s = self._server_window.admit(served_s)
        if admitted_s is None:
            self.tally.dropped += 1
            return
        arrival_s = self._server_down.carry(admitted_s, parcel.wire_bytes).arrival_s
        self._server_window.sent(arrival_s + self._server_down.latency_s)
        self._clock.at(arrival_s, self.to_server, received)

    # -- server to device ------------------------------------------------------------------------------

    def publish_from_server(self, publish: Publish) -> None:
        """Take a message of the server."""
        parcel = self._parcel(publish)
        arrival_s = self._server_up.carry(self._clock.now, parcel.wire_bytes).arrival_s
        if arrival_s <= self._clock.now:
            self._route(parcel)
        else:
            self._clock.at(arrival_s, self._route, parcel)

    def _route(self, parcel: Parcel) -> None:
        if parcel.publish.retain:  # the run's state, for everybody
            self._retained = parcel
            for station in self._stations.values():
                if station.subscribed:
                    self._down(station, parcel)
            return
        receiver = self._by_topic[parcel.publish.topic]
        if receiver.subscribed:
            self._down(receiver, parcel)
        else:
            self.tally.lost += 1

    def _down(self, station: Station, parcel: Parcel) -> None:
        served_s = self._service.serve(self._clock.now, parcel.wire_bytes)
        line = station.down
        if isinstance(line, SharedLine):
            self._clock.at(served_s, self._down_shared, line, station, station.session, parcel)
            return
        admitted_s = station.window.admit(served_s)
        if admitted_s is None:
            self.tally.dropped += 1
            return
        carried = line.carry(admitted_s, parcel.wire_bytes)
        station.window.sent(carried.arrival_s + line.latency_s)
        self._clock.at(carried.arrival_s, self._at_device, carried.start_s, station, station.session, parcel)

    def _down_shared(self, line: SharedLine, station: Station, session: int, parcel: Parcel) -> None:
        if session != station.session:
            self.tally.lost += 1
        elif station.window.has_room(line.under_way):
            line.send(parcel.wire_bytes, self._at_device, station, session, parcel)
        else:
            self.tally.dropped += 1

    def _at_device(self, start_s: float, station: Station, session: int, parcel: Parcel) -> None:
        if session != station.session:
            self.tally.lost += 1
            return
        self.tally.downlink_bytes += parcel.link_bytes
        self.tally.uplink_bytes += parcel.answer_bytes
        station.up.acknowledge(start_s, self._clock.now, parcel.answer_bytes // ANSWER_BYTES)
        if station.lane is not None:
            self._show(station.lane, "downlink", parcel, start_s)
        station.handle(Received("", parcel.publish.message, parcel.wire_bytes))

    def _show(self, lane: int, way: str, parcel: Parcel, start_s: float) -> None:
        """Put a message's way to its receiver on the trace, unless it carries no tensor."""
        match parcel.publish.message:
            case Assignment(round=number) | HeadUpdate(round=number):
                details = {"round": number, "bytes": parcel.wire_bytes}
            case Activations(round=number, step=step) | Gradient(round=number, step=step):
                details = {"round": number, "step": step, "bytes": parcel.wire_bytes}
            case _:
                return
        self._trace.span(lane, "queue", parcel.asked_s, start_s, **details)
        self._trace.span(lane, way, start_s, self._clock.now, **details)
