"""A run of real processes that faults befall one after the other, and what it came to.

Broker, server and two edge processes run as a user starts them; what is killed is started again at once, as a
service manager would. A spy at the broker sees the messages: a fault comes in the moment in which the first
message of its phase is seen, and the run has recovered when the next round is assigned.
"""

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from broker.servers.spawn import LOCALHOST, Kind
from broker.transports.base import Frame
from broker.transports.mqtt import MqttTransport
from broker.wire import messages, packing, topics
from broker.wire.messages import Activations, Assignment, Gradient, HeadUpdate, Released
from tests.chaos.part import KEEPALIVE_S
from tests.chaos.proxy import Proxy

ROOT = Path(__file__).parents[2]
HANG_S = 240.0
"""A run that does not go on for so long after a fault is counted as hung."""

PHASES = {
    "assigned": Assignment,
    "activations": Activations,
    "gradient": Gradient,
    "update": HeadUpdate,
}
"""Which message the fault comes upon."""

PARTS = ("server", "edge-0", "edge-1")
FAULTS = (
    *((verb, part) for verb in ("kill", "freeze", "cut", "half-open") for part in PARTS),
    ("kill", "broker"),
    ("freeze", "broker"),
    ("restart", "broker"),
    ("wipe", "broker"),
    ("full", "server"),
)
DISK_KIB = 2048
"""Of the disk that the server writes to, if this user may make one (a tmpfs)."""
COHORT = 3
SCENARIO = f"""
name: chaos
seed: 3
task: {{name: corners, module: {ROOT / "tests/chaos/slow_task.py"}, partition: iid, batch_size: 10}}
training: {{rounds: 1, cohort: {COHORT}, local_steps: 1, head_lr: 0.3, tail_lr: 0.3, evaluate_every: 1}}
stragglers: {{policy: wait_all, rejoin_s: 120}}
fleet: [{{count: 4}}]
"""


@dataclass(frozen=True)
class Fault:
    """kill -9, SIGSTOP and SIGCONT, a link that breaks or goes silent; of a broker also a restart, whose data
    stay or are wiped; of the server also a disk that is full for two rounds."""

    verb: str
    part: str
    phase: str

    def __str__(self) -> str:
        return f"{self.verb} {self.part} at {self.phase}"


@dataclass
class Outcome:
    """What a run came to.

    Attributes:
        recoveries: of each fault, in order, the seconds until the next round.
        released: members that the server let go; nobody is late here, so it should be none.
        missing: client steps of assigned members that did not count.
        small_rounds: rounds that began while a device was away, with fewer members than the cohort.
        unseen: rounds whose assignment the spy has missed, since its broker was down; they are not judged.
        doubled: client steps above what the rounds have.
        trouble: what else went wrong.
        notes: of each round with missing steps, what is known of it.
    """

    recoveries: list[tuple[Fault, float]] = field(default_factory=list)
    released: int = 0
    missing: int = 0
    small_rounds: int = 0
    unseen: int = 0
    doubled: int = 0
    trouble: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_flawless(self) -> bool:
        return not (self.released or self.missing or self.doubled or self.trouble)


def draw_faults(seed: int, count: int, steps: int = 1) -> list[Fault]:
    """Draw faults; with several steps no edge is killed, since it cannot go on in the middle of a round.

    The disk is full only where this user may make one.
    """
    rng = random.Random(seed)
    not_to_be = {("kill", "edge-0"), ("kill", "edge-1")} if steps > 1 else set()
    not_to_be |= set() if may_mount() else {("full", "server")}
    possible = [each for each in FAULTS if each not in not_to_be]
    drawn: list[tuple[str, str]] = []
    while len(drawn) < count:
        drawn += rng.sample(possible, len(possible))
    return [Fault(*each, rng.choice(sorted(PHASES))) for each in drawn[:count]]


class Spy:
    """Sees every message of the run.

    Attributes:
        round: the highest that was assigned.
        kinds: how many messages of each kind were seen.
        assigned: the clients of each round, by (round, incarnation of the server).
    """

    def __init__(self) -> None:
        self.round = 0
        self.released = 0
        self.kinds: Counter[type] = Counter()
        self.assigned: dict[tuple[int, int], set[str]] = {}
        self._news = asyncio.Condition()

    async def watch(self, transport: MqttTransport) -> None:
        async for event in transport.events():
            if isinstance(event, Frame) and (place := topics.parse(event.topic)).kind != "watch":
                await self._saw(place.client, packing.decode(event.payload))

    async def _saw(self, client: str, message: messages.Message) -> None:
        async with self._news:
            self.kinds[type(message)] += 1
            self.released += isinstance(message, Released)
            if isinstance(message, Assignment):
                self.round = max(self.round, message.round)
                self.assigned.setdefault((message.round, message.server), set()).add(client)
            self._news.notify_all()

    async def next_of(self, kind: type) -> None:
        """Wait for the next message of a kind."""
        before = self.kinds[kind]
        async with self._news:
            await self._news.wait_for(lambda: self.kinds[kind] > before)

    async def round_after(self, number: int) -> None:
        """Wait until a later round is assigned."""
        async with self._news:
            await self._news.wait_for(lambda: self.round > number)


