"""A run in the terminal: figures, fleet, events; whoever needs attention first."""

import time

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from broker.cli.wording import format_seconds
from server_node.board.pages import ClientLine, EventLine
from server_node.board.words import run_line
from sim.watch.picture import Picture

_STYLES = {"offline": "bold red", "working": "cyan", "waiting": "green", "idle": "", "unknown": "dim"}
_PRESENCE = ("joined", "back", "lost")
_EVENTS_SHOWN = 6
_OTHER_LINES = 12
"""Of the screen, beside the clients."""


def line_of(picture: Picture) -> str:
    """Say in one line how the run gets on."""
    if not picture.connected:
        return "no connection to the broker" + ("; what is shown is old" if picture.run else "")
    if picture.state is None:
        return f"the broker knows nothing of run {picture.name}; waiting for its server"
    if picture.run is None:
        state = picture.state
        return (
            f"{picture.name}: {state.phase}, round {state.round} of {state.rounds}; its server has published "
            "no more than that"
        )
    away = "its server is away  " if picture.phase == "away" else ""
    return away + run_line(picture.run, time.time())


def ago(since: float | None) -> str:
    """Say how long ago a time of the Unix epoch was."""
    return "" if since is None else format_seconds(max(0, round(time.time() - since)))


def screen(picture: Picture, height: int) -> RenderableType:
    """Draw a run on a terminal of so many lines."""
    room = max(3, height - _OTHER_LINES)
    fleet = sorted(picture.fleet, key=lambda line: line.status != "offline")
    parts: list[RenderableType] = [
        Text(f"{picture.name}  {line_of(picture)}", style="bold"),
        _table(fleet[:room]),
    ]
    if len(fleet) > room:
        parts.append(Text(f"and {len(fleet) - room} more", style="dim"))
    if picture.events is not None:
        parts += [Text(""), *(_event(event) for event in picture.events.events[-_EVENTS_SHOWN:])]
    return Group(*parts)


def event_words(event: EventLine) -> str:
    """Say an event in words."""
    if not event.client:
        return f"the run is {event.what}"
    return f"{event.client}{'' if event.kind in _PRESENCE else ':'} {event.what}"


def _event(event: EventLine) -> Text:
    style = "red" if event.kind in ("lost", "refused") else ""
    return Text(f"{time.strftime('%H:%M:%S', time.localtime(event.at))}  {event_words(event)}", style=style)


def _table(fleet: list[ClientLine]) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in ("client", "status", "device", "link"):
        table.add_column(name, no_wrap=True)
    for name in ("seen", "samples", "batches", "refused", "answers in"):
        table.add_column(name, justify="right", no_wrap=True)
    for line in fleet:
        table.add_row(
            Text(line.client),
            Text(line.status, style=_STYLES[line.status]),
            Text(line.device),
            Text(line.link),
            ago(line.seen),
            "" if line.samples is None else str(line.samples),
            str(line.batches),
            str(line.refused or ""),
            "" if line.answer_s is None else format_seconds(line.answer_s),
        )
    return table
