"""`fedlite trace`: the command."""

from pathlib import Path
from typing import Annotated

import typer

from broker.cli.console import command
from broker.errors import RunError
from broker.machine.event_log import read_notes
from scenarios.loading.load import load_scenario
from server_node.__main__ import JOURNAL
from sim.live.run import write_trace


@command
def trace(
    folder: Annotated[Path, typer.Argument(help="The server's run folder.")],
    journals: Annotated[list[Path] | None, typer.Argument(help="Files of `fedlite edge --journal`.")] = None,
) -> None:
    """Join the journals of server and edge processes on several machines to a trace.json."""
    if not (folder / "scenario.yaml").is_file():
        raise RunError(f"{folder} is no run folder: it has no scenario.yaml; fedlite server writes it")
    scenario = load_scenario(str(folder / "scenario.yaml"))
    write_trace(scenario, folder, read_notes(folder / JOURNAL), journals or [])
    typer.echo(f"wrote {folder / 'trace.json'}")
