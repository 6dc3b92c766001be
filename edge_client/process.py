"""An edge process: hosts clients until their run is over, with or without a file of the scenario."""

import asyncio
import functools
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from broker.cli.console import run_until_stopped
from broker.cli.screen import tell_what_happens
from broker.files import writing
from broker.machine.event_log import Journal
from broker.machine.looking import looking
from broker.metrics import serving_metrics
from broker.transports.access import Access
from broker.transports.mqtt import MqttTransport
from edge_client.board import METRICS, Board
from edge_client.joining import join, stay_in_fleet
from edge_client.live import host
from edge_client.memory import keep_small
from edge_client.silence import attentive
from edge_client.watching import watching
from scenarios.errors import ScenarioError
from scenarios.loading.load import load_scenario
from scenarios.local.places import data_setting
from scenarios.schema.network import tell_names
from scenarios.schema.scenario import client_names


def take_part(
    access_for: Callable[..., Access],
    *,
    user: str = "",
    scenario: str = "",
    run: str = "",
    names: Sequence[str] = (),
    which: str = "",
    settings: Sequence[str] = (),
    data_folder: Path | None = None,
    data: str = "",
    module: str = "",
    stays: bool = False,
    threads: int | None = None,
    journal: Path | None = None,
    broker_timeout_s: float | None = None,
    as_json: bool = False,
    metrics: str = "",
    until_stdin_closes: bool = False,
) -> dict[str, str]:
    """Take part in a run until it is over, or somebody asks the process to stop.

    Args:
        access_for: gives the way to the broker; `spec` is what the scenario says of it, if there is one.
        user: at the broker; empty: that of the URL.
        scenario: a file, or the name of a shipped one; without it the server's published one is taken.
        run: its name; with a scenario, that one's name if not given.
        names: of the clients that live here.
        which: with a scenario, in place of names: see pick.
        settings: changes of the scenario, key.path=value.
        data_folder: the device's own data, or a folder with one for each client.
        data: where a bundle says that the device's data are; settings win.
        module: the device's own task.
        stays: without a scenario: when a run is over, wait for the next one.
        threads: for the mathematics; None: one for each core.
        journal: file for what happened when.
        broker_timeout_s: give up when no broker answers for so long; None: wait.
        as_json: show how the clients get on as JSON lines.
        metrics: where to serve Prometheus metrics, [HOST:]PORT; empty: nowhere.
        until_stdin_closes: also stop when whoever holds the other end of standard input is gone.

    Returns:
        Why each client ended.

    Raises:
        UserError: of `host`, `join` and `load_scenario`, or a journal that cannot be written.
    """
    settings = [*settings, *data_setting(data_folder)]
    if scenario:
        changes = [*settings, *([f"task.module={module}"] if module else [])]
        loaded = load_scenario(scenario, changes, data=data)
        fleet = client_names(loaded)
        here = pick(fleet, which or ",".join(names or ["all"]))
        access = access_for(spec=loaded.broker)
        transport = functools.partial(
            MqttTransport,
            access,
            packet_bytes=loaded.broker.packet_bytes,
            connect_timeout_s=broker_timeout_s,
        )
        connect = attentive(transport, user or access.brokers[0].username)
        taking_part = functools.partial(host, loaded, connect, run=run or loaded.name, names=here)
    else:
        fleet = here = list(dict.fromkeys(names))
        access = access_for()
        known_as = user or access.brokers[0].username
        transport = functools.partial(MqttTransport, access, connect_timeout_s=broker_timeout_s)
        taking_part = functools.partial(
            stay_in_fleet if stays else join,
            attentive(transport, known_as) if run else transport,
            connect_for=lambda published: attentive(
                functools.partial(transport, packet_bytes=published.broker.packet_bytes), known_as
            ),
            run=run,
            names=here,
            settings=settings,
            data=data,
            module=module,
            say=functools.partial(print, file=sys.stderr),
        )
    if len(here) == 1:
        keep_small()
    cores = threads or os.cpu_count() or 1
    jobs = min(cores, len(here))
    torch.set_num_threads(cores // jobs)
    notes = Journal(fleet if journal else ())
    board = Board.of(taking_part.keywords["run"], here, shows_metric=as_json or sys.stderr.isatty())
    tell_what_happens()

    async def hosting(stop: asyncio.Event) -> dict[str, str]:
        with watching(board, as_json=as_json) as look:
            async with looking(look):
                return await taking_part(stop=stop, jobs=jobs, journal=notes, board=board)

    try:
        with (
            threadpool_limits(1, user_api="blas"),
            serving_metrics(metrics, METRICS, board.samples),
        ):
            return run_until_stopped(hosting, until_stdin_closes=until_stdin_closes)
    finally:
        if journal:
            with writing(journal):
                notes.write(journal)


def pick(fleet: list[str], which: str) -> list[str]:
    """Choose clients of a fleet by name, number or range: "c03", "3", "0-24", "0-3,c07", "all".

    Raises:
        ScenarioError: what names no client.
    """
    if which == "all":
        return fleet
    names: list[str] = []
    for part in which.split(","):
        span = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if part in fleet:
            names.append(part)
        elif span:
            first, last = int(span[1]), int(span[2] or span[1])
            if not first <= last < len(fleet):
                raise ScenarioError(f"clients {part}: the fleet has numbers 0 to {len(fleet) - 1}")
            names += fleet[first : last + 1]
        else:
            raise ScenarioError(f"no client {part!r}; {tell_names(fleet)}")
    return list(dict.fromkeys(names))
