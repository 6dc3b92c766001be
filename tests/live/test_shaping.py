"""Packets on modelled links arrive at the times of virtual time, and in their order."""

import functools
import itertools
from pathlib import Path
from typing import Any

import pytest

from scenarios.errors import ScenarioError
from scenarios.schema.links import Link
from scenarios.schema.network import SERVER
from scenarios.schema.scenario import Scenario
from sim.network.clock import Clock
from sim.network.links.link import TcpLink
from sim.network.links.path import path_of
from sim.shaped.mqtt_packets import CONNECT, PUBLISH, SUBACK, Packet
from sim.shaped.shaping import PacketPath, check_shape, links_by_client
from tests.helpers import small_scenario

PUBACK = 4
SLOW: dict[str, Any] = {"uplink_kbps": 512, "downlink_kbps": 512, "latency_ms": 100}
SHAKY: dict[str, Any] = {
    "uplink_kbps": 900,
    "latency_ms": 40,
    "jitter_ms": 15,
    "jitter": "lognormal",
    "loss": 0.02,
}


def link_with(**link: Any) -> TcpLink:
    return TcpLink(path_of(Link.model_validate(link), "up"), seed=0, owner=("c0", "up"))


def packet(kind: int, size: int) -> Packet:
    return Packet(kind, bytes([kind]) * size)


def arrivals(clock: Clock, link: TcpLink, sent: list[tuple[float, Packet]]) -> list[tuple[Any, int]]:
    """Send packets at their times; give when each arrived, and its kind."""
    arrived: list[tuple[Any, int]] = []
    path = PacketPath(clock, link, lambda data: arrived.append((clock.now, data[0])))
    for at_s, what in sent:
        clock.at(at_s, path.send, what)
    clock.run()
    return arrived


def test_a_publish_takes_the_time_of_its_line() -> None:
    clock = Clock()
    sent = [(1.0, packet(PUBLISH, 3000))]  # 3000 + 3 * 52 bytes at 64,000 bytes/s, and 0.1 s
    found = arrivals(clock, link_with(**SLOW), sent)
    assert found == [(pytest.approx(1.0 + 3156 / 64_000 + 0.1), PUBLISH)]


@pytest.mark.parametrize("link", [SLOW, SHAKY, SHAKY | {"jitter_per": "packet"}])
def test_any_sequence_arrives_as_in_virtual_time(link: dict[str, Any]) -> None:
    clock = Clock()
    times = [0.5 * number**1.5 % 7 for number in range(40)]
    sent = [
        (at_s, packet(PUBLISH, 100 + 3_701 * number % 90_000)) for number, at_s in enumerate(sorted(times))
    ]
    reference = link_with(**link)
    expected = [reference.carry(at_s, len(what.data)).arrival_s for at_s, what in sent]
    found = arrivals(clock, link_with(**link), sent)
    assert [at_s for at_s, _ in found] == pytest.approx(expected)


def test_what_carries_nothing_takes_the_latency_and_keeps_its_place() -> None:
    clock = Clock()
    sent = [(0.0, packet(PUBACK, 4)), (1.0, packet(PUBLISH, 64_000)), (1.1, packet(PUBACK, 4))]
    found = arrivals(clock, link_with(**SLOW), sent)
    assert [kind for _, kind in found] == [PUBACK, PUBLISH, PUBACK]
    first, whole, behind = (at_s for at_s, _ in found)
    assert first == pytest.approx(0.1)
    assert behind == whole > 2.0


def test_connecting_takes_five_latencies_and_the_suback() -> None:
    clock = Clock()
    up = link_with(**SLOW)
    (connected_s, _), (subscribed_s, _) = arrivals(
        clock, up, [(0.0, packet(CONNECT, 60)), (0.4, packet(8, 60))]
    )
    assert (connected_s, subscribed_s) == (pytest.approx(0.3), pytest.approx(0.5))
    clock = Clock()
    found = arrivals(clock, link_with(**SLOW), [(0.5, packet(SUBACK, 6))])
    assert found == [(pytest.approx(0.6 + 58 / 64_000), SUBACK)]


def test_a_new_connection_begins_with_an_idle_line() -> None:
    clock, link = Clock(), link_with(**SLOW)
    lost = PacketPath(clock, link, lambda _: pytest.fail("it was lost"))
    lost.send(packet(PUBLISH, 640_000))
    lost.close()
    found = arrivals(clock, link, [(0.0, packet(PUBLISH, 12))])
    assert found == [(pytest.approx(0.101), PUBLISH)]


