"""A fleet of many clients over TLS for a long time: memory, errors, and how long a step takes.

    .venv/bin/python -m benchmarks.scale [--clients 500] [--processes 4] [--minutes 30] [--out DIR]

`fedlite fleet init` makes a fleet with a certificate for each client; Mosquitto runs with its files, and
`fedlite server --bundle` serves a task with next to no computation (benchmarks/tiny_task.py). `fedlite edge
--bundle` is one client, so the edge processes are of this file: each hosts many clients as `fedlite edge`
does, and each client connects with the certificate and the rights of its own bundle.

A step is timed in the edge process, for every client: `answer` is the time from handing activations to the
transport until their gradient has arrived; `step` goes on until the next answer is handed over, so that it
has the device's computing and its wait for a thread, too. DIR has samples.csv (memory and processor time of
each process, every ten seconds), the logs, and what each edge process has counted so far.
"""

import argparse
import asyncio
import contextlib
import csv
import functools
import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import yaml
from threadpoolctl import threadpool_limits

from broker.cli.console import run_until_stopped
from broker.machine.event_log import Journal
from broker.provisioning.bundle import read_bundle
from broker.transports.base import Connect, Transport, Will
from broker.transports.mqtt import MqttTransport
from broker.wire import topics
from broker.wire.messages import Activations, Gradient, HeadUpdate, Message
from edge_client.board import Board
from edge_client.live import host
from edge_client.silence import attentive
from scenarios.loading.load import load_scenario
from scenarios.schema.scenario import client_names

RUN = "scale"
EVERY_S = 10.0
_FEDLITE = (sys.executable, "-m", "broker.cli")
_FINEST_S, _RATIO, _PLACES = 1e-4, 1.02, 700
"""Times are counted in classes that are 2 % wide, from 0.1 ms to 100 s: what is kept does not grow."""


class Steps(Journal):
    """A journal that keeps no notes, but counts how long each client's steps take."""

    def __init__(self) -> None:
        super().__init__(())
        self.counts = {"answer": [0] * _PLACES, "step": [0] * _PLACES}
        self._since_s: dict[str, float] = {}

    def left(self, topic: str, message: Message) -> None:
        """See Journal.left."""
        if not isinstance(message, Activations | HeadUpdate):
            return
        client, now_s = topics.parse(topic).client, time.monotonic()
        since_s = self._since_s.pop(client, None)
        if since_s is not None:
            self._took("step", now_s - since_s)
        if isinstance(message, Activations):
            self._since_s[client] = now_s

    def arrived(self, topic: str, message: Message, wire_bytes: int) -> None:  # noqa: ARG002
        """See Journal.arrived."""
        since_s = self._since_s.get(topics.parse(topic).client)
        if isinstance(message, Gradient) and since_s is not None:
            self._took("answer", time.monotonic() - since_s)

    def _took(self, what: str, seconds: float) -> None:
        place = int(math.log(max(seconds, _FINEST_S) / _FINEST_S) / math.log(_RATIO))
        self.counts[what][min(place, _PLACES - 1)] += 1


def quantile_s(counts: Sequence[int], share: float) -> float:
    """Give the time below which a share of the counted times is, to 2 %."""
    place = int(np.searchsorted(np.cumsum(counts), share * sum(counts)))
    return float(_FINEST_S * _RATIO ** (place + 1))


def scenario_file(
    folder: Path, clients: int, cohort: int, local_steps: int, *, rounds: int = 1_000_000, batch: int = 4
) -> Path:
    """Write the scenario of the run."""
    told = {
        "name": RUN,
        "task": {
            "name": "tiny",
            "module": str(Path(__file__).with_name("tiny_task.py")),
            "partition": "iid",
            "batch_size": batch,
        },
        "training": {
            "rounds": rounds,
            "cohort": cohort,
            "local_steps": local_steps,
            "head_lr": 0.01,
            "evaluate_every": 1000,
        },
        "flows": {flow: {"codec": "float16"} for flow in ("activations_up", "gradient_down")},
        "fleet": [{"count": clients}],
        "broker": {"client_id": "{name}"},
    }
    file = folder / f"{RUN}.yaml"
    file.write_text(yaml.safe_dump(told))
    return file


