"""Several brokers in one list: they are tried in turn, and a run goes on when the first is killed."""

import asyncio
import functools
from pathlib import Path

import pytest

from broker.errors import BrokerError
from broker.servers import spawn
from broker.transports.base import Connected
from broker.transports.mqtt import MqttTransport
from edge_client.live import host
from scenarios.schema.scenario import client_names
from server_node.live import serve
from server_node.vocabulary.ledger import Ledger
from server_node.vocabulary.reports import Fact, RoundReport
from tests.broker.test_brokers import kill_session, mortal_broker
from tests.helpers import small_scenario


async def test_the_first_that_answers_is_taken(tmp_path: Path) -> None:
    port, dead = spawn._free_port(), spawn._free_port()
    urls = f"mqtt://127.0.0.1:{dead},mqtt://127.0.0.1:{port}"
    with mortal_broker("embedded", tmp_path / "broker", port):
        async with MqttTransport(urls, client_id="a", subscriptions=[]) as client:
            assert isinstance(await anext(client.events()), Connected)


async def test_when_none_answers_all_are_named() -> None:
    urls = [f"mqtt://u:secret@127.0.0.1:{spawn._free_port()}" for _ in range(2)]
    with pytest.raises(BrokerError) as caught:
        await MqttTransport(
            ",".join(urls), client_id="a", subscriptions=[], connect_timeout_s=0.4
        ).__aenter__()
    assert all(url.rpartition("@")[2] in str(caught.value) for url in urls)
    assert "secret" not in str(caught.value)


async def test_a_run_goes_on_at_the_second_when_the_first_is_killed(
    tmp_path: Path, mosquitto_program: str
) -> None:
    assert mosquitto_program
    ports = [spawn._free_port() for _ in range(2)]
    scenario = small_scenario(tmp_path, "training.rounds=60")
    urls = ",".join(f"mqtt://127.0.0.1:{port}" for port in ports)
    connect, stop, under_way = functools.partial(MqttTransport, urls), asyncio.Event(), asyncio.Event()
    rounds: list[int] = []

    def watch(fact: Fact, _ledger: Ledger) -> None:
        if isinstance(fact, RoundReport):
            rounds.append(fact.round)
            if fact.round == 3:
                under_way.set()

    with (
        mortal_broker("mosquitto", tmp_path / "one", ports[0]) as first,
        mortal_broker("mosquitto", tmp_path / "two", ports[1]),
    ):
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            server = group.create_task(
                serve(scenario, connect, run="small", folder=tmp_path / "run", stop=stop, watch=watch)
            )
            clients = group.create_task(
                host(scenario, connect, run="small", names=client_names(scenario), stop=stop)
            )
            await under_way.wait()
            await asyncio.to_thread(kill_session, first)
    assert server.result()["reason"] == "complete"
    assert set(clients.result().values()) == {"complete"}
    assert rounds == list(range(1, 61))
