"""`fedlite server`: serves one run."""

import functools
from pathlib import Path
from typing import Annotated

import typer

from broker.console import command, run_until_stopped
from broker.files import writing
from broker.machine.event_log import Journal
from broker.transports.mqtt import MqttTransport
from scenarios.loading.load import load_scenario
from scenarios.loading.rehearsal import rehearse
from scenarios.schema.scenario import client_names
from server_node.live import serve

JOURNAL = "journal.json"
"""In the run folder: what `fedlite trace` needs of the server."""


@command
def server(
    scenario: Annotated[str, typer.Argument(help="Scenario file, or the name of a shipped one.")],
    broker: Annotated[str, typer.Option(help="mqtt://host:port or mqtts://user:password@host:port")],
    run: Annotated[str, typer.Option(help="Name of the run; the scenario's name if not given.")] = "",
    out: Annotated[Path | None, typer.Option(help="Folder for the results; runs/NAME if not given.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key.path=value")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run folder's checkpoint.")] = False,
) -> None:
    """Serve one run: choose cohorts, train the tail, average the heads, write the run folder."""
    loaded = load_scenario(scenario, settings or ())
    rehearse(loaded)
    name = run or loaded.name
    folder = out or Path("runs") / name
    connect = functools.partial(MqttTransport, broker, ca_file=loaded.broker.ca_file)
    serving = functools.partial(serve, loaded, connect, run=name, folder=folder, resume=resume)
    journal = Journal(client_names(loaded))
    run_until_stopped(lambda stop: serving(stop=stop, journal=journal))
    with writing(folder):
        journal.write(folder / JOURNAL)
    typer.echo(f"results in {folder}")


if __name__ == "__main__":
    typer.run(server)
