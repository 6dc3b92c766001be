"""The scenario's links between real clients and a real broker: a TCP proxy that is late on purpose.

It is a process of its own, so that neither event loop of a run waits for it. One listener serves all; the
first packet of a connection, CONNECT, says whose links it gets. Bytes that are under way are bounded, and
socket buffers are small: who sends too much feels it, as on a slow link.
"""

import asyncio
import contextlib
import logging
import math
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import typer

from broker.cli.console import command, run_until_stopped
from broker.errors import BrokerError
from broker.servers.spawn import LOCALHOST
from broker.urls import Address, parse_url
from scenarios.loading.load import load_scenario
from scenarios.schema.scenario import Scenario
from sim.network.clock import Clock
from sim.network.links.link import TcpLink
from sim.network.links.shared_link import SharedTcpLink
from sim.shaped.mqtt_packets import Packet, PacketSplitter, client_id
from sim.shaped.shaping import PacketPath, links_by_client

log = logging.getLogger(__name__)

SOCKET_BYTES = 2**16
"""Buffer of a socket in each direction."""

_TIMER_S = 0.0005
"""uvloop's timers have milliseconds and round down."""

_STOP_S = 5.0


class Pacer:
    """Lets virtual time follow real time.

    Args:
        clock: virtual time; nobody else moves it.
        speed_up: virtual seconds in a real one.

    Attributes:
        clock: virtual time.
    """

    def __init__(self, clock: Clock, speed_up: float) -> None:
        self.clock = clock
        self._speed_up = speed_up
        self._loop = asyncio.get_running_loop()
        self._origin_s = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None

    def catch_up(self) -> None:
        """Let happen what is due, each at its own virtual time, and come back for what is next."""
        now_s = (self._loop.time() - self._origin_s) * self._speed_up
        if now_s > self.clock.now:
            self.clock.run(until=now_s)
        if self._timer is not None:
            self._timer.cancel()
        due_s = self.clock.peek()
        if math.isfinite(due_s):
            real_s = self._origin_s + due_s / self._speed_up + _TIMER_S
            self._timer = self._loop.call_at(real_s, self.catch_up)


class Direction:
    """Bytes from one socket through a link to another socket.

    Args:
        pacer: moves virtual time.
        link: of the client, in this direction.
    """

    def __init__(self, pacer: Pacer, link: TcpLink | SharedTcpLink) -> None:
        self._pacer = pacer
        self._arrived: asyncio.Queue[bytes] = asyncio.Queue()
        self._path = PacketPath(pacer.clock, link, self._arrived.put_nowait)
        self._held = 0  # bytes taken and not yet written
        self._less = asyncio.Event()

    async def carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        splitter: PacketSplitter,
        packets: Sequence[Packet] = (),
    ) -> None:
        """Carry what was already read, then all that comes until there is no more and all is written.

        Raises:
            ValueError: what comes is not MQTT.
            OSError: a lost connection.
        """
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(self._write(writer))
            self._send(packets)
            while data := await reader.read(SOCKET_BYTES):
                self._send(splitter.feed(data))
                await self._until_held(self._path.room_bytes)
            await self._until_held(0)
            writing.cancel()

    def close(self) -> None:
        """Lose what is under way."""
        self._pacer.catch_up()
        self._path.close()
        self._pacer.catch_up()

    def _send(self, packets: Sequence[Packet]) -> None:
        self._pacer.catch_up()
        for packet in packets:
            self._held += len(packet.data)
            self._path.send(packet)
        self._pacer.catch_up()

    async def _until_held(self, at_most: int) -> None:
        while self._held > at_most:
            self._less.clear()
            await self._less.wait()

    async def _write(self, writer: asyncio.StreamWriter) -> None:
        while True:
            data = await self._arrived.get()
            writer.write(data)
            await writer.drain()
            self._held -= len(data)
            self._less.set()


