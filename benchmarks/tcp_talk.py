"""Messages up and answers down over real TCP on shaped links, each of them timed.

A conversation is one connection that stays open. The device sends a message as MQTT would: PUBLISH packets
of at most 128,000 bytes, each answered by a PUBACK of 4 bytes. The broker's side waits (somebody computes),
sends an answer in the same way, the device waits, and so on. Both ends are in this process, so one clock
times both.
"""

import asyncio
import gc
import os
import random
import socket
import sys
import time
from collections.abc import Iterator

from benchmarks.shaped_links import (
    Check,
    Prober,
    broker_address,
    broker_namespace,
    check_link,
    client_namespace,
    entered,
    shaped_links,
)
from benchmarks.tcp_settings import Setting
from broker.wire.chunks import MAX_PACKET_BYTES

PORT = 1884
PRIORITY = 10
"""Below the forwarder's, above everybody else's."""

_PUBLISH, _PUBACK = 0x30, 0x40
_HEADER_BYTES = 4
_RECEIVE_BYTES = 2**18


def packet_sizes(message_bytes: int) -> Iterator[int]:
    """Give the bytes of each PUBLISH packet of a message."""
    for begun in range(0, message_bytes, MAX_PACKET_BYTES):
        yield min(MAX_PACKET_BYTES, message_bytes - begun)


