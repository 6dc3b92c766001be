"""What a service manager hears of a program: that it is ready, alive, and about to stop."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.cli.console import run_until_stopped
from broker.notify import SOCKET, WATCHDOG, WATCHDOG_PID, notify, pause_s, telling_manager


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.setblocking(False)
        monkeypatch.setenv(SOCKET, str(tmp_path / "notify"))
        monkeypatch.delenv(WATCHDOG, raising=False)
        monkeypatch.delenv(WATCHDOG_PID, raising=False)
        yield receiver


def heard(receiver: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(receiver.recv(100).decode())
        except BlockingIOError:
            return found


def test_a_program_says_when_it_is_ready_and_when_it_stops(manager: socket.socket) -> None:
    during = list[str]()

    async def main(_stop: asyncio.Event) -> int:
        during.extend(heard(manager))
        return 7

    assert run_until_stopped(main) == 7
    assert during == ["READY=1"]
    assert heard(manager) == ["STOPPING=1"]


async def test_a_loop_that_turns_is_told_and_one_that_hangs_is_not(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WATCHDOG, "30000")  # a sign of life each 10 ms
    async with telling_manager():
        await asyncio.sleep(0.2)
        assert heard(manager).count("WATCHDOG=1") >= 3
        busy_until = asyncio.get_running_loop().time() + 0.1
        while asyncio.get_running_loop().time() < busy_until:
            pass
        assert heard(manager) == []
    assert heard(manager)[-1] == "STOPPING=1"


def test_a_name_in_the_abstract_namespace_is_understood() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0fedlite-test-{os.getpid()}")
        receiver.settimeout(1)
        notify("READY=1", {SOCKET: f"@fedlite-test-{os.getpid()}"})
        assert receiver.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["", "relative", "/no/such/socket", "@", "/" + "x" * 200])
def test_without_a_manager_nothing_happens(address: str) -> None:
    notify("READY=1", {SOCKET: address} if address else {})


@pytest.mark.parametrize(
    ("environment", "pause"),
    [
        ({SOCKET: "/x", WATCHDOG: "300000000"}, 100.0),
        ({SOCKET: "/x", WATCHDOG: "3000000", WATCHDOG_PID: str(os.getpid())}, 1.0),
        ({SOCKET: "/x", WATCHDOG: "3000000", WATCHDOG_PID: "1"}, None),
        ({WATCHDOG: "3000000"}, None),
        ({SOCKET: "/x"}, None),
        ({SOCKET: "/x", WATCHDOG: "0"}, None),
        ({SOCKET: "/x", WATCHDOG: "soon"}, None),
    ],
)
def test_signs_of_life_come_three_times_as_often_as_they_must(
    environment: dict[str, str], pause: float | None
) -> None:
    assert pause_s(environment) == pause
