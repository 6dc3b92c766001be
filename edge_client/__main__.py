"""`fedlite edge`: takes part in a run with some of its clients."""

import functools
import json
from pathlib import Path
from typing import Annotated

import typer

from broker.cli.console import command
from broker.cli.options import (
    BrokerOption,
    BundleOption,
    CaFileOption,
    PasswordFileOption,
    access_from,
)
from broker.errors import RunError
from broker.exits import COMPLETE, DIVERGED, ENDED, STOPPED, exit_of
from edge_client.bundle import own_bundle
from edge_client.memory import check_memory


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
    stay: Annotated[
        bool,
        typer.Option("--stay", help="When a run is over, wait for the next; only for --run if it is given."),
    ] = False,
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
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON lines on standard output: how its clients get on.")
    ] = False,
    metrics: Annotated[
        str, typer.Option(metavar="[HOST:]PORT", help="Serve Prometheus metrics; on 127.0.0.1 if no host.")
    ] = "",
    until_stdin_closes: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Host some of a run's clients on this machine until the run is over.

    With --bundle it is the device of that bundle. Start it before or after broker and server; it waits for
    both, and comes back by itself when the connection was lost. While the run is paused it waits, too.
    Without a scenario it needs --run and --client, or a bundle that names them, and takes the scenario that
    the server publishes. A scenario that is given must be the server's.

    With --stay, or a bundle that names no run, it takes part in the fleet's runs, one after the other.
    """
    own = own_bundle(bundle, [*(client or ()), *filter(None, clients.split(","))]) if bundle else None
    if own is not None:
        client, run = [own.name], run or own.run
        task_module = task_module or own.task_module
        clients = ""
        stay = stay or not (run or scenario)
    if stay and scenario:
        raise RunError("--stay is for devices that take the scenarios that servers publish: give no scenario")
    if not scenario and (not (run or stay) or not client or clients):
        raise RunError(
            "give a scenario, or --run NAME and --client C of a run whose server publishes its own"
        )
    check_memory()
    from edge_client.process import take_part  # noqa: PLC0415  loads torch, which takes seconds

    reasons = take_part(
        functools.partial(access_from, broker, ca_file=ca_file, password_file=password_file, bundle=own),
        user=own.name if own else "",
        scenario=scenario,
        run=run,
        names=client or [],
        which=clients,
        settings=settings or [],
        data_folder=data,
        data=own.data if own else "",
        module=task_module,
        stays=stay,
        threads=threads,
        journal=journal,
        broker_timeout_s=broker_timeout,
        as_json=as_json,
        metrics=metrics,
        until_stdin_closes=until_stdin_closes,
    )
    if as_json:
        typer.echo(json.dumps({"reasons": reasons}))
    _tell(reasons, as_json=as_json)


def _tell(reasons: dict[str, str], *, as_json: bool = False) -> None:
    """Say why the clients left.

    Raises:
        typer.Exit: with the code of the first reason that is not COMPLETE.
    """
    for reason in dict.fromkeys(reasons.values()):
        if reason.partition(":")[0] in (COMPLETE, ENDED, DIVERGED):
            typer.echo(f"the run is over: {reason}", err=as_json)
        elif reason != STOPPED:
            names = ", ".join(name for name, why in reasons.items() if why == reason)
            typer.echo(f"{names}: {reason}", err=True)
    for reason in reasons.values():
        if reason != COMPLETE:
            raise typer.Exit(exit_of(reason))


if __name__ == "__main__":
    typer.run(edge)