def test_clients_behind_an_access_point_share_it(tmp_path: Path) -> None:
    scenario = small_scenario(
        tmp_path, "network={access_points: {cell: {uplink_kbps: 512}}}", "fleet=[{count: 3, via: cell}]"
    )
    clock = Clock()
    links, arrived = links_by_client(scenario, clock), list[tuple[str, Any]]()

    def note(client: str, _data: bytes) -> None:
        arrived.append((client, clock.now))

    for client in ("c0", "c1", "c2"):
        path = PacketPath(clock, links[client][0], functools.partial(note, client))
        path.send(packet(PUBLISH, 1396))  # a full packet less its headers
        path.send(packet(PUBACK, 4))
    clock.run()
    assert sorted(arrived) == [
        (client, pytest.approx(3 * 1448 / 64_000)) for client in ("c0", "c0", "c1", "c1", "c2", "c2")
    ]


def test_every_client_has_its_own_links(tmp_path: Path) -> None:
    scenario = small_scenario(tmp_path, "fleet=[{count: 1, link: 3g}, {count: 3, link: lte}]")
    links = links_by_client(scenario, Clock())
    assert set(links) == {SERVER, "c0", "c1", "c2", "c3"}
    assert links["c0"][0].path.bytes_per_s == pytest.approx(768_000 / 8)
    assert links["c0"][1].path.bytes_per_s == pytest.approx(1_600_000 / 8)
    assert links["c3"][0].path.bytes_per_s == pytest.approx(12_000_000 / 8)
    assert links[SERVER][0].path.instant


def test_a_line_may_hold_what_keeps_it_busy() -> None:
    satellite = PacketPath(Clock(), link_with(uplink_kbps=25_000, latency_ms=300), lambda _: None)
    slow = PacketPath(Clock(), link_with(**SLOW), lambda _: None)
    assert satellite.room_bytes == 2**17 + 937_500
    assert slow.room_bytes == 2**17 + 6_400


def complaint(scenario: Scenario) -> str:
    with pytest.raises(ScenarioError, match="--shape") as caught:
        check_shape(scenario)
    return str(caught.value)


def test_links_that_shape_nothing_are_a_mistake(tmp_path: Path) -> None:
    assert complaint(small_scenario(tmp_path)) == (
        "--shape: all links of small are 'none'; give the fleet a link"
    )
    for setting in ("fleet=[{count: 4, link: wifi}]", "network.server.link=ethernet"):
        check_shape(small_scenario(tmp_path, setting))


def test_what_is_inside_tls_cannot_be_shaped(tmp_path: Path) -> None:
    broker = "broker={kind: url, url: 'mqtts://example.org'}"
    scenario = small_scenario(tmp_path, "fleet=[{count: 4, link: wifi}]", broker)
    assert complaint(scenario) == "--shape: packets inside TLS cannot be told apart; use an mqtt:// broker"


def test_times_never_run_backwards() -> None:
    clock = Clock()
    sent = [(0.01 * number, packet((PUBLISH, PUBACK)[number % 2], 900)) for number in range(60)]
    found = arrivals(clock, link_with(**SHAKY), sent)
    assert [kind for _, kind in found] == [what.kind for _, what in sent]
    assert all(one <= two for (one, _), (two, _) in itertools.pairwise(found))


def test_devices_and_server_have_the_congestion_control_of_the_scenario(tmp_path: Path) -> None:
    lossy = "{uplink_kbps: 2000, downlink_kbps: 2000, latency_ms: 80, loss: 0.02}"
    arrivals: dict[tuple[str, str, str], float] = {}

    def note(clock: Clock, who: tuple[str, str, str], _start_s: float) -> None:
        arrivals[who] = clock.now

    for tcp in ("cubic", "reno"):
        scenario = small_scenario(
            tmp_path,
            f"network={{tcp: {tcp}, access_points: {{home: {{}}}}, server: {{link: {lossy}}}}}",
            f"fleet=[{{count: 2, link: {lossy}}}, {{count: 1, link: {lossy}, via: home}}]",
        )
        clock = Clock()
        for client, links in links_by_client(scenario, clock).items():
            for way, link in zip(("up", "down"), links, strict=True):
                if isinstance(link, TcpLink):
                    arrivals[tcp, client, way] = link.carry(0.0, 500_000).arrival_s
                else:
                    link.send(500_000, functools.partial(note, clock, (tcp, client, way)))
        clock.run()
    for (tcp, client, way), arrival_s in arrivals.items():
        if tcp == "reno":
            assert arrivals["cubic", client, way] != arrival_s, (client, way)
    assert len(arrivals) == 16