class End:
    """One end of a connection: sends messages, answers packets, and tells when a message has arrived."""

    def __init__(self, own: socket.socket, message_bytes: int) -> None:
        own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = own
        self._message_bytes = message_bytes
        self._packets = b"".join(_packet(_PUBLISH, size) for size in packet_sizes(message_bytes))
        self._unsent = memoryview(b"")
        self._acks: list[bytes] = []
        self.arrived: asyncio.Queue[float] = asyncio.Queue()
        self._header = b""
        self._body_left = self._received = 0
        asyncio.get_running_loop().add_reader(own, self._read)

    def send(self) -> float:
        """Begin to send a message; give the time."""
        now_s = time.perf_counter()
        self._queue(self._packets)
        return now_s

    def close(self) -> None:
        """End the connection."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        loop.remove_writer(self._socket)
        self._socket.close()

    def _queue(self, data: bytes) -> None:
        waits = bool(self._unsent)
        self._unsent = memoryview(bytes(self._unsent) + data) if waits else memoryview(data)
        if not waits:
            self._write()

    def _write(self) -> None:
        try:
            while self._unsent:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            asyncio.get_running_loop().add_writer(self._socket, self._write)
        else:
            asyncio.get_running_loop().remove_writer(self._socket)

    def _read(self) -> None:
        data = self._socket.recv(_RECEIVE_BYTES)
        now_s, at = time.perf_counter(), 0
        while at < len(data):
            if not self._body_left:
                part = data[at : at + _HEADER_BYTES - len(self._header)]
                self._header += part
                at += len(part)
                if len(self._header) < _HEADER_BYTES:
                    return
                self._body_left = int.from_bytes(self._header[1:], "big")
            taken = min(self._body_left, len(data) - at)
            self._body_left -= taken
            at += taken
            if not self._body_left:
                self._packet_came(now_s)

    def _packet_came(self, now_s: float) -> None:
        kind, size = self._header[0], _HEADER_BYTES + int.from_bytes(self._header[1:], "big")
        self._header = b""
        if kind == _PUBLISH:
            self._queue(_packet(_PUBACK, _HEADER_BYTES))
            self._received += size
            if self._received == self._message_bytes:
                self._received = 0
                self.arrived.put_nowait(now_s)


def _packet(kind: int, size: int) -> bytes:
    return bytes([kind]) + (size - _HEADER_BYTES).to_bytes(3, "big") + bytes(size - _HEADER_BYTES)


async def _converse(
    device: End, broker: End, setting: Setting, rng: random.Random
) -> tuple[float, list[float]]:
    """Talk; give when it began, and the seconds of each message but for the first exchanges."""
    begins_s, seconds = 0.0, []
    for number in range(setting.warm_up + setting.exchanges):
        for sender, receiver in ((device, broker), (broker, device)):
            await asyncio.sleep(setting.pause(rng))
            begun_s = sender.send()
            arrived_s = await receiver.arrived.get()
            begins_s = begins_s or begun_s
            if number >= setting.warm_up:
                seconds.append(arrived_s - begun_s)
    return begins_s, seconds


async def _connected(clients: int, tcp: str) -> list[tuple[socket.socket, socket.socket]]:
    """Connect each client with the broker; give their two ends."""
    loop = asyncio.get_running_loop()
    with entered(broker_namespace()):
        listener = socket.socket()
    _prepare(listener, tcp)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("", PORT))
    listener.listen(clients)
    devices = []
    for number in range(clients):
        with entered(client_namespace(number)):
            devices.append(socket.socket())
        _prepare(devices[-1], tcp)
    connecting = [
        loop.create_task(loop.sock_connect(device, (broker_address(number), PORT)))
        for number, device in enumerate(devices)
    ]
    accepted = {}
    for _ in devices:
        end, address = await loop.sock_accept(listener)
        accepted[int(address[0].split(".")[2])] = end
    await asyncio.gather(*connecting)
    listener.close()
    return [(device, accepted[number]) for number, device in enumerate(devices)]


def _prepare(made: socket.socket, tcp: str) -> None:
    made.setblocking(False)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, tcp.encode())


async def _turn(setting: Setting, tcp: str, rng: random.Random) -> list[tuple[float, list[float]]]:
    """Let every client of a setting talk at the same time, on new connections."""
    sockets = await _connected(setting.clients, tcp)
    pairs = [
        (End(device, setting.message_bytes), End(broker, setting.message_bytes)) for device, broker in sockets
    ]
    talks = [_converse(*pair, setting, random.Random(rng.random())) for pair in pairs]
    messages = await asyncio.gather(*talks)
    for end in (end for pair in pairs for end in pair):
        end.close()
    return messages


class Measured:
    """What one setting took.

    Attributes:
        seconds: of each message, by connection; but for the first exchanges.
        begins_s: of each conversation, in the course of the links.
        check: of a link like the others, before.
        probe_ms: mean round trip of small packets on a link without loss, while all others talked.
        late_ms: mean time that packets left the forwarder too late.
        late_share: of all packets, how many left the forwarder more than a millisecond late.
    """

    def __init__(self) -> None:
        self.seconds: list[list[float]] = []
        self.begins_s: list[float] = []
        self.check: Check | None = None
        self.probe_ms = 0.0
        self.late_ms = 0.0
        self.late_share = 0.0
        self.worst_late_ms = 0.0


def measure(setting: Setting, tcp: str, longest_s: float) -> Measured:
    """Measure one setting, turn after turn, until its mean is known well enough."""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    gc.freeze()
    sys.setswitchinterval(0.0002)  # the prober's thread waits no longer for this one
    rng = random.Random(time.time_ns())
    found = Measured()
    probe = setting.link.model_copy(update={"loss": 0.0, "jitter_ms": 0.0})
    links = [setting.link] * setting.clients + [probe]
    begun_s = time.monotonic()
    with shaped_links(links, setting.point, sharers=setting.sharers) as shaper:
        found.check = check_link(setting.clients, probe)
        with Prober(setting.clients) as prober:
            while True:
                turn_s = time.monotonic()
                for begins_s, seconds in asyncio.run(_turn(setting, tcp, rng)):
                    found.begins_s.append(begins_s - shaper.begun_s)
                    found.seconds.append(seconds)
                now_s = time.monotonic()
                if setting.enough(found.seconds) or 2 * now_s - turn_s - begun_s > longest_s:
                    break
        found.probe_ms = prober.mean_ms
    found.late_ms = 1000 * shaper.total_s / max(1, shaper.packets)
    found.late_share = shaper.late / max(1, shaper.packets)
    found.worst_late_ms = 1000 * shaper.worst_s
    return found
