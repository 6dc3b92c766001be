"""A TCP proxy before the broker whose connections can be cut, or go on in appearance only."""

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Self

from broker.servers.spawn import LOCALHOST


@dataclass(eq=False)
class Pipe:
    """One connection through the proxy; when `swallows` is set both ends stay open and nothing passes."""

    writers: list[asyncio.StreamWriter]
    swallows: bool = False
    pumps: list[asyncio.Task[None]] = field(default_factory=list)


class Proxy:
    """Listens on a port of its own for as long as the context lasts."""

    def __init__(self, broker_port: int) -> None:
        self._broker_port = broker_port
        self._pipes: list[Pipe] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, LOCALHOST, 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        pumps = [pump for pipe in self._pipes for pump in pipe.pumps]
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        self.cut()

    def cut(self) -> None:
        """Break every connection, as a router does that starts anew."""
        for pipe in self._pipes:
            _abort(pipe)
        self._pipes = []

    def half_open(self) -> None:
        """Let every present connection carry nothing any more; new ones work."""
        for pipe in self._pipes:
            pipe.swallows = True

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(LOCALHOST, self._broker_port)
        except OSError:
            writer.transport.abort()
            return
        pipe = Pipe([writer, back])
        self._pipes.append(pipe)
        pipe.pumps = [
            asyncio.create_task(_pump(pipe, reader, back)),
            asyncio.create_task(_pump(pipe, there, writer)),
        ]


async def _pump(pipe: Pipe, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(2**16):
            if not pipe.swallows:
                target.write(data)
                await target.drain()
    if not pipe.swallows:
        _abort(pipe)


def _abort(pipe: Pipe) -> None:
    for writer in pipe.writers:
        writer.transport.abort()
