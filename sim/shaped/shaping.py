"""Real MQTT packets on a modelled link: they arrive when virtual time says so.

Nothing here waits or uses sockets. The clock is that of virtual time; its owner (sim.shaped.proxy) makes it
follow real time.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from scenarios.errors import ScenarioError
from scenarios.schema.links import Link, link_of
from scenarios.schema.network import SERVER
from scenarios.schema.scenario import Scenario
from sim.chrome_trace import Trace
from sim.network.clock import Clock
from sim.network.links.link import TcpLink
from sim.network.links.path import path_of
from sim.network.links.shared_link import SharedTcpLink
from sim.shaped.mqtt_packets import CONNECT, MAX_PIECE_BYTES, PUBLISH, SUBACK, Packet
from sim.simulation.devices import make_endpoints, server_links

Links = tuple[TcpLink | SharedTcpLink, TcpLink | SharedTcpLink]
"""Up and down."""

_MOST_IN_FLIGHT_BYTES = 2**22
"""On the link alone; so much is allowed where there is no rate."""


def check_shape(scenario: Scenario) -> None:
    """Say why a scenario's links cannot stand between its clients and its broker.

    Raises:
        ScenarioError: why, in one line.
    """
    shaped = any(group.via is not None or takes_time(group.link) for group in scenario.fleet)
    if not shaped and not takes_time(scenario.network.server.link):
        raise ScenarioError(f"--shape: all links of {scenario.name} are 'none'; give the fleet a link")
    if any(address.tls for address in scenario.broker.url or ()):
        raise ScenarioError("--shape: packets inside TLS cannot be told apart; use an mqtt:// broker")


def takes_time(link: str | Link) -> bool:
    """Say whether a link is other than none at all."""
    return not path_of(link_of(link), "up").instant or not path_of(link_of(link), "down").instant


def links_by_client(scenario: Scenario, clock: Clock) -> dict[str, Links]:
    """Give each client its links as in virtual time, and the server its own."""
    endpoints = make_endpoints(scenario, clock, Trace(()))
    clients = {client: (endpoint.up, endpoint.down) for client, endpoint in endpoints.items()}
    return {SERVER: server_links(scenario)} | clients


@dataclass(slots=True)
class _InFlight:
    data: bytes
    arrived: bool = False


class PacketPath:
    """One direction of one client's connection: packets go in, and come out later in the same order.

    PUBLISH and SUBACK take the link's time and every other packet its latency alone, as in virtual time;
    a CONNECT takes three latencies, for TCP's handshake goes before it.

    Args:
        clock: virtual time.
        link: the client's, in this direction.
        deliver: takes what arrives.
    """

    def __init__(self, clock: Clock, link: TcpLink | SharedTcpLink, deliver: Callable[[bytes], None]) -> None:
        self._clock = clock
        self._link = link
        self._deliver = deliver
        self._packets: deque[_InFlight] = deque()

    @property
    def room_bytes(self) -> int:
        """What the link needs under way to be busy all the time, as it is now."""
        capacity_bytes = self._link.path.bytes_per_s * max(self._link.latency_s, 1e-9)
        return MAX_PIECE_BYTES + int(min(capacity_bytes, _MOST_IN_FLIGHT_BYTES))

    def send(self, packet: Packet) -> None:
        """Take a packet, or a piece of a large one."""
        in_flight = _InFlight(packet.data)
        self._packets.append(in_flight)
        size = len(packet.data)
        link, now_s = self._link, self._clock.now
        if packet.kind not in (PUBLISH, SUBACK):
            latencies = 3 if packet.kind == CONNECT else 1
            self._clock.at(now_s + latencies * link.latency_s, self._arrived, in_flight)
        elif isinstance(link, SharedTcpLink):
            link.send(size, lambda _start_s: self._arrived(in_flight))
        else:
            self._clock.at(link.carry(now_s, size).arrival_s, self._arrived, in_flight)

    def close(self) -> None:
        """Lose what is under way; the link is then as for a new connection."""
        self._packets.clear()
        self._link.reset()

    def _arrived(self, in_flight: _InFlight) -> None:
        in_flight.arrived = True
        while self._packets and self._packets[0].arrived:
            self._deliver(self._packets.popleft().data)
