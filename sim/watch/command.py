"""`fedlite watch`: shows a live run from any machine that reaches its broker."""

import asyncio
import functools
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.live import Live

from broker.cli.console import command, run_until_stopped
from broker.cli.options import (
    BrokerOption,
    BundleOption,
    CaFileOption,
    PasswordFileOption,
    access_from,
)
from broker.cli.screen import LINE_S
from broker.errors import RunError
from broker.exits import STOPPED, exit_of
from broker.provisioning.bundle import read_bundle
from broker.transports.mqtt import MqttTransport
from broker.wire import topics
from broker.wire.messages import RunState
from server_node.board.pages import EventLine, Page
from sim.watch.follow import Look, follow
from sim.watch.page import serving_page
from sim.watch.picture import Picture
from sim.watch.terminal import event_words, line_of, screen


@command
def watch(
    run: Annotated[str, typer.Option(help="Name of the run.")],
    broker: BrokerOption = None,
    ca_file: CaFileOption = None,
    password_file: PasswordFileOption = None,
    bundle: BundleOption = None,
    page: Annotated[
        int | None,
        typer.Option(min=0, max=65_535, metavar="PORT", help="Serve a page at http://127.0.0.1:PORT/."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON lines on standard output: each page as it changes.")
    ] = False,
) -> None:
    """Show a live run: its progress, its fleet, the round under way, what has happened.

    It reads what the server publishes at the broker, and asks nobody anything: any number may watch. It ends
    with the run; with --page it goes on until Ctrl-C. The page is for this machine only.
    """
    if page is not None and as_json:
        raise RunError("take --page or --json, not both")
    picture = Picture(topics.check_name(run))
    member = read_bundle(bundle, "observer", "operator") if bundle else None
    access = access_from(broker, ca_file=ca_file, password_file=password_file, bundle=member)
    connect = functools.partial(MqttTransport, access, connect_timeout_s=None)

    async def watching(stop: asyncio.Event) -> str:
        if page is not None:
            with serving_page(picture, page) as (url, look):
                typer.echo(f"{run} at {url}", err=True)
                return await follow(connect, picture, stop, look=look, ends=False)
        if as_json:
            return await follow(connect, picture, stop, hear=_print_json)
        with _on_screen(picture) as look:
            return await follow(connect, picture, stop, look=look)

    reason = run_until_stopped(watching)
    if reason == STOPPED:
        raise typer.Exit(exit_of(STOPPED))
    typer.echo(f"the run is over: {reason}", err=as_json)


def _print_json(name: str, page: Page | RunState) -> None:
    typer.echo(msgspec.json.encode({"page": name} | msgspec.structs.asdict(page)).decode())


@contextmanager
def _on_screen(picture: Picture) -> Iterator[Look]:
    """Draw on a terminal; elsewhere write each event as it happens, and a line every ten seconds."""
    console = Console()
    if not console.is_terminal:
        yield _Lines(picture).look
        return
    with Live(console=console, auto_refresh=False) as live:
        yield lambda _now_s: live.update(screen(picture, console.height), refresh=True)


class _Lines:
    """A run as lines of text.

    Args:
        picture: of the run.
    """

    def __init__(self, picture: Picture) -> None:
        self._picture = picture
        self._told: list[EventLine] = []
        self._next_s = -math.inf

    def look(self, now_s: float) -> None:
        """Write what has happened since the last call."""
        events = self._picture.events.events if self._picture.events is not None else []
        for event in events:
            if event not in self._told:
                self._write(event.at, event_words(event))
        self._told = events
        if now_s >= self._next_s:
            self._next_s = now_s + LINE_S
            self._write(time.time(), line_of(self._picture))

    @staticmethod
    def _write(at: float, line: str) -> None:
        typer.echo(f"{time.strftime('%H:%M:%S', time.localtime(at))}  {line}")
