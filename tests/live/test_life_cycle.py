"""A run that is paused, continued, ended and begun anew; one server for one run; devices that die."""

import asyncio
import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from broker.errors import AnotherServerError, RunError, UnreachableError
from broker.exits import Exit
from broker.servers.spawn import local_broker
from broker.transports.base import Connect
from broker.transports.memory import MemoryBroker
from broker.transports.mqtt import MqttTransport
from broker.wire import packing, topics
from broker.wire.messages import RunState, Status
from edge_client.live import host
from edge_client.training.device import Device
from scenarios.schema.scenario import Scenario, client_names
from server_node import checkpoint
from server_node.live import serve
from server_node.summary import Summary
from server_node.tail import Tail
from server_node.vocabulary.ledger import Ledger
from server_node.vocabulary.reports import Fact, RoundReport, Watch
from sim.commands.operate import clear_run, stop_run
from tests.helpers import small_file, small_scenario

HANG_S = 300.0
"""Guards against a hang; no test depends on how long anything takes."""


@contextlib.asynccontextmanager
async def fleet(scenario: Scenario, broker: MemoryBroker) -> AsyncIterator["asyncio.Task[dict[str, str]]"]:
    """Host all clients while the context lasts, or until they leave."""
    stop, names = asyncio.Event(), client_names(scenario)
    async with asyncio.TaskGroup() as group:
        yield group.create_task(host(scenario, broker.transport, run="small", names=names, stop=stop))
        stop.set()


def after(number: int, act: Callable[[], object]) -> Watch:
    """Act when a round has ended."""

    def watch(fact: Fact, _ledger: Ledger) -> None:
        if isinstance(fact, RoundReport) and fact.round == number:
            act()

    return watch


async def serve_until(
    number: int, scenario: Scenario, connect: Connect, folder: Path, **options: Any
) -> Summary:
    """Serve, and stop the server when a round has ended."""
    stop = asyncio.Event()
    watch = after(number, stop.set)
    return await serve(scenario, connect, run="small", folder=folder, stop=stop, watch=watch, **options)


def state_at(broker: MemoryBroker) -> RunState:
    state = packing.decode(broker.retained[topics.state("small")])
    assert isinstance(state, RunState)
    return state


def rounds_in(folder: Path) -> list[int]:
    return [row["round"] for row in pq.read_table(folder / "metrics.parquet").to_pylist()]


async def test_a_stopped_server_pauses_the_run_and_the_next_one_goes_on_with_the_same_clients(
    tmp_path: Path,
) -> None:
    scenario, broker, folder = small_scenario(tmp_path), MemoryBroker(), tmp_path / "run"
    async with fleet(scenario, broker) as clients:
        first = await serve_until(3, scenario, broker.transport, folder)
        assert (first["reason"], first["rounds"]) == ("stopped", 3)
        assert state_at(broker).phase == "paused"
        assert not clients.done()
        second = await serve_until(0, scenario, broker.transport, folder)
        assert (second["reason"], second["rounds"]) == ("complete", 20)
        assert set((await clients).values()) == {"complete"}
    assert rounds_in(folder) == list(range(1, 21))
    assert second["bytes"]["activations_up"]["raw_float32"] == 60 * 10 * 16 * 4  # no step was lost or doubled


