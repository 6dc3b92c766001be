"""`fedlite edge`: takes part in a run with some of its clients."""

import functools
import os
import re
from pathlib import Path
from typing import Annotated

import torch
import typer
from threadpoolctl import threadpool_limits

from broker.console import command, run_until_stopped
from broker.errors import RunError
from broker.exits import COMPLETE, DIVERGED, ENDED, STOPPED, exit_of
from broker.files import writing
from broker.machine.event_log import Journal
from broker.transports.mqtt import MqttTransport
from edge_client.joining import join
from edge_client.live import host
from scenarios.errors import ScenarioError
from scenarios.loading.load import load_scenario
from scenarios.loading.own_data import data_setting
from scenarios.schema.network import tell_names
from scenarios.schema.scenario import client_names


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


def _say(line: str) -> None:
    typer.echo(line, err=True)


@command
def edge(
    broker: Annotated[str, typer.Option(help="mqtt://host:port or mqtts://user:password@host:port")],
    scenario: Annotated[
        str, typer.Argument(help="Scenario file, or a shipped one's name; without it the server tells.")
    ] = "",
    client: Annotated[
        list[str] | None, typer.Option(help="A client that lives here, by name; may be given several times.")
    ] = None,
    clients: Annotated[
        str, typer.Option(help="With a scenario: which clients live here: all, 7, 0-24, c03,c04")
    ] = "",
    run: Annotated[str, typer.Option(help="Name of the run; the scenario's name if not given.")] = "",
    settings: Annotated[list[str] | None, typer.Option("--set", help="key.path=value")] = None,
    task_module: Annotated[
        str, typer.Option(help="This device's own task: a Python file, or an importable module.")
    ] = "",
    data: Annotated[
        Path | None,
        typer.Option(help="With partition local: the data of this device, or a folder with one per client."),
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option(help="Certificate authority of an mqtts broker, PEM.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads for the mathematics; default: one per core.")
    ] = None,
    journal: Annotated[
        Path | None, typer.Option(help="Note here what happened when, for `fedlite trace`.")
    ] = None,
    broker_timeout: Annotated[
        float | None, typer.Option(min=0, help="Give up when no broker answers for so many seconds.")
    ] = None,
    until_stdin_closes: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Host some of a run's clients on this machine until the run is over.

    Start it before or after broker and server; it waits for both, and comes back by itself when the
    connection was lost. While the run is paused it waits, too. Without a scenario it needs --run and
    --client, and takes the scenario that the server publishes. A scenario that is given must be the server's.
    """
    if not scenario and (not run or not client or clients):
        raise RunError(
            "give a scenario, or --run NAME and --client C of a run whose server publishes its own"
        )
    changes = [*(settings or ()), *data_setting(data)]
    if scenario:
        loaded = load_scenario(scenario, [*changes, *([f"task.module={task_module}"] if task_module else [])])
        fleet = client_names(loaded)
        names = pick(fleet, clients or ",".join(client or ["all"]))
        spec = loaded.broker
        connect = functools.partial(
            MqttTransport,
            broker,
            ca_file=ca_file or spec.ca_file,
            packet_bytes=spec.packet_bytes,
            connect_timeout_s=broker_timeout,
        )
        taking_part = functools.partial(host, loaded, connect, run=run or loaded.name, names=names)
    else:
        fleet = names = list(dict.fromkeys(client or ()))
        connect = functools.partial(MqttTransport, broker, ca_file=ca_file, connect_timeout_s=broker_timeout)
        taking_part = functools.partial(
            join,
            connect,
            connect_for=lambda published: functools.partial(
                connect, packet_bytes=published.broker.packet_bytes
            ),
            run=run,
            names=names,
            settings=changes,
            module=task_module,
            say=_say,
        )
    cores = threads or os.cpu_count() or 1
    jobs = min(cores, len(names))
    torch.set_num_threads(cores // jobs)
    notes = Journal(fleet if journal else ())
    try:
        with threadpool_limits(1, user_api="blas"):
            reasons = run_until_stopped(
                lambda stop: taking_part(stop=stop, jobs=jobs, journal=notes),
                until_stdin_closes=until_stdin_closes,
            )
    finally:
        if journal:
            with writing(journal):
                notes.write(journal)
    _tell(reasons)


def _tell(reasons: dict[str, str]) -> None:
    """Say why the clients left.

    Raises:
        typer.Exit: with the code of the first reason that is not COMPLETE.
    """
    for reason in dict.fromkeys(reasons.values()):
        if reason.partition(":")[0] in (COMPLETE, ENDED, DIVERGED):
            typer.echo(f"the run is over: {reason}")
        elif reason != STOPPED:
            names = ", ".join(name for name, why in reasons.items() if why == reason)
            typer.echo(f"{names}: {reason}", err=True)
    for reason in reasons.values():
        if reason != COMPLETE:
            raise typer.Exit(exit_of(reason))


if __name__ == "__main__":
    typer.run(edge)
