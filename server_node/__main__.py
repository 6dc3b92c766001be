"""`fedlite server`: serves one run."""

import functools
import json
from pathlib import Path
from typing import Annotated

import typer

from broker.cli.console import command, run_until_stopped
from broker.cli.options import (
    BrokerOption,
    BundleOption,
    CaFileOption,
    PasswordFileOption,
    access_from,
)
from broker.cli.screen import tell_what_happens
from broker.errors import RunError
from broker.exits import ANOTHER_SERVER, COMPLETE, ENDED, STOPPED, SUPERSEDED, exit_of
from broker.files import writing
from broker.machine.event_log import Journal
from broker.metrics import serving_metrics
from broker.provisioning.bundle import read_bundle
from broker.transports.mqtt import MqttTransport
from scenarios.loading.load import load_scenario
from scenarios.loading.rehearsal import rehearse
from scenarios.schema.scenario import client_names
from server_node.board.metrics import METRICS, samples_of
from server_node.board.screen import watching_live
from server_node.board.views import View
from server_node.live import serve
from server_node.progress import over
from server_node.summary import refusals
from server_node.trackers.opening import Log, Observer, telling_trackers

JOURNAL = "journal.json"
"""In the run folder: what `fedlite trace` needs of the server."""


@command
def server(
    scenario: Annotated[str, typer.Argument(help="Scenario file, or the name of a shipped one.")],
    broker: BrokerOption = None,
    run: Annotated[str, typer.Option(help="Name of the run; the scenario's name if not given.")] = "",
    out: Annotated[Path | None, typer.Option(help="Folder for the results; runs/NAME if not given.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key.path=value")] = None,
    ca_file: CaFileOption = None,
    password_file: PasswordFileOption = None,
    bundle: BundleOption = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew, over what the run folder has.")] = False,
    takeover: Annotated[
        bool, typer.Option("--takeover", help="Take the run over from a server that is at work or frozen.")
    ] = False,
    broker_timeout: Annotated[
        float | None, typer.Option(min=0, help="Give up when no broker answers for so many seconds.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")] = False,
    metrics: Annotated[
        str, typer.Option(metavar="[HOST:]PORT", help="Serve Prometheus metrics; on 127.0.0.1 if no host.")
    ] = "",
    log: Log = None,
    observer: Observer = None,
    no_watch: Annotated[
        bool, typer.Option("--no-watch", help="Publish nothing for `fedlite watch`.")
    ] = False,
) -> None:
    """Serve one run: choose cohorts, train the tail, average the heads, write the run folder.

    Ctrl-C and SIGTERM pause the run: edges wait, and the same command goes on from the newest checkpoint.
    `fedlite stop` ends it for good. `fedlite watch` shows it from any machine that reaches the broker.
    """
    loaded = load_scenario(scenario, settings or ())
    rehearse(loaded, with_devices=False)
    member = read_bundle(bundle, "server") if bundle else None
    name = run or (member.name if member else loaded.name)
    if member is not None and name != member.name:
        raise RunError(
            f"{bundle} is the bundle of run {member.name!r}, not of {name!r}: `fedlite fleet allow {name}` "
            "makes one"
        )
    folder = out or Path("runs") / name
    spec = loaded.broker
    access = access_from(broker, ca_file=ca_file, password_file=password_file, bundle=member, spec=spec)
    connect = functools.partial(
        MqttTransport, access, packet_bytes=spec.packet_bytes, connect_timeout_s=broker_timeout
    )
    serving = functools.partial(
        serve,
        loaded,
        connect,
        run=name,
        folder=folder,
        fresh=fresh,
        takeover=takeover,
        one_connection=member is not None,
    )
    finished = None if fresh else over(loaded, folder)
    if finished is not None:
        typer.echo(finished[1], err=as_json)
    journal = Journal(client_names(loaded))
    tell_what_happens()
    latest: list[View] = []  # the last one only
    with (
        serving_metrics(metrics, METRICS, lambda: samples_of(latest[0]) if latest else ()),
        telling_trackers(log, observer, folder) as tell,
        watching_live(loaded.training.rounds, loaded.fleet_size, as_json=as_json) as (watch, glance),
    ):

        def look(view: View) -> None:
            latest[:] = [view]
            glance(view)

        summary = run_until_stopped(
            lambda stop: serving(
                stop=stop, journal=journal, watch=watch, glance=look, posts=not no_watch, tell=tell
            )
        )
    reason = summary["reason"]
    if as_json:
        typer.echo(json.dumps(summary))
    if finished is not None:
        raise typer.Exit(exit_of(reason))
    tell_end(reason, folder)
    if reason not in (SUPERSEDED, ANOTHER_SERVER):
        with writing(folder):
            journal.write(folder / JOURNAL)
        typer.echo(f"results in {folder}", err=as_json)
    if said := refusals(summary):
        typer.echo(said, err=as_json)
    raise typer.Exit(exit_of(reason))


def tell_end(reason: str, folder: Path) -> None:
    """Say why a server ended, unless its run is complete."""
    words = {
        STOPPED: "paused: the same command goes on, `fedlite stop` ends the run for good",
        ENDED: "stopped for good",
        SUPERSEDED: f"another server has taken the run over; this one wrote nothing more into {folder}",
        ANOTHER_SERVER: "another server is at work on this run; --takeover takes it over",
    }
    if reason != COMPLETE:
        typer.echo(words.get(reason, f"ended early: {reason}"), err=True)


if __name__ == "__main__":
    typer.run(server)