def host_clients(folder: Path, number: int, names: Sequence[str]) -> None:
    """Be an edge process: host some clients, each with its own bundle, until SIGINT or SIGTERM."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    scenario = load_scenario(str(folder / f"{RUN}.yaml"))
    steps, board = Steps(), Board.of(RUN, names)

    def connect(
        *, client_id: str, subscriptions: Sequence[str], will: Callable[[int], Will] | None = None
    ) -> Transport:
        access = read_bundle(folder / "fleet/bundles" / client_id, "device").access
        transport: Connect = functools.partial(MqttTransport, access, connect_timeout_s=None)
        return attentive(transport, client_id)(client_id=client_id, subscriptions=subscriptions, will=will)

    def write(reasons: Counter[str]) -> None:
        stats = [record.stats for record in board.records.values() if record.stats is not None]
        told = {
            "connected": sum(each.is_connected for each in stats),
            "lost_connections": sum(max(each.connections - 1, 0) for each in stats),
            "resent": sum(each.resent for each in stats),
            "dropped": sum(each.dropped.total() for each in stats),
            "rejected": sum(record.rejected for record in board.records.values()),
            "reasons": reasons,
            **steps.counts,
        }
        file = folder / f"edge-{number}.json"
        file.with_suffix(".part").write_text(json.dumps(told))
        file.with_suffix(".part").replace(file)

    async def hosting(stop: asyncio.Event) -> Counter[str]:
        async def tell() -> None:
            while True:
                await asyncio.sleep(EVERY_S)
                write(Counter())

        telling = asyncio.create_task(tell())
        try:
            ended = await host(scenario, connect, run=RUN, names=names, stop=stop, journal=steps, board=board)
        finally:
            telling.cancel()
        return Counter(ended.values())

    torch.set_num_threads(1)
    with threadpool_limits(1, user_api="blas"):
        write(run_until_stopped(hosting))


@contextmanager
def part(folder: Path, name: str, *command: str) -> Iterator[psutil.Process]:
    """Run a process for as long as the context lasts; its words go to a file of its name."""
    with (folder / f"{name}.log").open("wb") as output:
        process = psutil.Popen(command, stdout=output, stderr=output)
    try:
        yield process
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGINT)
            process.wait(120)


def usage(process: psutil.Process) -> tuple[float, float]:
    """Give the memory of a process, or of its only child, in MiB, and the processor time that it used."""
    process = next(iter(process.children()), process)
    seconds = process.cpu_times()
    return process.memory_info().rss / 2**20, seconds.user + seconds.system


def watch(parts: dict[str, psutil.Process], folder: Path, minutes: float) -> str:
    """Sample each process until the time is over, or one of them has ended; say which."""
    end_s = time.monotonic() + 60 * minutes
    with (folder / "samples.csv").open("w") as file:
        table = csv.writer(file)
        table.writerow(["s", "steps", *(f"{name} {what}" for name in parts for what in ("MiB", "cpu s"))])
        begin_s = time.monotonic()
        while (now_s := time.monotonic()) < end_s:
            for name, process in parts.items():
                if process.poll() is not None:
                    return name
            used = [number for process in parts.values() for number in usage(process)]
            steps = sum(sum(json.loads(each.read_text())["answer"]) for each in folder.glob("edge-*.json"))
            table.writerow([f"{number:.2f}" for number in (now_s - begin_s, steps, *used)])
            file.flush()
            time.sleep(min(EVERY_S, max(end_s - time.monotonic(), 0)))
    return ""


def tell(folder: Path, processes: int) -> None:
    """Print what the files of a run say; also of one that still runs, or was killed."""
    rows = np.genfromtxt(folder / "samples.csv", delimiter=",", names=True, deletechars="", replace_space=" ")
    assert rows.dtype.names is not None
    seconds = rows["s"]
    print(f"{seconds[-1] / 60:.1f} minutes; memory in MiB; then processor time of a step, in the second half")
    for name in (column.removesuffix(" MiB") for column in rows.dtype.names if column.endswith(" MiB")):
        memory, used_s = rows[f"{name} MiB"], rows[f"{name} cpu s"]
        at = [float(np.interp(share * seconds[-1], seconds, memory)) for share in (0.1, 0.25, 0.5, 0.75, 1)]
        half = len(seconds) // 2
        step_us = 1e6 * (used_s[-1] - used_s[half]) / max(rows["steps"][-1] - rows["steps"][half], 1)
        words = "  ".join(f"{each:7.1f}" for each in at)
        print(f"  {name:8} after 10, 25, 50, 75, 100 %: {words}   {step_us:5.0f} us")
    edges = [json.loads((folder / f"edge-{number}.json").read_text()) for number in range(processes)]
    for what in ("answer", "step"):
        counts = np.sum([edge[what] for edge in edges], axis=0)
        shares = (0.5, 0.9, 0.99, 0.999)
        times = ", ".join(f"p{100 * share:g} {1e3 * quantile_s(counts, share):.0f} ms" for share in shares)
        print(f"  {what}: {counts.sum():,} timed, {times}, {counts.sum() / seconds[-1]:.0f} a second")
    for what in ("connected", "lost_connections", "resent", "dropped", "rejected"):
        print(f"  {what.replace('_', ' ')}: {sum(edge[what] for edge in edges)}")
    for file in sorted(folder.glob("*.log")):
        wrong = len(re.findall("WARNING|ERROR|Traceback", file.read_text(errors="replace")))
        print(f"  {file.name}: {wrong} warnings and errors")
    with contextlib.suppress(FileNotFoundError):
        summary: dict[str, Any] = json.loads((folder / "run/summary.json").read_text())
        print(
            f"  server: {summary['rounds']} rounds, {summary['client_steps']:,} steps; {summary['messages']}"
        )


def main() -> None:
    """Run it, and print what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--cohort", type=int, default=0, help="clients at work at once; all if not given")
    parser.add_argument("--local-steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=4, help="samples of a step; each is 64 bytes, each way")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--port", type=int, default=18883)
    parser.add_argument("--out", type=Path, help="folder to make; a temporary one if not given")
    parser.add_argument("--tell", action="store_true", help="only print what the files in --out say so far")
    parser.add_argument("--edge", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = (options.out or Path(tempfile.mkdtemp(prefix="scale-"))).resolve()
    if options.edge is not None:
        names = client_names(load_scenario(str(folder / f"{RUN}.yaml")))
        host_clients(folder, options.edge, names[options.edge :: options.processes])
        return
    if not options.tell:
        run(folder, options)
    tell(folder, options.processes)


def run(folder: Path, options: argparse.Namespace) -> None:
    """Start all parts, and watch them for as long as was asked for."""
    folder.mkdir(parents=True, exist_ok=True)
    cohort = options.cohort or options.clients
    file = str(scenario_file(folder, options.clients, cohort, options.local_steps, batch=options.batch))
    fleet, data, port = str(folder / "fleet"), str(folder / "broker"), str(options.port)
    subprocess.run([*_FEDLITE, "fleet", "init", file, "--broker", "localhost", "--port", port, "--to", fleet],
                   check=True, stdout=subprocess.DEVNULL)  # fmt: skip
    serve = ("server", file, "--bundle", f"{fleet}/bundles/server.{RUN}", "--out", str(folder / "run"))
    with contextlib.ExitStack() as stack:
        start = functools.partial(lambda *told: stack.enter_context(part(folder, *told)))
        broker = ("broker", "--kind", "mosquitto", "--host", "127.0.0.1", "--fleet", fleet, "--folder", data)
        parts = {"broker": start("broker", *_FEDLITE, *broker)}
        same = [f"--out={folder}", f"--processes={options.processes}"]
        for number in range(options.processes):
            parts[f"edge-{number}"] = start(
                f"edge-{number}", sys.executable, "-m", "benchmarks.scale", f"--edge={number}", *same
            )
        parts["server"] = start("server", *_FEDLITE, *serve)
        print(f"process {os.getpid()} writes to {folder}", flush=True)
        if ended := watch(parts, folder, options.minutes):
            print(f"{ended} has ended before its time, see {folder / ended}.log")


if __name__ == "__main__":
    main()
