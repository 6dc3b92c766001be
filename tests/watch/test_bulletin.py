"""Pages at the broker: only what has changed, one at a time, and never in the way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from broker.errors import BrokerError
from broker.machine import looking as looking_module
from broker.machine.looking import looking
from broker.transports import bulletin as bulletin_module
from broker.transports.base import Connect, Frame
from broker.transports.bulletin import PAUSES, Bulletin
from broker.transports.memory import MemoryBroker
from broker.wire import topics
from broker.wire.chunks import mqtt_packet_bytes
from edge_client.live import host
from scenarios.schema.scenario import client_names
from server_node.board import show as show_module
from server_node.board.pages import MAX_PAGE_BYTES, RunPage, decode
from server_node.live import serve
from sim.commands.operate import clear_run
from tests.helpers import small_scenario


class Slow:
    """A transport that notes what is published, and takes its time."""

    def __init__(self, takes_s: float = 0.0) -> None:
        self.said: list[tuple[str, bytes]] = []
        self.begun_s: list[float] = []
        self.at_once = self.most_at_once = 0
        self._takes_s = takes_s

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        assert retain
        self.begun_s.append(asyncio.get_running_loop().time())
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(self._takes_s)
        self.at_once -= 1
        self.said.append((topic, payload))


@asynccontextmanager
async def posting(transport: Any) -> AsyncIterator[Bulletin]:
    async with Bulletin(transport, lambda name: f"t/{name}") as bulletin:
        yield bulletin


async def test_only_what_has_changed_is_published() -> None:
    slow = Slow()
    async with posting(slow) as bulletin:
        for _ in range(3):
            bulletin.post([("run", b"1"), ("events", b"a")])
            await asyncio.sleep(0.1)
        bulletin.post([("run", b"2"), ("events", b"a")])
    assert slow.said == [("t/run", b"1"), ("t/events", b"a"), ("t/run", b"2")]
    assert bulletin.wire_bytes == sum(mqtt_packet_bytes(topic, len(content)) for topic, content in slow.said)


async def test_what_is_overtaken_is_not_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulletin_module, "PAUSE_S", (0.05, 1.0))
    slow = Slow()
    async with posting(slow) as bulletin:
        bulletin.post([("run", b"0")])
        await asyncio.sleep(0.01)
        for number in range(1, 100):
            bulletin.post([("run", b"%d" % number)])
        bulletin.post([("run", b"0")])  # as it was: there is nothing to say
    assert slow.said == [("t/run", b"0")]


async def test_one_is_under_way_at_a_time_and_a_slow_broker_is_left_alone() -> None:
    slow = Slow(takes_s=0.02)
    async with posting(slow) as bulletin:
        bulletin.post([(f"clients/{number}", b"x") for number in range(5)])
        await asyncio.sleep(0.9)
        early = len(slow.begun_s)
    assert slow.most_at_once == 1
    assert early <= 1 + 0.9 / (0.02 * PAUSES)
    assert len(slow.said) == 5  # at the end all that waits is said at once


async def test_many_parts_do_not_keep_the_run_waiting() -> None:
    slow = Slow()
    async with posting(slow) as bulletin:
        bulletin.post(
            [*((f"clients/{number}", b"x") for number in range(40)), ("run", b"1"), ("events", b"a")]
        )
    assert {"t/run", "t/events"} <= {topic for topic, _ in slow.said[:4]}


async def test_every_page_has_its_turn_where_all_change_faster_than_they_can_be_published(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bulletin_module, "PAUSE_S", (0.005, 0.005))
    names = ["run", "events", "round", "history", "clients/0", "clients/1"]
    slow = Slow(takes_s=0.001)
    async with posting(slow) as bulletin:
        for number in range(100):
            bulletin.post([(name, b"%d" % number) for name in names])
            await asyncio.sleep(0.003)
        topics_said = [topic for topic, _ in slow.said]
    assert len(topics_said) > 12
    for first in range(len(topics_said) - 8):
        assert {f"t/{name}" for name in names} == set(topics_said[first : first + 8])


async def test_at_its_end_it_does_not_wait_for_a_broker_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulletin_module, "FINISH_S", 0.1)
    async with posting(Slow(takes_s=3600)) as bulletin:
        bulletin.post([("run", b"1"), ("events", b"a")])
        await asyncio.sleep(0.01)


async def test_a_transport_that_has_given_up_is_no_error() -> None:
    class Gone:
        async def publish(self, *_args: object, **_more: object) -> None:
            raise BrokerError("gone")

    async with posting(Gone()) as bulletin:
        bulletin.post([("run", b"1")])
        await asyncio.sleep(0.05)
        bulletin.post([("run", b"2")])


async def test_what_waits_is_dropped_when_another_server_is_in_charge() -> None:
    slow = Slow()
    async with posting(slow) as bulletin:
        bulletin.post([("run", b"1"), ("events", b"a")])
        bulletin.post(None)
    assert slow.said == []


# in a run


async def a_run(connect: Connect, folder: Path, name: str, **options: Any) -> dict[str, Any]:
    scenario, stop = small_scenario(folder, "training.cohort=1"), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        server = group.create_task(
            serve(scenario, connect, run=name, folder=folder / name, stop=stop, **options)
        )
        group.create_task(host(scenario, connect, run=name, names=client_names(scenario), stop=stop))
    return dict(server.result())


async def test_watching_changes_neither_results_nor_bytes(tmp_path: Path) -> None:
    broker, plain = MemoryBroker(), MemoryBroker()
    one = await a_run(broker.transport, tmp_path, "one", posts=True)
    two = await a_run(plain.transport, tmp_path, "two")
    assert (tmp_path / "one/model.safetensors").read_bytes() == (
        tmp_path / "two/model.safetensors"
    ).read_bytes()
    assert one["bytes"] == two["bytes"]
    assert one["messages"] == two["messages"]
    assert [topic for topic in plain.retained if "/watch/" in topic] == []


async def test_a_run_leaves_its_pages_and_clear_removes_them(tmp_path: Path, connect: Connect) -> None:
    seen: list[Any] = []
    await a_run(connect, tmp_path, "run", posts=True, glance=seen.append)
    prefix = topics.watch("run", "")
    transport = connect(client_id="w", subscriptions=[topics.watch("run", "#")])
    pages: dict[str, bytes] = {}
    async with transport:
        async for event in transport.events():
            if isinstance(event, Frame):
                pages[event.topic.removeprefix(prefix)] = event.payload
            if len(pages) == 6:
                break
    assert set(pages) == {"run", "metric", "round", "history", "events", "clients/0"}
    assert all(len(page) <= MAX_PAGE_BYTES for page in pages.values())
    run = decode("run", pages["run"])
    assert isinstance(run, RunPage)
    assert (run.phase, run.reason, run.round, run.online) == ("finished", "complete", 20, 4)
    assert seen[-1].run == run
    assert await clear_run(connect, "run") == "cleared 12 retained messages of run"
    assert await clear_run(connect, "run") == "cleared 0 retained messages of run"


async def test_what_goes_wrong_with_showing_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_args: object) -> bytes:
        raise ZeroDivisionError

    monkeypatch.setattr(show_module, "encode", fails)
    summary = await a_run(MemoryBroker().transport, tmp_path, "run", posts=True)
    assert summary["reason"] == "complete"
    assert "cannot be shown any more" in caplog.text


async def test_a_program_is_looked_at_while_it_runs_and_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking_module, "LOOK_S", 0.01)
    looks: list[float] = []
    async with looking(looks.append):
        await asyncio.sleep(0.1)
        during = len(looks)
    assert during >= 2
    assert len(looks) == during + 1
    assert looks == sorted(looks)