class LinkProxy:
    """Stands between clients and broker.

    Args:
        scenario: has the links and the seed.
        broker: where the broker is.
        run: name of the run, the first part of the clients' identifiers.
        speed_up: link times are divided by it.
    """

    def __init__(self, scenario: Scenario, broker: Address, *, run: str, speed_up: float) -> None:
        self._broker = broker
        self._prefix = f"{run}-"
        self._pacer = Pacer(Clock(), speed_up)
        self._links = links_by_client(scenario, self._pacer.clock)
        self._relays: dict[str, asyncio.Task[object]] = {}

    async def serve(self, stop: asyncio.Event, ready: Callable[[int], None]) -> None:
        """Relay connections until `stop` is set; `ready` is told the port on LOCALHOST."""
        with socket.socket() as listener:
            _keep_small(listener)  # what it accepts inherits this
            listener.bind((LOCALHOST, 0))
            server = await asyncio.start_server(self._accept, sock=listener)
            ready(listener.getsockname()[1])
            await stop.wait()
            server.close()
            for relay in self._relays.values():
                relay.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._relay(reader, writer)
        except* OSError as errors:
            log.info("a connection was lost: %s", errors.exceptions)
        except* ValueError as errors:
            log.warning("refused a connection: %s", errors.exceptions)
        finally:
            writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        splitter, packets = PacketSplitter(), list[Packet]()
        while not packets:
            data = await reader.read(SOCKET_BYTES)
            if not data:
                return
            packets = splitter.feed(data)
        client = client_id(packets[0]).removeprefix(self._prefix)
        if client not in self._links:
            raise ValueError(f"{client!r} is no client of this run")
        await self._take_over(client)
        from_broker, to_broker = await asyncio.open_connection(self._broker.host, self._broker.port)
        _keep_small(to_broker.get_extra_info("socket"))
        up, down = (Direction(self._pacer, link) for link in self._links[client])
        carrying = {
            asyncio.create_task(up.carry(reader, to_broker, splitter, packets)),
            asyncio.create_task(down.carry(from_broker, writer, PacketSplitter())),
        }
        try:
            ended, _ = await asyncio.wait(carrying, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.gather(*ended)
        finally:
            to_broker.close()
            for task in carrying:
                task.cancel()
            await asyncio.gather(*carrying, return_exceptions=True)
            up.close()
            down.close()

    async def _take_over(self, client: str) -> None:
        """End an earlier connection of a client; what was under way there is lost."""
        before = self._relays.get(client)
        task = asyncio.current_task()
        assert task is not None
        self._relays[client] = task
        if before is not None:
            before.cancel()
            await asyncio.wait({before})


def _keep_small(link: socket.socket) -> None:
    """Give a socket small buffers, and let it send at once."""
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        link.setsockopt(socket.SOL_SOCKET, option, SOCKET_BYTES)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


@command
def main(
    scenario: str,
    broker: str,
    run: str,
    speed_up: float,
) -> None:
    """Be the proxy; says its port on standard output, and ends when standard input closes."""
    loaded, address = load_scenario(scenario), parse_url(broker)

    async def serve(stop: asyncio.Event) -> None:
        await LinkProxy(loaded, address, run=run, speed_up=speed_up).serve(stop, typer.echo)

    run_until_stopped(serve, until_stdin_closes=True)


@contextmanager
def shaped_links(
    spec: Path, brokers: Sequence[Address], *, run: str, speed_up: float, log_file: Path
) -> Iterator[Address]:
    """Run a proxy in a process of its own, for as long as the context lasts.

    Args:
        spec: the scenario's file.
        brokers: the first is the one whose clients it stands between.
        run: name of the run.
        speed_up: link times are divided by it.
        log_file: for what it says.

    Yields:
        The address for clients.

    Raises:
        BrokerError: it did not start, there are several brokers, or it speaks TLS.
    """
    if len(brokers) > 1:
        raise BrokerError("--shape: stands between clients and one broker; name a single one")
    if brokers[0].tls:
        raise BrokerError("--shape: packets inside TLS cannot be told apart; use an mqtt:// broker")
    command_line = [sys.executable, "-m", "sim.shaped.proxy", str(spec), str(brokers[0]), run, str(speed_up)]
    with log_file.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603  our own program
            command_line,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            start_new_session=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        try:
            port = process.stdout.readline().decode().strip()
            if not port:
                words = log_file.read_text(errors="replace").strip().splitlines()[-1:]
                raise BrokerError("\n".join(["the shaped links did not start:", *words]))
            yield replace(brokers[0], host=LOCALHOST, port=int(port))
        finally:
            process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_S)
            process.kill()
            process.wait()


if __name__ == "__main__":
    typer.run(main)
