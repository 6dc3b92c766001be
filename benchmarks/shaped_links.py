"""Clients in network namespaces of their own, each on a shaped link to the broker's; Linux, as root.

    client's namespace: TUN device 10.77.i.1  <- benchmarks.forwarder ->  10.77.i.2 :broker's namespace

Leaving the context removes all of it.
"""

import contextlib
import ctypes
import fcntl
import json
import math
import os
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from scenarios.schema.links import Link
from scenarios.schema.network import AccessPoint

HERE = f"fedlite-{os.getpid()}"
PROBE_BYTES = 32
"""An IP packet whose round trip is timed."""

QUEUE_PACKETS = 5000
"""Before a TUN device; the forwarder empties it at once."""

_TUN = Path("/dev/net/tun")
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000
_UDP_HEADER_BYTES = 28  # with IPv4's
_PORT = 9999
_SO_TIMESTAMPNS = 35  # the kernel notes when a packet came
_SILENCE_S = 3.0
_PROBE_EVERY_S = 0.1


def why_not() -> str | None:
    """Say why namespaces cannot be had here; None if they can."""
    if sys.platform != "linux":
        return "network namespaces need Linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not _TUN.exists():
        return f"there is no {_TUN}"
    missing = [program for program in ("ip", "sysctl") if shutil.which(program) is None]
    return f"{missing[0]} is not installed" if missing else None


def broker_namespace() -> str:
    """Name the broker's and the server's."""
    return f"{HERE}-broker"


def client_namespace(number: int) -> str:
    """Name a client's."""
    return f"{HERE}-client{number}"


def broker_address(number: int) -> str:
    """Give the broker's address for a client."""
    return f"10.77.{number}.2"


@dataclass
class Shaper:
    """What is known of the forwarder; all but the first after its end.

    Attributes:
        begun_s: when the courses of links began, by time.perf_counter.
        packets: that it passed on.
        late: of these, how many came out more than a millisecond late.
        total_s: sum of all lateness.
        worst_s: of one packet.
    """

    begun_s: float
    packets: int = 0
    late: int = 0
    total_s: float = 0.0
    worst_s: float = 0.0


