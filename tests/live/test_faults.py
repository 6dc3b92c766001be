"""Killed processes and brokers, with the real programs."""

import asyncio
import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from broker.exits import Exit
from broker.servers.spawn import local_broker
from broker.transports.mqtt import MqttTransport
from edge_client.live import host
from scenarios.schema.scenario import client_names
from server_node.live import serve
from server_node.vocabulary.ledger import Ledger
from server_node.vocabulary.reports import Fact, RoundReport
from sim.live.run import _edges
from tests.helpers import final_score, small_file, small_scenario

HANG_S = 300.0
"""Guards against a hang; no test depends on how long anything takes."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("kind", ["embedded", "mosquitto"])
async def test_a_broker_that_goes_away_and_comes_back(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    if kind == "mosquitto":
        request.getfixturevalue("mosquitto_program")
    scenario, port, stop = small_scenario(tmp_path, "training.rounds=60"), free_port(), asyncio.Event()
    reached = asyncio.Event()

    def watch(fact: Fact, _ledger: Ledger) -> None:
        if isinstance(fact, RoundReport) and fact.round == 20:
            reached.set()

    def start() -> contextlib.AbstractContextManager[str]:
        context = local_broker("mosquitto" if kind == "mosquitto" else "embedded", tmp_path / "b", port)
        context.__enter__()
        return context

    broker = await asyncio.to_thread(start)
    connect = functools.partial(MqttTransport, f"mqtt://127.0.0.1:{port}")
    try:
        async with asyncio.TaskGroup() as group:
            server = group.create_task(
                serve(scenario, connect, run="small", folder=tmp_path / "run", stop=stop, watch=watch)
            )
            group.create_task(host(scenario, connect, run="small", names=client_names(scenario), stop=stop))
            await reached.wait()
            await asyncio.to_thread(broker.__exit__, None, None, None)
            broker = await asyncio.to_thread(start)
    finally:
        await asyncio.to_thread(broker.__exit__, None, None, None)
    assert server.result()["reason"] == "complete"
    assert server.result()["rounds"] == 60
    assert final_score(server.result()) > 0.9


@contextlib.contextmanager
def fedlite_run(folder: Path, *settings: str) -> Iterator[subprocess.Popen[str]]:
    """Start `fedlite run --json` on the small scenario; two edge processes."""
    options = [f"--set={setting}" for setting in settings]
    command = [
        sys.executable,
        "-m",
        "broker.cli",
        "run",
        str(small_file(folder)),
        "--json",
        "--processes=2",
    ]
    with subprocess.Popen(
        [*command, f"--out={folder / 'run'}", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def wait_for_round(process: subprocess.Popen[str], number: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("round") == number:
            return
    assert process.stderr is not None
    pytest.fail(f"the run ended before round {number}: {process.stderr.read()}")


def edges_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "edge_client" in child.cmdline()]


@pytest.mark.slow
def test_a_killed_edge_process_does_not_stop_the_run(tmp_path: Path) -> None:
    with fedlite_run(tmp_path, "training.rounds=300") as process:
        wait_for_round(process, 20)
        victim, _ = edges_of(process)
        victim.kill()
        rest, trouble = process.communicate(timeout=HANG_S)
    assert process.returncode == 0, trouble
    summary = json.loads(rest.splitlines()[-1])
    assert (summary["reason"], summary["rounds"]) == ("complete", 300)
    assert final_score(summary) > 0.9
    assert "edge-0 ended with code -9" in trouble


@pytest.mark.slow
def test_ctrl_c_ends_a_run_cleanly(tmp_path: Path) -> None:
    with fedlite_run(tmp_path, "training.rounds=100000") as process:
        wait_for_round(process, 20)
        edges = edges_of(process)
        process.send_signal(signal.SIGINT)
        rest, trouble = process.communicate(timeout=HANG_S)
    assert process.returncode == 130, trouble
    summary = json.loads(rest.splitlines()[-1])
    assert summary["reason"] == "stopped"
    assert f"stopped after {summary['rounds']} of 100000 rounds" in trouble
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary
    psutil.wait_procs(edges, timeout=HANG_S)
    assert not any(edge.is_running() for edge in edges)


@pytest.mark.slow
def test_nothing_outlives_a_killed_run(tmp_path: Path) -> None:
    with fedlite_run(tmp_path, "training.rounds=100000") as process:
        wait_for_round(process, 5)
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 3  # broker and two edge processes
        process.kill()
        process.communicate(timeout=HANG_S)
        _, alive = psutil.wait_procs(children, timeout=HANG_S)
    assert alive == []


@pytest.mark.slow
def test_a_run_without_its_broker_says_why(tmp_path: Path) -> None:
    with fedlite_run(tmp_path, "broker.kind=url", f"broker.url=mqtt://127.0.0.1:{free_port()}") as process:
        _, trouble = process.communicate(timeout=HANG_S)
    assert process.returncode == Exit.UNREACHABLE
    assert "no MQTT broker at mqtt://127.0.0.1:" in trouble
    assert "Traceback" not in trouble


async def test_edge_processes_leave_at_the_same_time(tmp_path: Path) -> None:
    """Either of the two leaves only when it has seen that the other one was asked to leave, too."""
    leave = (
        "import sys, time, pathlib\n"
        "sys.stdin.read()\n"
        "mine, other = map(pathlib.Path, sys.argv[1:])\n"
        "mine.touch()\n"
        "while not other.exists(): time.sleep(0.01)"
    )
    files = [str(tmp_path / "a"), str(tmp_path / "b")]
    commands = [[sys.executable, "-c", leave, *files], [sys.executable, "-c", leave, *reversed(files)]]
    started: list[asyncio.subprocess.Process] = []
    start = asyncio.create_subprocess_exec

    async def note(*command: str, **options: Any) -> asyncio.subprocess.Process:
        started.append(await start(*command, **options))
        return started[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "create_subprocess_exec", note)
        async with _edges(commands, {}, tmp_path, asyncio.Event()) as failures:
            assert len(started) == 2
    assert [process.returncode for process in started] == [0, 0]
    assert failures == []


async def test_a_run_without_edge_processes_ends(tmp_path: Path) -> None:
    stop = asyncio.Event()
    broken = [sys.executable, "-c", "raise SystemExit('no data here')"]
    async with _edges([broken, broken], {}, tmp_path, stop) as failures:
        await stop.wait()
    assert sorted(failures) == [f"edge-{number} ended with code 1: no data here" for number in (0, 1)]
