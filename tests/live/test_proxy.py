"""Real MQTT through shaped links: what arrives, how late, and what a run makes of it."""

import asyncio
import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from broker.errors import BrokerError
from broker.transports.base import Frame, Transport
from broker.transports.mqtt import MqttTransport
from broker.urls import parse_url
from scenarios.errors import ScenarioError
from scenarios.schema.scenario import Scenario
from server_node.vocabulary.ledger import FLOWS
from sim.live.run import run_here
from sim.shaped.proxy import LinkProxy
from tests.helpers import small_file, small_scenario

LINK = "fleet=[{count: 4, link: {uplink_kbps: 1000, downlink_kbps: 1000, latency_ms: 20}}]"


@asynccontextmanager
async def proxy(scenario: Scenario, url: str, run: str, speed_up: float = 1.0) -> AsyncIterator[str]:
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    links = LinkProxy(scenario, parse_url(url), run=run, speed_up=speed_up)
    async with asyncio.TaskGroup() as group:
        group.create_task(links.serve(stop, port.set_result))
        yield f"mqtt://127.0.0.1:{await port}"
        stop.set()


async def next_frame(transport: Transport) -> Frame:
    async for event in transport.events():
        if isinstance(event, Frame):
            return event
    raise AssertionError("the transport ended")


async def test_what_goes_through_arrives_whole_and_not_too_early(
    tmp_path: Path, broker_url: str, run_name: str
) -> None:
    loop, payload = asyncio.get_running_loop(), bytes(range(250)) * 1200  # three chunks
    scenario = small_scenario(tmp_path, LINK)
    async with asyncio.timeout(30), proxy(scenario, broker_url, run_name, speed_up=4) as url:
        make = functools.partial(MqttTransport, url)
        async with (
            make(client_id=f"{run_name}-c0", subscriptions=[f"{run_name}/down"]) as c0,
            MqttTransport(broker_url, client_id=f"{run_name}-x", subscriptions=[f"{run_name}/up"]) as other,
        ):
            for sender, receiver, topic in ((c0, other, "up"), (other, c0, "down")):
                from_s = loop.time()
                sending = asyncio.create_task(sender.publish(f"{run_name}/{topic}", payload))
                frame = await next_frame(receiver)
                assert frame.payload == payload
                assert loop.time() - from_s > (len(payload) / 125_000 + 0.02) / 4
                await sending


async def test_who_is_not_in_the_fleet_has_no_link(tmp_path: Path, embedded_url: str, run_name: str) -> None:
    async with asyncio.timeout(30), proxy(small_scenario(tmp_path, LINK), embedded_url, run_name) as url:
        stranger = MqttTransport(
            url, client_id=f"{run_name}-c9", subscriptions=[], connect_timeout_s=0.5
        )  # four clients: c0 to c3
        with pytest.raises(BrokerError, match="no MQTT broker"):
            await stranger.__aenter__()


async def test_a_second_connection_of_a_client_takes_over(
    tmp_path: Path, mosquitto_url: str, run_name: str
) -> None:
    scenario = small_scenario(tmp_path, LINK)
    async with asyncio.timeout(30), proxy(scenario, mosquitto_url, run_name) as url:
        first = await asyncio.open_connection("127.0.0.1", parse_url(url).port)
        name = f"{run_name}-c0".encode()
        body = b"\0\4MQTT\4\2\0\x1e" + len(name).to_bytes(2) + name
        first[1].write(bytes([0x10, len(body)]) + body)
        assert await first[0].readexactly(4) == b"\x20\2\0\0"
        async with MqttTransport(url, client_id=name.decode(), subscriptions=["a"]) as second:
            assert await first[0].read() == b""
            await second.publish("a", b"still here")
            assert (await next_frame(second)).payload == b"still here"
        first[1].close()
        await first[1].wait_closed()


@pytest.mark.slow
def test_a_shaped_run_sends_the_same_bytes_and_waits_for_its_links(tmp_path: Path) -> None:
    settings = ["training.rounds=3", "training.cohort=4", LINK]
    summaries = {}
    for name, shape in (("plain", None), ("shaped", 1.0)):
        summaries[name] = run_here(
            str(small_file(tmp_path)),
            settings,
            folder=tmp_path / name,
            processes=1,
            watch=lambda _fact, _ledger: None,
            shape=shape,
        )
    for flow in FLOWS:
        assert summaries["shaped"]["bytes"][flow] == summaries["plain"]["bytes"][flow]
    times_s = pq.read_table(tmp_path / "shaped/metrics.parquet")["elapsed_s"].to_pylist()
    payloads = sum(summaries["shaped"]["bytes"][flow]["payload"] for flow in FLOWS) / 12  # a client's round
    assert times_s[-1] > 3 * (4 * 0.02 + payloads / 125_000)  # four messages, one after the other


def test_a_run_whose_links_are_none_cannot_be_shaped(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="all links of small are 'none'"):
        run_here(
            str(small_file(tmp_path)),
            [],
            folder=tmp_path / "run",
            processes=1,
            watch=lambda _fact, _ledger: None,
            shape=1.0,
        )
    assert not (tmp_path / "run").exists()