@contextmanager
def shaped_links(
    links: Sequence[Link],
    point: AccessPoint | None = None,
    *,
    sharers: int | None = None,
    tcp: str | None = None,
) -> Iterator[Shaper]:
    """Make the namespaces and join them.

    Args:
        links: of each client.
        point: a bottleneck that clients share.
        sharers: so many clients, one after the other, share one such; all of them if not given.
        tcp: congestion control in the namespaces; the kernel's own if not given.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_namespace(broker_namespace(), tcp))
        ends, files = [], []
        for number, link in enumerate(links):
            stack.enter_context(_namespace(client_namespace(number), tcp))
            near = _tun(client_namespace(number), "tun0", f"10.77.{number}.1", broker_address(number))
            far = _tun(broker_namespace(), f"tun{number}", broker_address(number), f"10.77.{number}.1")
            files += [near, far]
            ends.append((near, far, link.model_dump(mode="json", exclude_defaults=True)))
        shared = point and point.link.model_dump(mode="json", exclude_defaults=True)
        asked = json.dumps([ends, shared, sharers or len(links)])
        command = [sys.executable, "-m", "benchmarks.forwarder", asked]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=files, start_new_session=True
        ) as process:
            for file in files:
                os.close(file)
            assert process.stdout is not None
            shaper = Shaper(float(process.stdout.readline()))
            yield shaper
            told, _ = process.communicate()
            vars(shaper).update(json.loads(told))


@contextmanager
def _namespace(name: str, tcp: str | None) -> Iterator[None]:
    _do("ip", "netns", "add", name)
    try:
        inside = ("ip", "netns", "exec", name)
        _do(*inside, "ip", "link", "set", "lo", "up")
        settings = [f"net.ipv4.tcp_congestion_control={tcp}"] if tcp else []
        _do(*inside, "sysctl", "-qw", "net.ipv4.tcp_no_metrics_save=1", *settings)
        yield
    finally:
        _do("ip", "netns", "del", name)


def _tun(namespace: str, name: str, address: str, peer: str) -> int:
    """Make a TUN device and give its file descriptor; the device lasts as long as that."""
    with entered(namespace):
        file = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(file, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
    inside = ("ip", "-n", namespace)
    _do(*inside, "address", "add", f"{address}/32", "peer", peer, "dev", name)
    _do(*inside, "link", "set", name, "mtu", "1500", "txqueuelen", str(QUEUE_PACKETS), "up")
    return file


def _do(*command: str) -> None:
    subprocess.run(command, check=True)


@contextmanager
def entered(namespace: str) -> Iterator[None]:
    """Make sockets in a namespace: they stay in it."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as home, Path(f"/run/netns/{namespace}").open() as there:
        if libc.setns(there.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
        try:
            yield
        finally:
            libc.setns(home.fileno(), _CLONE_NEWNET)


@dataclass(frozen=True)
class Check:
    """What a link really does; loss of the packets that were sent to find out."""

    round_trip_ms: float
    up_kbps: float
    down_kbps: float
    loss: float


def check_link(number: int, link: Link) -> Check:
    """Measure a client's link with UDP: round trip of small packets, rates of a train of full ones."""
    with _connected_pair(number) as (device, broker):
        round_trips_s = [t for t in (_round_trip_s(device, broker) for _ in range(20)) if t is not None]
        up_kbps, lost_up = _train(device, broker, link.uplink_kbps or 100_000)
        down_kbps, lost_down = _train(broker, device, link.downlink_kbps or 100_000)
    return Check(1000 * statistics.median(round_trips_s), up_kbps, down_kbps, (lost_up + lost_down) / 2)


@contextmanager
def _connected_pair(number: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Make UDP sockets at both ends of a client's link."""
    with _socket(client_namespace(number)) as device, _socket(broker_namespace()) as broker:
        device.connect((broker_address(number), _PORT))
        broker.connect((f"10.77.{number}.1", _PORT))
        yield device, broker


def _socket(namespace: str) -> socket.socket:
    with entered(namespace):
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**22)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**22)
    made.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    made.settimeout(_SILENCE_S)
    made.bind(("", _PORT))
    return made


def _round_trip_s(device: socket.socket, broker: socket.socket) -> float | None:
    begun_s = time.perf_counter()
    try:
        device.send(bytes(PROBE_BYTES - _UDP_HEADER_BYTES))
        broker.send(broker.recv(100))
        device.recv(100)
    except TimeoutError:
        return None
    return time.perf_counter() - begun_s


def _train(sender: socket.socket, receiver: socket.socket, kbps: float) -> tuple[float, float]:
    """Send full packets for a second or two; give their rate in kbit/s, and the share lost."""
    packet_bytes = 1500
    count = min(2000, max(40, int(kbps * 1000 * 1.5 / 8 / packet_bytes)))
    for number in range(count):
        sender.send(number.to_bytes(4, "big") + bytes(packet_bytes - _UDP_HEADER_BYTES - 4))
    arrivals: list[tuple[int, float]] = []  # number, seconds
    with contextlib.suppress(TimeoutError):
        while not arrivals or arrivals[-1][0] < count - 1:
            data, [(_, _, stamp)], _, _ = receiver.recvmsg(2000, 64)
            seconds, nanoseconds = struct.unpack("ll", stamp)
            arrivals.append((int.from_bytes(data[:4], "big"), seconds + 1e-9 * nanoseconds))
    (first, begun_s), (last, ended_s) = arrivals[0], arrivals[-1]
    return (last - first) * packet_bytes * 8 / 1000 / (ended_s - begun_s), 1 - len(arrivals) / count


class Prober:
    """Times small packets on a client's link again and again, in a thread, as long as the context lasts.

    Attributes:
        mean_ms: of their round trips.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._probe)
        self.mean_ms = math.nan

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End, and give the mean."""
        self._ended.set()
        self._thread.join()

    def _probe(self) -> None:
        taken_s = []
        with _connected_pair(self._number) as (device, broker):
            while not self._ended.wait(_PROBE_EVERY_S):
                round_trip_s = _round_trip_s(device, broker)
                if round_trip_s is not None:
                    taken_s.append(round_trip_s)
        self.mean_ms = 1000 * statistics.mean(taken_s or [math.nan])
