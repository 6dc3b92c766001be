"""Two servers with the bundle of one: the broker ends the connection of each when the other comes."""

import asyncio
import functools
from pathlib import Path

import pytest

from broker.provisioning.fleet import Fleet
from broker.servers.spawn import Kind
from broker.transports.mqtt import MqttTransport
from scenarios.schema.scenario import Scenario
from server_node.live import serve
from server_node.protocol import core
from server_node.summary import Summary
from tests.helpers import small_scenario
from tests.provisioning.fleets import access_of, broker_of, free_port, make_fleet


class Servers:
    """Starts servers of one run, each in a folder of its own, as on a machine of its own."""

    def __init__(self, fleet: Fleet, scenario: Scenario, folder: Path) -> None:
        self._connect = functools.partial(MqttTransport, access_of(fleet, "server.first"))
        self._scenario, self._folder = scenario, folder
        self.stop = asyncio.Event()

    async def serve(
        self, name: str, begun: asyncio.Event | None = None, *, takeover: bool = False
    ) -> Summary:
        return await serve(
            self._scenario,
            self._connect,
            run="first",
            folder=self._folder / name,
            stop=self.stop,
            begun=begun,
            takeover=takeover,
            one_connection=True,
        )


@pytest.mark.parametrize("kind", ["mosquitto", "embedded"])
async def test_a_second_server_takes_the_run_only_when_it_is_told_to(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mosquitto_program: str
) -> None:
    assert mosquitto_program
    monkeypatch.setattr(core, "CLAIM_S", 1.0)
    fleet = make_fleet(tmp_path / "fleet", by_password=True, port=free_port())
    servers = Servers(fleet, small_scenario(tmp_path), tmp_path)
    with broker_of(fleet, kind, tmp_path / "broker"):
        async with asyncio.timeout(12), asyncio.TaskGroup() as group:
            begun, taken_over = asyncio.Event(), asyncio.Event()
            first = group.create_task(servers.serve("one", begun))
            await begun.wait()
            assert (await servers.serve("two"))["reason"] == "another server"
            assert not first.done()
            third = group.create_task(servers.serve("three", taken_over, takeover=True))
            await taken_over.wait()
            assert (await first)["reason"] == "superseded"
            servers.stop.set()
            assert (await third)["reason"] == "stopped"