async def test_a_run_that_is_paused_in_the_middle_of_a_round_keeps_the_model_of_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clients send two batches a round; the server stops when the tail has taken one of round 4."""
    scenario, broker = small_scenario(tmp_path, "training.local_steps=2", "training.cohort=1"), MemoryBroker()
    stop, run = asyncio.Event(), Tail.run

    def stopping(self: Tail, job: Any) -> Any:
        result = run(self, job)
        if getattr(job, "number", getattr(job, "round", 0)) == 4 and type(job).__name__ == "TailUpdate":
            loop.call_soon_threadsafe(stop.set)
        return result

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(Tail, "run", stopping)
    async with fleet(scenario, broker):
        summary = await serve(scenario, broker.transport, run="small", folder=tmp_path / "a", stop=stop)
        rounds = summary["rounds"]
        monkeypatch.undo()
    other = MemoryBroker()
    async with fleet(scenario, other):
        await serve_until(rounds, scenario, other.transport, tmp_path / "b")
    one, two = (load_file(tmp_path / name / checkpoint.FILE) for name in ("a", "b"))
    assert all((one[name] == two[name]).all() for name in one)


async def test_a_run_that_is_over_says_so_and_is_left_as_it_is(tmp_path: Path) -> None:
    scenario, broker, folder = small_scenario(tmp_path), MemoryBroker(), tmp_path / "run"
    async with fleet(scenario, broker):
        summary = await serve_until(0, scenario, broker.transport, folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "server.json"}
    broker.retained.clear()  # a broker that has forgotten all, and clients that wait
    async with fleet(scenario, broker) as clients:
        assert await serve_until(0, scenario, broker.transport, folder) == summary
        assert set((await clients).values()) == {"complete"}
    assert before == {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "server.json"}


async def test_rounds_can_be_added_to_a_finished_run(tmp_path: Path) -> None:
    broker, folder = MemoryBroker(), tmp_path / "run"
    for rounds in (4, 6):
        scenario = small_scenario(tmp_path, f"training.rounds={rounds}")
        broker.retained.pop(topics.state("small"), None)
        async with fleet(scenario, broker):
            summary = await serve_until(0, scenario, broker.transport, folder)
        assert (summary["reason"], summary["rounds"]) == ("complete", rounds)
    assert rounds_in(folder) == [1, 2, 3, 4, 5, 6]


async def test_another_scenario_is_refused_by_the_keys_that_differ(tmp_path: Path) -> None:
    scenario, broker, folder = small_scenario(tmp_path, "training.rounds=2"), MemoryBroker(), tmp_path / "run"
    async with fleet(scenario, broker):
        await serve_until(0, scenario, broker.transport, folder)
    other = small_scenario(
        tmp_path, "training.head_lr=0.2", "flows.gradient_down.codec=int4", "training.evaluate_every=10",
        "broker.kind=mosquitto",
    )  # fmt: skip
    with pytest.raises(RunError) as refused:
        await serve_until(0, other, broker.transport, folder)
    assert str(refused.value).splitlines() == [
        f"{folder} has the run of another scenario:",
        '  flows.gradient_down.codec was "int8" and is "int4" now',
        "  training.evaluate_every was 5 and is its default now",
        "  training.head_lr was 0.3 and is 0.2 now",
        "--fresh begins anew over it, --out names another folder",
    ]


async def test_beginning_anew_must_be_asked_for(tmp_path: Path) -> None:
    scenario, folder = small_scenario(tmp_path, "training.rounds=3"), tmp_path / "run"
    for number in (1, 2):
        broker = MemoryBroker()
        async with fleet(scenario, broker):
            summary = await serve_until(0, scenario, broker.transport, folder, fresh=True)
        assert summary["rounds"] == 3
        assert summary["messages"]["received"] < 60, number  # of one run, not of both
    for name in (checkpoint.FILE, checkpoint.PREVIOUS):
        (folder / name).unlink()
    with pytest.raises(RunError, match="has the results of a live run and no checkpoint"):
        await serve_until(0, scenario, MemoryBroker().transport, folder)


async def test_a_server_goes_on_from_the_checkpoint_before_a_damaged_one_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scenario, broker, folder = small_scenario(tmp_path), MemoryBroker(), tmp_path / "run"
    async with fleet(scenario, broker):
        await serve_until(6, scenario, broker.transport, folder)
        file = folder / checkpoint.FILE
        file.write_bytes(file.read_bytes()[:-1])
        summary = await serve_until(0, scenario, broker.transport, folder)
    assert summary["damaged_checkpoints"] == [f"{file} is damaged: its checksum is wrong"]
    assert f"{file} is damaged: its checksum is wrong; going on from the one before" in caplog.messages
    assert rounds_in(folder) == list(range(1, 21))


async def test_clients_that_come_after_the_end_leave_and_say_why(tmp_path: Path) -> None:
    scenario, broker = small_scenario(tmp_path, "training.rounds=2"), MemoryBroker()
    async with fleet(scenario, broker):
        await serve_until(0, scenario, broker.transport, tmp_path / "run")
    async with fleet(scenario, broker) as late:
        assert set((await late).values()) == {"complete"}


async def test_an_operator_ends_a_run_for_good(tmp_path: Path) -> None:
    scenario, broker = small_scenario(tmp_path, "training.rounds=100000"), MemoryBroker()
    reached = asyncio.Event()
    async with fleet(scenario, broker) as clients:
        serving = asyncio.create_task(
            serve(
                scenario, broker.transport, run="small", folder=tmp_path / "run", stop=asyncio.Event(),
                watch=after(3, reached.set),
            )
        )  # fmt: skip
        await reached.wait()
        assert "stopped for good" in await stop_run(broker.transport, "small")
        assert (await serving)["reason"] == "stopped for good"
        assert set((await clients).values()) == {"stopped for good"}
    again = await serve_until(0, scenario, broker.transport, tmp_path / "run")
    assert again == await serving  # it is over, although rounds are left


async def test_an_operator_ends_a_run_whose_server_is_away(tmp_path: Path) -> None:
    scenario, broker = small_scenario(tmp_path), MemoryBroker()
    async with fleet(scenario, broker) as clients:
        await serve_until(3, scenario, broker.transport, tmp_path / "run")
        assert "no server was at work" in await stop_run(broker.transport, "small")
        assert set((await clients).values()) == {"stopped for good"}


async def test_there_is_no_such_run_to_stop() -> None:
    with pytest.raises(RunError, match="the broker knows no run 'small'"):
        await stop_run(MemoryBroker().transport, "small")


async def test_clearing_a_run_leaves_nothing_of_it_at_the_broker(tmp_path: Path, connect: Connect) -> None:
    scenario = small_scenario(tmp_path, "training.rounds=2")
    async with asyncio.TaskGroup() as group:
        names, stop = client_names(scenario), asyncio.Event()
        group.create_task(host(scenario, connect, run="cleared", names=names, stop=stop))
        group.create_task(serve(scenario, connect, run="cleared", folder=tmp_path / "run", stop=stop))
    assert await clear_run(connect, "cleared") == "cleared 6 retained messages of cleared"
    assert await clear_run(connect, "cleared") == "cleared 0 retained messages of cleared"


async def test_a_run_with_a_server_at_work_is_not_cleared() -> None:
    broker = MemoryBroker()
    broker.publish(topics.state("small"), packing.encode(RunState("running", 1)), retain=True)
    with pytest.raises(RunError, match="a server is at work on 'small'"):
        await clear_run(broker.transport, "small")
    assert await clear_run(broker.transport, "small", force=True) == "cleared 1 retained messages of small"
    assert broker.retained == {}


# one server, one run


async def test_a_second_server_of_a_folder_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    scenario, broker, folder = small_scenario(tmp_path), MemoryBroker(), tmp_path / "run"
    refused: list[AnotherServerError] = []

    async def second() -> None:
        with pytest.raises(AnotherServerError) as error:
            await serve_until(0, scenario, broker.transport, folder)
        refused.append(error.value)

    seconds: list[asyncio.Task[None]] = []
    async with fleet(scenario, broker):
        watch = after(3, lambda: seconds.append(asyncio.create_task(second())))
        stop = asyncio.Event()
        summary = await serve(scenario, broker.transport, run="small", folder=folder, stop=stop, watch=watch)
        await seconds[0]
    assert f"another server (process {os.getpid()} on {socket.gethostname()}) works in" in str(refused[0])
    assert (summary["reason"], summary["rounds"]) == ("complete", 20)


async def test_a_server_whose_folder_was_taken_writes_nothing_more(tmp_path: Path) -> None:
    """The new one speaks over another broker, so that only the folder can tell the old one."""
    scenario, folder = small_scenario(tmp_path, "training.rounds=100000"), tmp_path / "run"
    old, new = MemoryBroker(), MemoryBroker()
    reached = asyncio.Event()
    async with fleet(scenario, old), fleet(scenario, new):
        first = asyncio.create_task(
            serve(
                scenario, old.transport, run="small", folder=folder, stop=asyncio.Event(),
                watch=after(3, reached.set),
            )
        )  # fmt: skip
        await reached.wait()
        second = await serve_until(12, scenario, new.transport, folder, takeover=True)
        assert (await first)["reason"] == "superseded"
    assert second["reason"] == "stopped"
    assert rounds_in(folder) == list(range(1, second["rounds"] + 1))
    assert len(checkpoint.load(folder / checkpoint.FILE, checkpoint.Progress)[0].rows) == second["rounds"]


async def test_of_two_servers_with_two_folders_one_goes_on(tmp_path: Path, broker_url: str) -> None:
    scenario, stop = small_scenario(tmp_path, "training.rounds=30"), asyncio.Event()
    connect = functools.partial(MqttTransport, broker_url)
    closed: dict[str, list[int]] = {"a": [], "b": []}
    begun = asyncio.Event()

    async def serving(name: str, **options: Any) -> Summary:
        def watch(fact: Fact, _ledger: Ledger) -> None:
            if isinstance(fact, RoundReport):
                closed[name].append(fact.round)

        return await serve(
            scenario, connect, run="rivals", folder=tmp_path / name, stop=stop, watch=watch, **options
        )

    first = asyncio.create_task(serving("a", begun=begun))
    await begun.wait()
    second = await serving("b")
    assert (second["reason"], closed) == ("another server", {"a": [], "b": []})
    assert not (tmp_path / "b" / "summary.json").exists()
    await host(scenario, connect, run="rivals", names=client_names(scenario), stop=stop)
    assert (await first)["reason"] == "complete"
    assert closed == {"a": list(range(1, 31)), "b": []}


@contextlib.contextmanager
def server_process(folder: Path, url: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Start `fedlite server` on the small scenario with rounds without end."""
    command = [
        sys.executable,
        "-m",
        "broker.cli",
        "server",
        str(small_file(folder)),
        f"--broker={url}",
    ]
    with subprocess.Popen(
        [*command, f"--out={folder / 'run'}", "--set=training.rounds=100000", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


async def state_when(url: str, wanted: Callable[[RunState], bool]) -> RunState:
    """Wait until the run's state is as wanted."""
    async with MqttTransport(url, client_id="watcher", subscriptions=[topics.state("small")]) as transport:
        async for frame in transport.events():
            payload = getattr(frame, "payload", b"")
            state = packing.decode(payload) if payload else None
            if isinstance(state, RunState) and wanted(state):
                return state
    raise AssertionError


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGSTOP")
async def test_a_frozen_server_that_was_superseded_applies_nothing_more(tmp_path: Path) -> None:
    scenario, stop = small_scenario(tmp_path, "training.rounds=100000"), asyncio.Event()
    with local_broker("mosquitto", tmp_path / "broker") as url:
        connect = functools.partial(MqttTransport, url)
        hosting = asyncio.create_task(
            host(scenario, connect, run="small", names=client_names(scenario), stop=stop)
        )
        with server_process(tmp_path, url) as old:
            await state_when(url, lambda state: state.phase == "running")
            old.send_signal(signal.SIGSTOP)
            with server_process(tmp_path, url, "--takeover") as new:
                before = await state_when(url, lambda state: state.phase == "running" and state.server == 2)
                old.send_signal(signal.SIGCONT)
                _, said = await asyncio.to_thread(old.communicate, timeout=HANG_S)
                assert old.returncode == Exit.SUPERSEDED, said
                assert "another server has taken the run over" in said
                new.send_signal(signal.SIGTERM)
                _, said = await asyncio.to_thread(new.communicate, timeout=HANG_S)
                assert new.returncode == Exit.STOPPED, said
        after_all = await state_when(url, lambda state: state.phase == "paused")
        assert (after_all.server, after_all.token) == (2, before.token)
        stop.set()
        await hosting
    rows = rounds_in(tmp_path / "run")
    assert rows == list(range(1, len(rows) + 1))


# devices


async def test_a_device_whose_training_raises_says_offline_and_nobody_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broker_url: str
) -> None:
    scenario = small_scenario(tmp_path, "training.rounds=10", "training.cohort=4")
    run, stop, connect = Device.run, asyncio.Event(), functools.partial(MqttTransport, broker_url)

    def breaks(self: Device, job: Any) -> Any:
        if job.client == "c2":
            raise ZeroDivisionError("in the training")
        return run(self, job)

    monkeypatch.setattr(Device, "run", breaks)

    async def doomed() -> None:
        with pytest.raises(ExceptionGroup) as raised:
            await host(scenario, connect, run="dying", names=["c2"], stop=stop)
        assert raised.value.subgroup(ZeroDivisionError) is not None

    async with asyncio.TaskGroup() as group:
        serving = group.create_task(serve(scenario, connect, run="dying", folder=tmp_path / "run", stop=stop))
        group.create_task(host(scenario, connect, run="dying", names=["c0", "c1", "c3"], stop=stop))
        group.create_task(doomed())
    assert (serving.result()["reason"], serving.result()["rounds"]) == ("complete", 10)
    topic = topics.status("dying", "c2")
    async with connect(client_id="reader", subscriptions=[topic]) as transport:
        async for frame in transport.events():
            if getattr(frame, "topic", "") == topic:
                status = packing.decode(frame.payload)  # type: ignore[union-attr]
                assert isinstance(status, Status)
                assert not status.online
                break


# a broker that is not there yet


async def test_a_broker_that_is_not_there_yet_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    scenario, stop = small_scenario(tmp_path, "training.rounds=2"), asyncio.Event()
    connect = functools.partial(MqttTransport, f"mqtt://127.0.0.1:{port}", connect_timeout_s=None)
    async with asyncio.TaskGroup() as group:
        names = client_names(scenario)
        serving = group.create_task(serve(scenario, connect, run="early", folder=tmp_path / "run", stop=stop))
        hosting = group.create_task(host(scenario, connect, run="early", names=names, stop=stop))
        while not any("waiting for it" in message for message in caplog.messages):  # noqa: ASYNC110  a log
            await asyncio.sleep(0.01)
        broker = local_broker("embedded", tmp_path / "broker", port)
        await asyncio.to_thread(broker.__enter__)
        await asyncio.wait({serving, hosting})
    await asyncio.to_thread(broker.__exit__, None, None, None)
    assert serving.result()["reason"] == "complete"
    assert len([message for message in caplog.messages if "waiting for it" in message]) == 1


async def test_who_waits_for_a_broker_can_be_stopped_or_gives_up_when_told_to(tmp_path: Path) -> None:
    scenario, stop = small_scenario(tmp_path), asyncio.Event()
    nowhere = functools.partial(MqttTransport, "mqtt://127.0.0.1:1")
    waits = functools.partial(nowhere, connect_timeout_s=None)
    serving = asyncio.create_task(serve(scenario, waits, run="small", folder=tmp_path / "run", stop=stop))
    hosting = asyncio.create_task(host(scenario, waits, run="small", names=["c0"], stop=stop))
    await asyncio.sleep(0)
    stop.set()
    assert (await serving)["reason"] == "stopped"
    assert await hosting == {"c0": "stopped"}
    gives_up = functools.partial(nowhere, connect_timeout_s=0.1)
    with pytest.raises(UnreachableError):
        await serve(scenario, gives_up, run="small", folder=tmp_path / "run", stop=asyncio.Event())