class Fleet:
    """The processes of one run, and what can befall them."""

    def __init__(self, folder: Path, kind: Kind, settings: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._kind, self._settings = folder, kind, settings
        self._scenario = folder / "chaos.yaml"
        self._scenario.write_text(SCENARIO)
        self.disk = folder / "disk"
        self.disk.mkdir(exist_ok=True)
        self.broker_port = free_port()
        self.proxies = {part: Proxy(self.broker_port) for part in PARTS}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, part: str) -> None:
        """Start a part, or start it again."""
        with (self._folder / f"{part}.log").open("ab") as log:
            self.processes[part] = subprocess.Popen(
                self._command(part), stdout=log, stderr=log, start_new_session=True, cwd=ROOT
            )

    def _command(self, part: str) -> list[str]:
        if part == "broker":
            options = [
                f"--kind={self._kind}",
                f"--port={self.broker_port}",
                f"--folder={self._folder / 'data'}",
            ]
            return [sys.executable, "-m", "broker", *options]
        url = f"mqtt://{LOCALHOST}:{self.proxies[part].port}"
        program = [sys.executable, "-m", "tests.chaos.part"]
        usual = [str(self._scenario), f"--broker={url}", *(f"--set={each}" for each in self._settings)]
        if part == "server":
            return [*program, *server_command(self.disk / "run", usual)]
        first = 2 * int(part[-1])
        return [*program, "edge", *usual, f"--clients={first}-{first + 1}", "--threads=1"]

    async def suffer(self, fault: Fault, spy: Spy) -> None:
        """Let a fault happen; it is over when this returns."""
        match fault.verb:
            case "full":
                before = spy.round
                with full(self.disk):
                    await spy.round_after(before + 1)
            case "cut":
                self.proxies[fault.part].cut()
            case "half-open":
                self.proxies[fault.part].half_open()
            case "freeze":
                self.send(fault.part, signal.SIGSTOP)
                await asyncio.sleep(2 * KEEPALIVE_S)
                self.send(fault.part, signal.SIGCONT)
            case "kill":
                await self.end(fault.part, signal.SIGKILL)
                self.start(fault.part)
            case "restart" | "wipe":
                await self.end(fault.part, signal.SIGTERM)
                if fault.verb == "wipe":
                    shutil.rmtree(self._folder / "data", ignore_errors=True)
                self.start(fault.part)

    def send(self, part: str, number: signal.Signals) -> None:
        """Send a signal to a part and the processes that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.processes[part].pid, number)

    async def end(self, part: str, number: signal.Signals) -> None:
        """End a part and wait until it has ended."""
        self.send(part, number)
        await asyncio.to_thread(self.processes[part].wait, HANG_S)

    async def all_ended(self) -> None:
        """Wait until server and edges have ended by themselves."""
        await asyncio.gather(*(asyncio.to_thread(self.processes[part].wait, HANG_S) for part in PARTS))

    def kill_all(self) -> None:
        """Leave no process behind."""
        for part, process in self.processes.items():
            self.send(part, signal.SIGCONT)
            self.send(part, signal.SIGKILL)
            process.wait()

    def code(self, part: str) -> int | None:
        """Give a part's exit code if it has ended."""
        return self.processes[part].poll()


def may_mount() -> bool:
    return sys.platform == "linux" and os.geteuid() == 0


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Give a folder a small disk of its own, if this user may; else it is left as it is."""
    if not may_mount():
        yield
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_KIB}k", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@contextlib.contextmanager
def full(disk: Path) -> Iterator[None]:
    """Leave no room on a disk."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1024))
    try:
        yield
    finally:
        filler.unlink()


