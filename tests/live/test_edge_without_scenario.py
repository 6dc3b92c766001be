"""Devices that have no scenario file: they take part in what the server publishes, or say why they cannot."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgpack
import numpy as np
import pytest
from typer.testing import CliRunner

from broker.cli.commands import app
from broker.errors import RunError
from broker.machine.event_log import Journal
from broker.transports.base import Connect, Frame
from broker.transports.memory import MemoryBroker
from broker.wire import packing, topics
from broker.wire.chunks import MAX_PACKET_BYTES
from broker.wire.messages import RunScenario
from edge_client.joining import join
from edge_client.live import host
from scenarios.errors import ScenarioError
from scenarios.heads.parts import HeadForm
from scenarios.loading import published
from scenarios.schema.network import FleetGroup
from scenarios.schema.scenario import Scenario, client_names
from scenarios.task import Task
from server_node import live
from server_node.live import serve
from server_node.vocabulary.ledger import Ledger
from server_node.vocabulary.plan import Plan, make_plan
from server_node.vocabulary.reports import Fact, RoundReport
from tests.helpers import small_scenario

TASK = Path(__file__).parents[1] / "small_task.py"
NAMED = "fleet=[{names: [pi-07, pi-08]}, {names: [late]}]"


async def take_part(
    connect: Connect,
    names: Sequence[str],
    stop: asyncio.Event,
    run: str = "small",
    journal: Journal | None = None,
) -> dict[str, str]:
    """Join as a device that has nothing but the task's code."""
    return await join(connect, run=run, names=names, stop=stop, module=str(TASK), journal=journal)


async def test_devices_that_have_no_scenario_do_a_whole_run(
    tmp_path: Path, connect: Connect, run_name: str
) -> None:
    scenario, stop = small_scenario(tmp_path), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        one = group.create_task(take_part(connect, ["c0", "c2"], stop, run_name))  # before the server
        server = group.create_task(serve(scenario, connect, run=run_name, folder=tmp_path / "r", stop=stop))
        two = group.create_task(take_part(connect, ["c1", "c3"], stop, run_name))
    assert one.result() | two.result() == dict.fromkeys(client_names(scenario), "complete")
    assert (server.result()["reason"], server.result()["rounds"]) == ("complete", 20)
    assert server.result()["messages"]["rejected"] == 0


async def test_who_comes_after_the_end_leaves_and_says_why(tmp_path: Path) -> None:
    scenario, stop, broker = small_scenario(tmp_path, "training.rounds=2"), asyncio.Event(), MemoryBroker()
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(scenario, broker.transport, run="small", folder=tmp_path / "run", stop=stop))
        group.create_task(take_part(broker.transport, client_names(scenario), stop))
    assert await take_part(broker.transport, ["c0"], stop) == {"c0": "complete"}


async def test_a_device_that_waits_for_a_scenario_says_so_and_can_be_stopped() -> None:
    stop, said = asyncio.Event(), list[str]()

    def say(line: str) -> None:
        said.append(line)
        stop.set()

    ended = await join(MemoryBroker().transport, run="small", names=["c0", "c1"], stop=stop, say=say)
    assert ended == {"c0": "stopped", "c1": "stopped"}
    assert said == ["asking the broker for the scenario of run small; its server may not have begun"]


def begins_without_the_whole_fleet(
    scenario: Scenario, task: Task, *, run: str, head: HeadForm, incarnation: int
) -> Plan:
    plan = make_plan(scenario, task, run=run, head=head, incarnation=incarnation)
    return replace(plan, join_s=0.01)


async def test_a_device_joins_a_run_that_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "make_plan", begins_without_the_whole_fleet)
    scenario = small_scenario(tmp_path, NAMED, "training.cohort=2", "training.rounds=60")
    broker, stop, under_way = MemoryBroker(), asyncio.Event(), asyncio.Event()
    reports, journal = list[RoundReport](), Journal(["late"])

    def watch(fact: Fact, _ledger: Ledger) -> None:
        if isinstance(fact, RoundReport):
            reports.append(fact)
            if fact.round == 2:
                under_way.set()

    async with asyncio.TaskGroup() as group:
        server = group.create_task(
            serve(scenario, broker.transport, run="small", folder=tmp_path / "run", stop=stop, watch=watch)
        )
        group.create_task(take_part(broker.transport, ["pi-07", "pi-08"], stop))
        await under_way.wait()
        late = group.create_task(take_part(broker.transport, ["late"], stop, journal=journal))
    assert server.result()["reason"] == "complete"
    assert late.result() == {"late": "complete"}
    assert [report.clients for report in reports] == [2] * 60
    assert (reports[1].online, reports[-1].online) == (2, 3)
    trained = {seen.round for seen in journal.notes.sightings if seen.kind == "HeadUpdate"}
    assert trained
    assert min(trained) > 2


async def begun(broker: MemoryBroker) -> None:
    """Wait for a server that has taken charge."""
    async with broker.transport(client_id="test", subscriptions=[topics.state("small")]) as transport:
        async for event in transport.events():
            if isinstance(event, Frame):
                return


