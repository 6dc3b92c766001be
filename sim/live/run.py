"""`fedlite run`: broker, server and edge processes of one run, all on this machine."""

import asyncio
import functools
import itertools
import logging
import math
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from broker.cli.console import run_until_stopped
from broker.cli.options import BROKER_VARIABLE, access_from
from broker.errors import RunError
from broker.exits import ANOTHER_SERVER, SUPERSEDED, Exit
from broker.files import writing
from broker.machine.event_log import Journal, Notes, read_notes
from broker.servers.spawn import local_broker
from broker.stopping import Stop
from broker.transports.access import Access
from broker.transports.mqtt import MqttTransport
from scenarios.computing.placing import place_named
from scenarios.loading.load import dump_resolved, load_scenario
from scenarios.loading.rehearsal import rehearse
from scenarios.schema.scenario import Scenario, client_names
from server_node.board.screen import Glance
from server_node.live import serve
from server_node.summary import Summary
from server_node.trackers.events import Tell, silence
from server_node.vocabulary.reports import Watch
from sim.live.join_trace import live_trace
from sim.shaped.proxy import shaped_links
from sim.shaped.shaping import check_shape, takes_time

log = logging.getLogger(__name__)

LEAVE_S = 10.0
"""How long an edge process may take to leave after the run, before it is killed."""


def run_here(
    spec: str,
    settings: Sequence[str],
    *,
    folder: Path,
    processes: int | None,
    watch: Watch,
    access: Access | None = None,
    glance: Glance = lambda _view: None,
    stop: Stop | None = None,
    fresh: bool = False,
    takeover: bool = False,
    shape: float | None = None,
    tell: Tell = silence,
) -> Summary:
    """Run a scenario to its end on this machine.

    Args:
        spec: path or name of the scenario, as given.
        settings: overrides, as given.
        folder: the run folder; what the other processes say goes to its logs/.
        processes: how many edge processes share the fleet; one per core if None.
        watch: hears of rounds as they happen.
        access: to a broker that runs already; None: the scenario says which.
        glance: is shown the run once a second.
        stop: pauses the run, cleanly; None: SIGINT and SIGTERM do, while it runs.
        fresh: begin anew, over what the folder has; otherwise go on from its newest good checkpoint.
        takeover: take the run over from a server that is at work.
        shape: put the scenario's links between clients and broker, with link times divided by this.
        tell: hears what trackers are told.

    Returns:
        The content of summary.json.

    Raises:
        ScenarioError: a mistake in the scenario.
        RunError: every edge process failed, or the folder cannot be written to.
        BrokerError: no broker.
    """
    scenario = load_scenario(spec, settings)
    if shape is not None:
        check_shape(scenario)
    place_named(scenario.server.device, "server.device")  # raises before anything has been started
    rehearse(scenario)
    with writing(folder):
        (folder / "logs").mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # the edge processes have the cores; the tail is a small part of the work
    journal = Journal(client_names(scenario))
    posts = access is not None or scenario.broker.kind == "url"  # nobody else knows another one
    with ExitStack() as stack:
        private = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        journals, resolved = private / "journals", private / "scenario.yaml"
        journals.mkdir()
        resolved.write_text(dump_resolved(scenario), "utf-8")
        access = edge_access = access or stack.enter_context(_broker(scenario, folder))
        if shape is not None:
            links = shaped_links(
                resolved,
                access.brokers,
                run=scenario.name,
                speed_up=shape,
                log_file=folder / "logs/links.log",
            )
            edge_access = replace(access, brokers=(stack.enter_context(links),))
            access = edge_access if takes_time(scenario.network.server.link) else access
        connect = functools.partial(MqttTransport, access, packet_bytes=scenario.broker.packet_bytes)
        trust = [f"--ca-file={edge_access.ca_file}"] if edge_access.ca_file else []
        commands = [
            [
                sys.executable,
                "-m",
                "edge_client",
                str(resolved),
                *trust,
                *share,
                f"--journal={journals}/{number}",
            ]
            for number, share in enumerate(_shares(scenario.fleet_size, processes))
        ]
        # A command line can be read by every user of the machine, an environment by its owner alone.
        environment = os.environ | {BROKER_VARIABLE: " ".join(each.secret for each in edge_access.brokers)}

        async def everything(asked: asyncio.Event) -> Summary:
            begun = asyncio.Event()
            serving = asyncio.ensure_future(
                serve(
                    scenario,
                    connect,
                    run=scenario.name,
                    folder=folder,
                    stop=asked,
                    watch=watch,
                    glance=glance,
                    posts=posts,
                    fresh=fresh,
                    takeover=takeover,
                    journal=journal,
                    begun=begun,
                    tell=tell,
                )
            )
            # Clients that come before the server may find the broker's memory of an earlier run, and leave.
            if not await _happens(begun, unless=serving):
                return serving.result()
            async with _edges(commands, environment, folder / "logs", asked) as failures:
                summary = await serving
            if len(failures) == len(commands):
                raise RunError("no edge process is left: " + failures[0])
            return summary

        summary = run_until_stopped(everything, stop=stop)
        if summary["reason"] in (SUPERSEDED, ANOTHER_SERVER):
            return summary  # the folder is another server's
        write_trace(scenario, folder, journal.notes, sorted(journals.iterdir()))
        return summary


