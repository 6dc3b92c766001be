"""Runs a broker on this machine: as this program, or as a child process of the program that needs it."""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from broker.cli.console import run_until_stopped
from broker.errors import BrokerError
from broker.files import writing
from broker.servers.mosquitto import find_mosquitto, serve_mosquitto

Kind = Literal["embedded", "mosquitto"]

LOCALHOST = "127.0.0.1"
START_TIMEOUT_S = 30.0
"""How long a broker may take to start; Python is slow to start on a small board."""

_STOP_S = 8.0
_POLL_S = 0.02
_TAIL_LINES = 5
_CONNECT = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x05\x00\x00"  # MQTT 3.1.1, clean session, no client id
_CONNACK = b"\x20\x02\x00\x00"
_DISCONNECT = b"\xe0\x00"


def run_broker(
    kind: Kind,
    *,
    host: str,
    port: int,
    folder: Path,
    files: Path | None = None,
    until_stdin_closes: bool = False,
) -> None:
    """Run a broker in this process until SIGINT or SIGTERM.

    Args:
        kind: "embedded" (amqtt, in this process) or "mosquitto".
        host: address to listen on.
        port: TCP port.
        folder: where mosquitto keeps its settings and data.
        files: of a fleet's broker, see broker.provisioning.fleet; None: it lets everybody in.
        until_stdin_closes: also end when standard input is closed.

    Raises:
        BrokerError: the address is taken, or mosquitto is missing or ended by itself.
    """

    async def serve(stop: asyncio.Event) -> None:
        if kind == "embedded":
            from broker.servers.doors import Doors  # noqa: PLC0415  amqtt is slow to import
            from broker.servers.embedded import serve_embedded  # noqa: PLC0415

            await serve_embedded(host, port, stop, Doors.of(files) if files else None)
        else:
            await serve_mosquitto(host, port, folder, stop, files)

    if kind == "mosquitto":
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
    run_until_stopped(serve, until_stdin_closes=until_stdin_closes)


def check_free(host: str, port: int) -> None:
    """Say that a broker could not listen at an address, before anything else is said of it.

    Raises:
        BrokerError: the port is taken, or not for this user. What else may be wrong the broker itself finds.
    """
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind, protocol) as probe:
                if os.name == "posix":  # elsewhere it would let two programs have one port
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            told = f"the broker cannot listen on {host}:{port}: {error.strerror}; give another --port"
            raise BrokerError(told) from error


@contextmanager
def local_broker(kind: Kind, folder: Path, port: int | None = None) -> Iterator[str]:
    """Run a broker in a process of its own on 127.0.0.1, for as long as the context lasts.

    The child ends when this process ends, for whatever reason. It does not get the terminal's Ctrl-C.

    Args:
        kind: "embedded" (amqtt) or "mosquitto".
        folder: for broker.log, and for mosquitto's settings and data.
        port: TCP port; a free one if None.

    Yields:
        The URL for clients.

    Raises:
        BrokerError: it did not start; the text has the last lines of its log.
    """
    if kind == "mosquitto":
        find_mosquitto()
    folder.mkdir(parents=True, exist_ok=True)
    port = port or _free_port()
    if not _is_free(port):
        raise BrokerError(f"port {port} is taken; choose another for the {kind} broker")
    process = _start(kind, folder, port)
    try:
        _wait_until_it_answers(process, port, folder / "broker.log")
        yield f"mqtt://{LOCALHOST}:{port}"
    finally:
        _stop(process)


def _start(kind: Kind, folder: Path, port: int) -> subprocess.Popen[bytes]:
    options = [f"--kind={kind}", f"--host={LOCALHOST}", f"--port={port}", f"--folder={folder}", "--anonymous"]
    packages = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, (packages, os.environ.get("PYTHONPATH"))))
    with (folder / "broker.log").open("wb") as output:
        return subprocess.Popen(  # noqa: S603  our own program
            [sys.executable, "-m", "broker", *options, "--until-stdin-closes"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": paths},
        )


def _wait_until_it_answers(process: subprocess.Popen[bytes], port: int, log_file: Path) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while not _is_broker(port):
        if process.poll() is not None:
            why = f"ended with code {process.returncode}"
        elif time.monotonic() > deadline_s:
            why = f"did not answer on port {port} within {START_TIMEOUT_S:.0f} s"
        else:
            time.sleep(_POLL_S)
            continue
        words = log_file.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        raise BrokerError("\n".join([f"the local broker {why}; {log_file} ends with", *words]))


def _stop(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # processes of its session that are still there
    process.wait()


def _is_broker(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((LOCALHOST, port), timeout=1.0) as client:
        client.sendall(_CONNECT)
        if client.recv(4) == _CONNACK:
            client.sendall(_DISCONNECT)
            return True
    return False


def _is_free(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((LOCALHOST, port), timeout=1.0):
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        port: int = probe.getsockname()[1]
        return port
