"""A small fleet, and brokers of it as processes, for tests."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from broker.provisioning.bundle import read_bundle
from broker.provisioning.fleet import Fleet
from broker.provisioning.members import Run
from broker.provisioning.rights import ROLES
from broker.servers.spawn import Kind
from broker.transports.access import Access
from broker.urls import Address, parse_url

ROOT = Path(__file__).parents[2]
START_S = 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def make_fleet(folder: Path, *, by_password: bool, port: int = 8883, standing: bool = False) -> Fleet:
    """Make a fleet of pi-07 and pi-08, with the runs first and second."""
    return Fleet.create(
        folder,
        name="small",
        brokers=[f"mqtts://127.0.0.1:{port}"],
        by_password=by_password,
        runs=[Run("first", ["pi-07", "pi-08"]), Run("second", [])],
        standing=standing,
    )


def access_of(fleet: Fleet, user: str, **changes: object) -> Access:
    """Give what a member's bundle gives; changes are made to its address."""
    access = read_bundle(fleet.bundle_folder(user), *ROLES).access
    return replace(access, brokers=tuple(replace(each, **changes) for each in access.brokers))  # type: ignore[arg-type]


@contextmanager
def broker_of(fleet: Fleet, kind: Kind, data: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `fedlite broker --fleet` until the context ends."""
    data.mkdir(exist_ok=True)
    command = [
        sys.executable, "-m", "broker", f"--kind={kind}", f"--fleet={fleet.folder}", f"--folder={data}",
        *options, "--until-stdin-closes",
    ]  # fmt: skip
    address = parse_url(fleet.state.brokers[0])
    with (data / "broker.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait(process, address, data / "broker.log")
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


def _wait(process: subprocess.Popen[bytes], address: Address, log: Path) -> None:
    deadline_s = time.monotonic() + START_S
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline_s, log.read_text()
        with contextlib.suppress(OSError), socket.create_connection((address.host, address.port), timeout=1):
            return
        time.sleep(0.02)


def children_of(process: subprocess.Popen[bytes]) -> Sequence[int]:
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdecimal() and _parent(entry) == process.pid
    ]


def _parent(entry: Path) -> int:
    with contextlib.suppress(OSError):
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    return 0
