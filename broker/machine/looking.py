"""Looks at a running program once a second, to show how it gets on; it runs on, whatever goes wrong there."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""From one look to the next."""


@asynccontextmanager
async def looking(look: Callable[[float], None]) -> AsyncIterator[None]:
    """Call `look` with the event loop's time once a second, and once more when the context is left.

    Its first exception is logged with its traceback, and it is not called again.
    """
    loop = asyncio.get_running_loop()
    sound = True

    def try_to_look() -> None:
        nonlocal sound
        try:
            look(loop.time())
        except Exception:
            sound = False
            log.exception("what happens cannot be shown any more; it goes on unseen")

    async def keep_looking() -> None:
        while sound:
            await asyncio.sleep(LOOK_S)
            try_to_look()

    task = asyncio.create_task(keep_looking(), name="looking")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if sound:
            try_to_look()
