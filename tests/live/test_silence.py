"""A device that nobody answers says what may be wrong, once."""

import asyncio
import functools
import logging
from pathlib import Path

import pytest

from broker.transports.memory import MemoryBroker
from broker.transports.mqtt import MqttTransport
from edge_client import silence
from edge_client.joining import join
from edge_client.live import host
from edge_client.silence import attentive
from scenarios.schema.scenario import client_names
from server_node.live import serve
from tests.helpers import small_scenario
from tests.provisioning.fleets import access_of, broker_of, free_port, make_fleet


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence, "UNHEARD_S", 0.05)
    monkeypatch.setattr(silence, "UNANSWERED_S", 0.05)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == silence.__name__]


async def test_a_run_of_which_nothing_is_heard(caplog: pytest.LogCaptureFixture) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.3, stop.set)
    connect = attentive(MemoryBroker().transport, "pi-08")
    await join(connect, run="small", names=["c0"], stop=stop)
    (words,) = warnings(caplog)
    assert "nothing of run small" in words
    assert "user 'pi-08'" in words
    assert "fedlite fleet allow small" in words


async def test_a_broker_that_drops_what_a_device_says_in_anothers_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mosquitto_program: str
) -> None:
    assert mosquitto_program
    scenario = small_scenario(tmp_path, "name=first", "fleet=[{names: [pi-07, pi-08, c2, c3]}]")
    fleet, stop = make_fleet(tmp_path / "fleet", by_password=True, port=free_port()), asyncio.Event()
    with broker_of(fleet, "mosquitto", tmp_path / "data"):
        async with asyncio.TaskGroup() as group:
            connect = functools.partial(MqttTransport, access_of(fleet, "server.first"))
            group.create_task(serve(scenario, connect, run="first", folder=tmp_path / "run", stop=stop))
            connect = functools.partial(MqttTransport, access_of(fleet, "pi-08"))
            wrong = host(scenario, attentive(connect, "pi-08"), run="first", names=["pi-07"], stop=stop)
            group.create_task(wrong)
            async with asyncio.timeout(20):
                while not any("has not spoken" in words for words in warnings(caplog)):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            stop.set()
    words = warnings(caplog)[-1]
    assert "because it comes as user 'pi-08' and not as 'pi-07'" in words
    assert warnings(caplog).count(words) == 1


async def test_a_device_that_takes_part_hears_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "UNANSWERED_S", 5.0)
    monkeypatch.setattr(silence, "UNHEARD_S", 5.0)
    caplog.set_level(logging.WARNING)
    scenario, stop, broker = small_scenario(tmp_path, "training.rounds=3"), asyncio.Event(), MemoryBroker()
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(scenario, broker.transport, run="small", folder=tmp_path / "r", stop=stop))
        names = client_names(scenario)
        group.create_task(
            host(scenario, attentive(broker.transport, None), run="small", names=names, stop=stop)
        )
    assert warnings(caplog) == []
