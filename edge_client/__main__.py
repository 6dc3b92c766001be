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
from broker.options import BrokerOption, BundleOption, CaFileOption, PasswordFileOption, access_from
from broker.transports.mqtt import MqttTransport
from edge_client.bundle import own_bundle
from edge_client.joining import join
from edge_client.live import host
from edge_client.silence import attentive
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
    scenario: Annotated[
        str, typer.Argument(help="Scenario file, or a shipped one's name; without it the server tells.")
    ] = "",
    broker: BrokerOption = None,
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
    bundle: BundleOption = None,
    ca_file: CaFileOption = None,
    password_file: PasswordFileOption = None,
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

    With --bundle it is the device of that bundle. Start it before or after broker and server; it waits for
    both, and comes back by itself when the connection was lost. While the run is paused it waits, too.
    Without a scenario it needs --run and --client, or a bundle that names them, and takes the scenario that
    the server publishes. A scenario that is given must be the server's.
    """
    own = own_bundle(bundle, [*(client or ()), *filter(None, clients.split(","))]) if bundle else None
    if own is not None:
        client, run = [own.name], run or own.run
        task_module = task_module or own.task_module
        clients = ""
        if not run and not scenario:
            raise RunError(f"{bundle} names no run: give --run NAME")
    if not scenario and (not run or not client or clients):
        raise RunError(
            "give a scenario, or --run NAME and --client C of a run whose server publishes its own"
        )
    changes, place = [*(settings or ()), *data_setting(data)], own.data if own else ""
    if scenario:
        module = [f"task.module={task_module}"] if task_module else []
        loaded = load_scenario(scenario, [*changes, *module], data=place)
        fleet = client_names(loaded)
        names = pick(fleet, clients or ",".join(client or ["all"]))
        spec = loaded.broker
        access = access_from(broker, ca_file=ca_file, password_file=password_file, bundle=own, spec=spec)
        transport = functools.partial(
            MqttTransport, access, packet_bytes=spec.packet_bytes, connect_timeout_s=broker_timeout
        )
        connect = attentive(transport, own.name if own else access.brokers[0].username)
        taking_part = functools.partial(host, loaded, connect, run=run or loaded.name, names=names)
    else:
        fleet = names = list(dict.fromkeys(client or ()))
        access = access_from(broker, ca_file=ca_file, password_file=password_file, bundle=own)
        user = own.name if own else access.brokers[0].username
        transport = functools.partial(MqttTransport, access, connect_timeout_s=broker_timeout)
        taking_part = functools.partial(
            join,
            attentive(transport, user),
            connect_for=lambda published: attentive(
                functools.partial(transport, packet_bytes=published.broker.packet_bytes), user
            ),
            run=run,
            names=names,
            settings=changes,
            data=place,
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
