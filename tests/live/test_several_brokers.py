"""Several brokers in one list: they are tried in turn, and a run goes on when the first is killed."""

import asyncio
import functools
from dataclasses import replace
from pathlib import Path

import pytest

from broker.errors import BrokerError, RefusedError
from broker.servers import spawn
from broker.transports.access import Access
from broker.transports.base import Connected
from broker.transports.mqtt import MqttTransport
from edge_client.live import host
from scenarios.schema.scenario import client_names
from server_node.live import serve
from server_node.vocabulary.ledger import Ledger
from server_node.vocabulary.reports import Fact, RoundReport
from tests.broker.test_brokers import kill_session, mortal_broker
from tests.broker.test_transport import scripted_broker
from tests.helpers import small_scenario
from tests.provisioning.fleets import access_of, broker_of, free_port, make_fleet


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


async def connected_to(urls: str, access: Access | None = None) -> str:
    """Connect; give the broker where that came about."""
    transport = MqttTransport(access or urls, client_id="pi-07", subscriptions=[])
    async with asyncio.timeout(10), transport as client:
        assert isinstance(await anext(client.events()), Connected)
    return str(transport._brokers.address)


async def test_one_that_refuses_the_user_ends_nothing_as_long_as_another_one_may_let_it_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes([0x20, 2, 0, 5]))
        await writer.drain()

    port = spawn._free_port()
    with mortal_broker("embedded", tmp_path / "broker", port):
        async with scripted_broker(refuse) as first, scripted_broker(refuse) as second:
            good = f"mqtt://127.0.0.1:{port}"
            assert await connected_to(f"{first},{second},{good}") == good
            assert [record.message for record in caplog.records if "trying the next" in record.message] == [
                f"pi-07: {each} refuses us: not authorized; trying the next broker"
                for each in (first, second)
            ]
            with pytest.raises(RefusedError, match=f"{second} refuses us: not authorized"):
                await connected_to(f"{first},{second}")


async def test_one_that_refuses_the_certificate_ends_nothing_and_is_forgiven(
    tmp_path: Path, mosquitto_program: str
) -> None:
    assert mosquitto_program
    ours = make_fleet(tmp_path / "ours", by_password=False, port=free_port())
    other = make_fleet(tmp_path / "other", by_password=False, port=free_port())
    with broker_of(ours, "mosquitto", tmp_path / "a"), broker_of(other, "mosquitto", tmp_path / "b"):
        good, bad = (access_of(fleet, "pi-07").brokers[0] for fleet in (ours, other))
        own = access_of(ours, "pi-07")
        assert own.ca_file is not None
        both = tmp_path / "both.crt"  # so that the other broker is trusted, and refuses us
        both.write_text(own.ca_file.read_text() + (other.folder / "ca" / "ca.crt").read_text())
        access = replace(own, brokers=(bad, good), ca_file=both)
        for _ in range(2):  # what the first has said does not end the second client of the process
            assert await connected_to("", access) == str(good)
        with pytest.raises(RefusedError, match=f"{bad} refuses our certificate: unknown ca"):
            await connected_to("", replace(access, brokers=(bad,)))


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