def server_command(folder: Path, usual: list[str]) -> list[str]:
    """Give the arguments that start the server, or start it again where it was."""
    return ["server", *usual, f"--out={folder}"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def started(folder: Path, kind: Kind, settings: Sequence[str]) -> AsyncIterator[tuple[Fleet, Spy]]:
    """Start broker, proxies, spy, server and edges; end them all at the end."""
    fleet, spy = Fleet(folder, kind, settings), Spy()
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(small_disk(fleet.disk))
        stack.callback(fleet.kill_all)
        fleet.start("broker")
        for proxy in fleet.proxies.values():
            await stack.enter_async_context(proxy)
        url = f"mqtt://{LOCALHOST}:{fleet.broker_port}"
        transport = MqttTransport(
            url, client_id="spy", subscriptions=["fl/3/chaos/#"], connect_timeout_s=HANG_S
        )
        await stack.enter_async_context(transport)
        watching = asyncio.create_task(spy.watch(transport))
        for part in PARTS:
            fleet.start(part)
        yield fleet, spy
        watching.cancel()


async def survive(folder: Path, kind: Kind, faults: Sequence[Fault], steps: int = 1) -> Outcome:
    """Run a fleet through faults to its end.

    Args:
        folder: for logs and results.
        kind: of the broker.
        faults: what happens, one after the other.
        steps: local steps of a round.
    """
    rounds = 8 * (len(faults) + 1)
    settings = [f"training.rounds={rounds}", f"training.local_steps={steps}"]
    outcome = Outcome()
    async with started(folder, kind, settings) as (fleet, spy):
        try:
            async with asyncio.timeout(HANG_S):
                await spy.round_after(1)
            for fault in faults:
                async with asyncio.timeout(HANG_S):
                    await spy.next_of(PHASES[fault.phase])
                    before, began_s = spy.round, time.monotonic()
                    await fleet.suffer(fault, spy)
                    await spy.round_after(before)
                outcome.recoveries.append((fault, time.monotonic() - began_s))
            async with asyncio.timeout(HANG_S):
                await fleet.all_ended()
        except (TimeoutError, subprocess.TimeoutExpired):
            done = len(outcome.recoveries)
            after = f"after {faults[min(done, len(faults) - 1)]}, number {done}"
            outcome.trouble.append(f"hung in round {spy.round} {after}")
        codes = {part: fleet.code(part) for part in PARTS}
        outcome.released = spy.released
        outcome.trouble += [f"{part} ended with {code}" for part, code in codes.items() if code]
        if not outcome.trouble:
            _count(fleet.disk / "run", rounds, steps, spy, outcome)
    return outcome


def _count(folder: Path, rounds: int, steps: int, spy: Spy, outcome: Outcome) -> None:
    """Hold what the run folder says against what a run without faults has."""
    rows: list[dict[str, Any]] = pq.read_table(folder / "metrics.parquet").to_pylist()
    summary = json.loads((folder / "summary.json").read_text())
    if (summary["reason"], [row["round"] for row in rows]) != ("complete", list(range(1, rounds + 1))):
        outcome.trouble.append(f"{summary['reason']} with rounds {[row['round'] for row in rows]}")
    for row in rows:
        number, counted = row["round"], row["client_steps"]
        outcome.doubled += max(0, counted - COHORT * steps)
        newest = max((server for each, server in spy.assigned if each <= number), default=0)
        assigned = spy.assigned.get((number, newest))  # what an older server has assigned was done again
        if assigned is None:
            outcome.unseen += 1
            continue
        members = len(assigned)
        outcome.small_rounds += members < COHORT
        outcome.missing += max(0, members * steps - counted)
        if counted < members * steps:
            outcome.notes.append(f"round {number}: {counted} client steps of {sorted(assigned)}")


def figures(outcomes: Sequence[Outcome]) -> str:
    """Sum up runs in words."""
    recoveries = [each for outcome in outcomes for each in outcome.recoveries]
    worst = {
        "steps lost": sum(outcome.missing for outcome in outcomes),
        "steps doubled": sum(outcome.doubled for outcome in outcomes),
        "members dropped": sum(outcome.released for outcome in outcomes),
        "other troubles": sum(len(outcome.trouble) for outcome in outcomes),
    }
    told = ", ".join(f"{count} {what}" for what, count in worst.items())
    lines = [f"{len(recoveries)} faults in {len(outcomes)} runs: {told}"]
    small = sum(outcome.small_rounds for outcome in outcomes)
    lines.append(f"{small} rounds began with fewer members, since a device was away")
    unseen = sum(outcome.unseen for outcome in outcomes)
    lines.append(f"{unseen} rounds were assigned while the spy had no broker, and are not judged")
    by_kind: dict[tuple[str, str], list[float]] = {}
    for fault, seconds in recoveries:
        by_kind.setdefault((fault.verb, fault.part.partition("-")[0]), []).append(seconds)
    for (verb, part), times in sorted(by_kind.items()):
        lines.append(
            f"{verb:9} {part:7} {len(times):3} times: recovery {statistics.median(times):5.1f} s median,"
            f" {max(times):5.1f} s at worst"
        )
    return "\n".join(lines + [each for outcome in outcomes for each in (*outcome.trouble, *outcome.notes)])
