"""What becomes of real MQTT packets on a modelled link: they arrive when virtual time says so.

Nothing here waits or knows sockets. The clock is that of virtual time; whoever owns it (sim.shaped.proxy)
lets it follow the real one.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from broker.transports.address import parse_url
from scenarios.errors import ScenarioError
from scenarios.schema.links import Link, link_of
from scenarios.schema.scenario import Scenario
from sim.chrome_trace import Trace
from sim.network.clock import Clock
from sim.network.link import TcpLink, links_of, path_of
from sim.network.shared_link import SharedTcpLink
from sim.shaped.mqtt_packets import CONNECT, MAX_PIECE_BYTES, PUBLISH, SUBACK, Packet
from sim.simulation.devices import make_endpoints

Lines = tuple[TcpLink | SharedTcpLink, TcpLink | SharedTcpLink]
"""Up and down."""

SERVER = "server"
"""The server's name in MQTT client identifiers."""

_MOST_IN_FLIGHT_BYTES = 2**22
"""On the link alone; so much is allowed where there is no rate."""


def check_shape(scenario: Scenario) -> None:
    """Say why a scenario's links cannot stand between its clients and its broker.

    Raises:
        ValueError: one line.
    """
    shaped = any(group.via is not None or takes_time(group.link) for group in scenario.fleet)
    if not shaped and not takes_time(scenario.network.server.link):
        raise ScenarioError(f"--shape: all links of {scenario.name} are 'none'; give the fleet a link")
    if scenario.broker.url is not None and parse_url(scenario.broker.url).tls:
        raise ScenarioError("--shape: packets inside TLS cannot be told apart; use an mqtt:// broker")


def takes_time(link: str | Link) -> bool:
    """Say whether a link is other than none at all."""
    return not path_of(link_of(link), "up").instant or not path_of(link_of(link), "down").instant


def lines_of(scenario: Scenario, clock: Clock) -> dict[str, Lines]:
    """Give each client its links as in virtual time, and the server its own."""
    server = links_of(link_of(scenario.network.server.link), seed=scenario.seed, owner=SERVER)
    endpoints = make_endpoints(scenario, clock, Trace(()))
    return {SERVER: server} | {client: (endpoint.up, endpoint.down) for client, endpoint in endpoints.items()}


@dataclass(slots=True)
class _Parcel:
    data: bytes
    arrived: bool = False


class PacketPath:
    """One direction of one client's connection: packets go in, and come out later in the same order.

    PUBLISH and SUBACK take the line's time and every other packet its latency alone, as in virtual time;
    a CONNECT takes three latencies, for TCP's handshake goes before it.

    Args:
        clock: virtual time.
        line: the client's, in this direction.
        deliver: takes what arrives.

    Attributes:
        room_bytes: what the line needs under way to be busy all the time.
    """

    def __init__(self, clock: Clock, line: TcpLink | SharedTcpLink, deliver: Callable[[bytes], None]) -> None:
        in_flight = line.path.bytes_per_s * max(line.latency_s, 1e-9)
        self.room_bytes = MAX_PIECE_BYTES + int(min(in_flight, _MOST_IN_FLIGHT_BYTES))
        self._clock = clock
        self._line = line
        self._deliver = deliver
        self._parcels: deque[_Parcel] = deque()

    def send(self, packet: Packet) -> None:
        """Take a packet, or a piece of a large one."""
        message_in_flight = _Parcel(packet.data)
        self._parcels.append(message_in_flight)
        size = len(packet.data)
        line, now_s = self._line, self._clock.now
        if packet.kind not in (PUBLISH, SUBACK):
            latencies = 3 if packet.kind == CONNECT else 1
            self._clock.at(now_s + latencies * line.latency_s, self._arrived, message_in_flight)
        elif isinstance(line, SharedTcpLink):
            line.send(size, lambda _start_s: self._arrived(message_in_flight))
        else:
            self._clock.at(line.carry(now_s, size).arrival_s, self._arrived, message_in_flight)

    def close(self) -> None:
        """Lose what is under way; the line is then as for a new connection."""
        self._parcels.clear()
        self._line.reset()

    def _arrived(self, message_in_flight: _Parcel) -> None:
        message_in_flight.arrived = True
        while self._parcels and self._parcels[0].arrived:
            self._deliver(self._parcels.popleft().data)
