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
from broker.exits import COMPLETE, DIVERGED, ENDED, STOPPED, exit_of
from broker.files import writing
from broker.machine.event_log import Journal
from broker.transports.mqtt import MqttTransport
from edge_client.live import host
from scenarios.errors import ScenarioError
from scenarios.loading.load import load_scenario
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
        if span:
            first, last = int(span[1]), int(span[2] or span[1])
            if not first <= last < len(fleet):
                raise ScenarioError(f"clients {part}: the fleet has numbers 0 to {len(fleet) - 1}")
            names += fleet[first : last + 1]
        elif part in fleet:
            names.append(part)
        else:
            raise ScenarioError(f"no client {part!r}; the fleet is {fleet[0]} to {fleet[-1]}")
    return list(dict.fromkeys(names))


@command
def edge(
    scenario: Annotated[str, typer.Argument(help="Scenario file, or the name of a shipped one.")],
    broker: Annotated[str, typer.Option(help="mqtt://host:port or mqtts://user:password@host:port")],
    clients: Annotated[str, typer.Option(help="Which clients live here: all, 7, 0-24, c03,c04")] = "all",
    run: Annotated[str, typer.Option(help="Name of the run; the scenario's name if not given.")] = "",
    settings: Annotated[list[str] | None, typer.Option("--set", help="key.path=value")] = None,
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
    connection was lost. While the run is paused it waits, too. The scenario must be the server's.
    """
    loaded = load_scenario(scenario, settings or ())
    names = pick(client_names(loaded), clients)
    cores = threads or os.cpu_count() or 1
    jobs = min(cores, len(names))
    torch.set_num_threads(cores // jobs)
    connect = functools.partial(
        MqttTransport, broker, ca_file=loaded.broker.ca_file, connect_timeout_s=broker_timeout
    )
    taking_part = functools.partial(host, loaded, connect, run=run or loaded.name, names=names, jobs=jobs)
    notes = Journal(client_names(loaded) if journal else ())
    try:
        with threadpool_limits(1, user_api="blas"):
            reasons = run_until_stopped(
                lambda stop: taking_part(stop=stop, journal=notes), until_stdin_closes=until_stdin_closes
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
