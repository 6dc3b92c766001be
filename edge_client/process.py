"""An edge process: hosts clients until their run is over, with or without a file of the scenario."""

import functools
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from broker.console import run_until_stopped
from broker.files import writing
from broker.machine.event_log import Journal
from broker.transports.mqtt import MqttTransport
from edge_client.joining import join
from edge_client.live import host
from edge_client.memory import keep_small
from scenarios.errors import ScenarioError
from scenarios.loading.load import load_scenario
from scenarios.schema.network import tell_names
from scenarios.schema.scenario import client_names


def take_part(
    broker: str,
    *,
    scenario: str = "",
    run: str = "",
    names: Sequence[str] = (),
    which: str = "",
    settings: Sequence[str] = (),
    module: str = "",
    ca_file: Path | None = None,
    threads: int | None = None,
    journal: Path | None = None,
    broker_timeout_s: float | None = None,
    until_stdin_closes: bool = False,
) -> dict[str, str]:
    """Take part in a run until it is over, or somebody asks the process to stop.

    Args:
        broker: URL.
        scenario: a file, or the name of a shipped one; without it the server's published one is taken.
        run: its name; with a scenario, that one's name if not given.
        names: of the clients that live here.
        which: with a scenario, in place of names: see pick.
        settings: changes of the scenario, key.path=value.
        module: the device's own task.
        ca_file: certificate authority of an mqtts broker.
        threads: for the mathematics; None: one for each core.
        journal: file for what happened when.
        broker_timeout_s: give up when no broker answers for so long; None: wait.
        until_stdin_closes: also stop when whoever holds the other end of standard input is gone.

    Returns:
        Why each client ended.

    Raises:
        UserError: of `host`, `join` and `load_scenario`, or a journal that cannot be written.
    """
    if scenario:
        loaded = load_scenario(scenario, [*settings, *([f"task.module={module}"] if module else [])])
        fleet = client_names(loaded)
        here = pick(fleet, which or ",".join(names or ["all"]))
        spec = loaded.broker
        connect = functools.partial(
            MqttTransport,
            broker,
            ca_file=ca_file or spec.ca_file,
            packet_bytes=spec.packet_bytes,
            connect_timeout_s=broker_timeout_s,
        )
        taking_part = functools.partial(host, loaded, connect, run=run or loaded.name, names=here)
    else:
        fleet = here = list(dict.fromkeys(names))
        connect = functools.partial(
            MqttTransport, broker, ca_file=ca_file, connect_timeout_s=broker_timeout_s
        )
        taking_part = functools.partial(
            join,
            connect,
            connect_for=lambda published: functools.partial(
                connect, packet_bytes=published.broker.packet_bytes
            ),
            run=run,
            names=here,
            settings=settings,
            module=module,
            say=functools.partial(print, file=sys.stderr),
        )
    if len(here) == 1:
        keep_small()
    cores = threads or os.cpu_count() or 1
    jobs = min(cores, len(here))
    torch.set_num_threads(cores // jobs)
    notes = Journal(fleet if journal else ())
    try:
        with threadpool_limits(1, user_api="blas"):
            return run_until_stopped(
                lambda stop: taking_part(stop=stop, jobs=jobs, journal=notes),
                until_stdin_closes=until_stdin_closes,
            )
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