async def with_published(scenario: Scenario, tmp_path: Path) -> MemoryBroker:
    """Give a broker on which a server has published its scenario and paused."""
    broker, stop = MemoryBroker(), asyncio.Event()
    serving = asyncio.create_task(
        serve(scenario, broker.transport, run="small", folder=tmp_path / "run", stop=stop)
    )
    await begun(broker)
    stop.set()
    await serving
    return broker


async def test_who_is_not_in_the_fleet_is_told_who_is(tmp_path: Path) -> None:
    broker = await with_published(small_scenario(tmp_path, NAMED), tmp_path)
    with pytest.raises(
        ScenarioError, match=r"^no such client: pi-99; the fleet has 3 clients: pi-07, pi-08, late$"
    ):
        await take_part(broker.transport, ["pi-99"], asyncio.Event())


async def test_a_device_without_the_tasks_code_is_told_what_it_needs(tmp_path: Path) -> None:
    broker = await with_published(small_scenario(tmp_path), tmp_path)
    with pytest.raises(ScenarioError, match=r"in the file small_task\.py: copy that file"):
        await join(broker.transport, run="small", names=["c0"], stop=asyncio.Event())


async def test_where_a_device_has_its_data_is_taken_for_its_own_if_the_run_says_so(tmp_path: Path) -> None:
    broker = await with_published(small_scenario(tmp_path, "task.partition=local"), tmp_path)
    with pytest.raises(ScenarioError, match=r"no such file or folder: /nowhere"):
        await join(
            broker.transport,
            run="small",
            names=["c0"],
            stop=asyncio.Event(),
            data="/nowhere",
            module=str(TASK),
        )


async def test_a_device_with_other_code_of_the_task_leaves_and_both_sides_say_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tmp_path / "other.py"
    other.write_text(TASK.read_text().replace("nn.ReLU", "nn.Tanh"))
    scenario, broker, stop = small_scenario(tmp_path), MemoryBroker(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(scenario, broker.transport, run="small", folder=tmp_path / "run", stop=stop))
        group.create_task(take_part(broker.transport, ["c0", "c2", "c3"], stop))
        ended = await join(broker.transport, run="small", names=["c1"], stop=stop, module=str(other))
        stop.set()
    assert ended["c1"].startswith("model: the code of the task differs in the source of the task: ")
    assert f"refused a message of c1: {ended['c1']}" in caplog.text


async def test_a_scenario_that_is_too_long_is_not_published_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scenario = small_scenario(tmp_path)
    rng = np.random.default_rng(0)
    many = (FleetGroup(names=tuple(rng.bytes(15).hex() for _ in range(10_000))),)
    assert published.offer_scenario(scenario) != b""
    assert published.offer_scenario(scenario.model_copy(update={"fleet": many})) == b""
    assert "they need its file: compressed it has " in caplog.text


def test_the_longest_scenario_that_is_published_fits_into_a_packet() -> None:
    packed = bytes(MAX_PACKET_BYTES - published.ENVELOPE_BYTES)
    message = RunScenario(packed, "a6aabfb4-bb870c27")
    assert len(packing.encode(message)) == MAX_PACKET_BYTES


# Versions.

LATER_STATE = msgpack.packb([4, 3, "running", 1, "whatever comes in version 4"])
LATER_STATUS = msgpack.packb([4, 2, True, 1])
SPEAKS = "speaks protocol 4, this side 3: update one of them"


@pytest.mark.parametrize("with_file", [True, False])
async def test_a_device_leaves_a_server_that_speaks_another_version(
    tmp_path: Path, *, with_file: bool
) -> None:
    broker = MemoryBroker()
    broker.publish("fl/4/small/state", LATER_STATE, retain=True)
    if with_file:
        scenario, stop = small_scenario(tmp_path), asyncio.Event()
        ended = await host(scenario, broker.transport, run="small", names=["c0"], stop=stop)
        assert ended == {"c0": f"version: the server {SPEAKS}"}
    else:
        with pytest.raises(RunError, match=f"^version: the server {SPEAKS}$"):
            await take_part(broker.transport, ["c0"], asyncio.Event())


async def test_a_server_names_a_device_of_another_version_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    scenario, broker, stop = small_scenario(tmp_path, "training.rounds=3"), MemoryBroker(), asyncio.Event()
    broker.publish("fl/4/small/status/c3", LATER_STATUS, retain=True)
    async with asyncio.TaskGroup() as group:
        server = group.create_task(
            serve(scenario, broker.transport, run="small", folder=tmp_path / "run", stop=stop)
        )
        await begun(broker)
        broker.publish("fl/4/small/status/c3", LATER_STATUS, retain=True)
        group.create_task(
            host(scenario, broker.transport, run="small", names=client_names(scenario), stop=stop)
        )
    assert server.result()["reason"] == "complete"
    assert server.result()["messages"]["rejected_by_reason"] == {"version": 2}
    assert caplog.text.count(f"c3 {SPEAKS}") == 1


# The command line.


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--run=small"],
        ["--client=c0"],
        ["--run=small", "--client=c0", "--clients=0-3"],
    ],
)
def test_without_a_scenario_the_command_needs_run_and_client(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, ["edge", "--broker=mqtt://127.0.0.1:1", *arguments])
    assert result.exit_code == 2
    assert result.output.startswith("error: give a scenario, or --run NAME and --client C ")
