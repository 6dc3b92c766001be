"""`fedlite edge`: takes part in a run with some of its clients."""

from pathlib import Path
from typing import Annotated

import typer

from broker.console import command
from broker.errors import RunError
from broker.exits import COMPLETE, DIVERGED, ENDED, STOPPED, exit_of
from edge_client.memory import check_memory


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
    check_memory()
    from edge_client.process import take_part  # noqa: PLC0415  loads torch, which takes seconds

    _tell(
        take_part(
            broker,
            scenario=scenario,
            run=run,
            names=client or [],
            which=clients,
            settings=settings or [],
            module=task_module,
            ca_file=ca_file,
            threads=threads,
            journal=journal,
            broker_timeout_s=broker_timeout,
            until_stdin_closes=until_stdin_closes,
        )
    )


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
