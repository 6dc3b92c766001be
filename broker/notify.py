"""Tells a service manager that this process is there and its event loop turns (sd_notify(3) of systemd).

systemd names a datagram socket in NOTIFY_SOCKET, and in WATCHDOG_USEC how long a service may be silent before
it counts as hung and is ended. Without these variables nothing is sent.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

SOCKET, WATCHDOG, WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"


def notify(text: str, environment: Mapping[str, str] = os.environ) -> None:
    """Send a line such as READY=1 to the service manager, if there is one; nothing is waited for."""
    address = environment.get(SOCKET, "")
    if not address.startswith(("/", "@")) or not hasattr(socket, "AF_UNIX"):
        return
    if address.startswith("@"):  # a name in the abstract namespace
        address = f"\0{address[1:]}"
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.sendto(text.encode(), address)


def pause_s(environment: Mapping[str, str] = os.environ) -> float | None:
    """Give the seconds between two signs of life, a third of what is allowed; None: nobody waits for them."""
    for_whom, allowed = environment.get(WATCHDOG_PID, ""), environment.get(WATCHDOG, "")
    if SOCKET not in environment or not allowed.isdecimal() or not int(allowed):
        return None
    if for_whom not in ("", str(os.getpid())):  # a parent's
        return None
    return int(allowed) / 3_000_000


@asynccontextmanager
async def telling_manager() -> AsyncIterator[None]:
    """Say that the program is ready, that its event loop turns while the context lasts, and that it stops."""
    pause = pause_s()
    alive = asyncio.create_task(_tell_that_it_turns(pause), name="watchdog") if pause is not None else None
    notify("READY=1")
    try:
        yield
    finally:
        if alive is not None:
            alive.cancel()
        notify("STOPPING=1")


async def _tell_that_it_turns(pause: float) -> None:
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(pause)