async def _happens(event: asyncio.Event, *, unless: asyncio.Future[Any]) -> bool:
    """Wait for an event, or until there is nothing left that could set it; say which."""
    waiting: asyncio.Future[Any] = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({waiting, unless}, return_when=asyncio.FIRST_COMPLETED)
        return event.is_set()
    finally:
        waiting.cancel()


def write_trace(scenario: Scenario, folder: Path, server: Notes, edges: Sequence[Path]) -> None:
    """Write a run's trace.json.

    Args:
        scenario: that ran.
        folder: the run folder.
        server: the server's journal.
        edges: files with the journals of the edge processes, as far as they are there.

    Raises:
        RunError: a file that is no journal, or the trace cannot be written.
    """
    journals = [server, *map(read_notes, edges)]
    with writing(folder):
        live_trace(client_names(scenario), journals).write(folder / "trace.json")


@contextmanager
def _broker(scenario: Scenario, folder: Path) -> Iterator[Access]:
    """Give the way to the scenario's broker, started here if it is a local kind."""
    if scenario.broker.kind == "url":
        yield access_from(None, spec=scenario.broker)
    else:
        data = folder / "broker"
        shutil.rmtree(data, ignore_errors=True)  # mosquitto would remember an earlier run
        with local_broker(scenario.broker.kind, data) as url:
            yield Access.of(url)


def _shares(clients: int, processes: int | None) -> list[list[str]]:
    """Deal client numbers out as ranges of nearly equal length; give each process's options."""
    cores = os.cpu_count() or 1
    processes = min(processes or cores, clients)
    # A cohort falls unevenly on the processes: a second thread for each evens that out.
    threads = max(2, math.ceil(cores / processes))
    bounds = [clients * i // processes for i in range(processes + 1)]
    return [
        [f"--clients={first}-{end - 1}", f"--threads={threads}", "--until-stdin-closes"]
        for first, end in itertools.pairwise(bounds)
    ]


@asynccontextmanager
async def _edges(
    commands: list[list[str]], environment: dict[str, str], logs: Path, stop: asyncio.Event
) -> AsyncIterator[list[str]]:
    """Run the edge processes; when the context is left they are asked to leave, all at the same time.

    Yields:
        What those that failed had to say, so far. When none is left, `stop` is set.
    """
    failures: list[str] = []
    processes: list[asyncio.subprocess.Process] = []
    log_files = [logs / f"edge-{number}.log" for number in range(len(commands))]

    async def watch() -> None:
        await asyncio.gather(*(_watch(*each, failures) for each in zip(processes, log_files, strict=True)))
        if failures:
            stop.set()

    try:
        for command, log_file in zip(commands, log_files, strict=True):
            processes.append(await _start_edge(command, environment, log_file))
        watching = asyncio.create_task(watch())
        try:
            yield failures
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    finally:
        await asyncio.gather(*map(_reap, processes))


async def _start_edge(
    command: list[str], environment: dict[str, str], log_file: Path
) -> asyncio.subprocess.Process:
    """Start an edge process that gets no Ctrl-C of ours, and ends when its standard input closes."""
    with log_file.open("wb") as output:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=environment,
        )


async def _reap(process: asyncio.subprocess.Process) -> None:
    """Give a process some time to leave by itself, then kill it."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), LEAVE_S)
    except TimeoutError:
        process.kill()
        await process.wait()


async def _watch(process: asyncio.subprocess.Process, log_file: Path, failures: list[str]) -> None:
    if exit_of_run := await process.wait():
        if exit_of_run in (Exit.STOPPED, Exit.ENDED, Exit.DIVERGED):
            return  # it left with the run
        failures.append(f"{log_file.stem} ended with code {process.returncode}: {_last_line(log_file)}")
        log.warning("%s", failures[-1])


def _last_line(file: Path) -> str:
    return "".join(file.read_text(errors="replace").strip().splitlines()[-1:])
