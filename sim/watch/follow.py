"""Keeps a picture of a run up to date, from the run's broker."""

import asyncio
import secrets
from asyncio import FIRST_COMPLETED
from collections.abc import Callable

from broker.exits import STOPPED
from broker.machine.asyncio_driver import connected
from broker.machine.looking import looking
from broker.transports.base import Connect, Connected, Disconnected, Frame, Transport
from broker.wire.messages import RunState
from server_node.board.pages import Page
from sim.watch.picture import Picture

LAST_PAGES_S = 3.0
"""How long the last pages of a run that is over are waited for: the server publishes them after its state."""

Hear = Callable[[str, Page | RunState], None]
Look = Callable[[float], None]


async def follow(
    connect: Connect,
    picture: Picture,
    stop: asyncio.Event,
    *,
    hear: Hear = lambda _name, _page: None,
    look: Look = lambda _now_s: None,
    ends: bool = True,
) -> str:
    """Keep a picture up to date until the run is over.

    Args:
        connect: makes the transport.
        picture: takes what is said.
        stop: set it to leave.
        hear: hears of each change.
        look: is called once a second, and once more at the end.
        ends: False: go on also when the run is over.

    Returns:
        Why the run is over; "stopped" if it was left before.

    Raises:
        BrokerError: no broker, or one that refuses us.
    """
    client_id = f"{picture.name}-watch-{secrets.token_hex(4)}"
    transport = connect(client_id=client_id, subscriptions=picture.subscriptions)
    over = asyncio.Event()
    async with looking(look), connected(transport, stop) as there:
        if not there:
            return STOPPED
        reading = asyncio.create_task(_read(transport, picture, hear, over if ends else None))
        stopping, ending = asyncio.create_task(stop.wait()), asyncio.create_task(over.wait())
        tasks = {reading, stopping, ending}
        try:
            await asyncio.wait(tasks, return_when=FIRST_COMPLETED)
            await asyncio.wait({reading, stopping}, timeout=LAST_PAGES_S, return_when=FIRST_COMPLETED)
            if reading.done():
                reading.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return picture.state.reason if over.is_set() and picture.state is not None else STOPPED


async def _read(transport: Transport, picture: Picture, hear: Hear, over: asyncio.Event | None) -> None:
    """Read what is said; set `over`, if given, when the run is, and return when the picture is complete."""
    async for item in transport.events():
        match item:
            case Connected():
                picture.forget()
                picture.connected = True
            case Disconnected():
                picture.connected = False
            case Frame() if (change := picture.take(item)) is not None:
                hear(*change)
            case _:
                pass
        if over is not None and picture.phase == "finished":
            over.set()
            if picture.run is not None and picture.run.phase == "finished":
                return
