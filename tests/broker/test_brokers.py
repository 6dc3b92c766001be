"""The same behaviour on every broker, and what happens when a broker, a client or a message goes bad."""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from broker.errors import BrokerError
from broker.servers import spawn as local
from broker.servers.mosquitto import mosquitto_config
from broker.servers.spawn import local_broker
from broker.transports.base import Connect, Connected, Disconnected, Event, Frame, Will
from broker.transports.mqtt import MqttTransport
from broker.wire import chunks


async def next_frame(events: AsyncIterator[Event]) -> Frame:
    async with asyncio.timeout(20):
        async for event in events:
            if isinstance(event, Frame):
                return event
    raise AssertionError("the transport ended")


async def next_of(events: AsyncIterator[Event], kind: type[Event]) -> None:
    async with asyncio.timeout(20):
        async for event in events:
            if isinstance(event, kind):
                return


def text(value: str) -> bytes:
    data = value.encode()
    return len(data).to_bytes(2) + data


class RawClient:
    """A client made of bytes, for what a decent one does not do."""

    def __init__(self, url: str, client_id: str, will: Will | None = None) -> None:
        address = urlsplit(url)
        self.socket = socket.create_connection((address.hostname, address.port or 0), timeout=20)
        flags, rest = 0x02, text(client_id)
        if will is not None:
            flags |= 0x04 | 0x08 | (0x20 if will.retain else 0)
            rest += text(will.topic) + len(will.payload).to_bytes(2) + will.payload
        body = text("MQTT") + bytes([4, flags, 0, 60]) + rest
        self.socket.sendall(bytes([0x10, len(body)]) + body)
        assert self.socket.recv(4) == b"\x20\x02\x00\x00"

    def publish(self, topic: str, payload_bytes: int) -> None:
        remaining = len(text(topic)) + 2 + payload_bytes
        length = bytearray()
        while remaining > 127:
            length.append(remaining & 127 | 128)
            remaining >>= 7
        self.socket.sendall(b"\x32" + bytes(length) + bytes([remaining]) + text(topic) + b"\0\x01")
        for _ in range(payload_bytes >> 20):
            self.socket.sendall(bytes(2**20))

    def vanish(self) -> None:
        self.socket.close()


def broker_processes() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if child.is_running()]


async def test_a_message_arrives_with_its_exact_wire_bytes(connect: Connect, run_name: str) -> None:
    topic = f"fl/{run_name}/up/a"
    async with (
        connect(client_id=f"{run_name}-server", subscriptions=[f"fl/{run_name}/up/+"]) as server,
        connect(client_id=f"{run_name}-a", subscriptions=[]) as client,
    ):
        events = server.events()
        assert await anext(events) == Connected(1)
        await client.publish(topic, b"hello")
        assert await next_frame(events) == Frame(topic, b"hello", chunks.mqtt_packet_bytes(topic, 5))


async def test_messages_on_one_topic_keep_the_order_of_the_calls(connect: Connect, run_name: str) -> None:
    topic = f"fl/{run_name}/up/a"
    async with (
        connect(client_id=f"{run_name}-server", subscriptions=[topic]) as server,
        connect(client_id=f"{run_name}-a", subscriptions=[]) as client,
    ):
        async with asyncio.TaskGroup() as tasks:
            for number in range(16):
                tasks.create_task(client.publish(topic, bytes([number])))
        assert [(await next_frame(server.events())).payload[0] for _ in range(16)] == list(range(16))


async def test_a_retained_message_reaches_a_later_client_after_connected(
    connect: Connect, run_name: str
) -> None:
    topic = f"fl/{run_name}/state"
    async with connect(client_id=f"{run_name}-server", subscriptions=[]) as server:
        await server.publish(topic, b"old", retain=True)
        await server.publish(topic, b"running", retain=True)
    async with connect(client_id=f"{run_name}-a", subscriptions=[topic]) as client:
        events = client.events()
        assert await anext(events) == Connected(1)
        assert (await next_frame(events)).payload == b"running"


async def test_a_large_message_is_chunked_and_whole_again(connect: Connect, run_name: str) -> None:
    payload, topic = os.urandom(3_000_000), f"fl/{run_name}/down/a"
    async with (
        connect(client_id=f"{run_name}-a", subscriptions=[topic]) as client,
        connect(client_id=f"{run_name}-server", subscriptions=[]) as server,
    ):
        await server.publish(topic, payload)
        frame = await next_frame(client.events())
    assert frame.payload == payload
    assert frame.wire_bytes == chunks.wire_bytes(topic, len(payload)) > len(payload)


async def test_a_client_that_leaves_says_no_will(connect: Connect, run_name: str) -> None:
    topic = f"fl/{run_name}/status/a"
    async with connect(client_id=f"{run_name}-server", subscriptions=[topic]) as server:
        async with connect(
            client_id=f"{run_name}-a", subscriptions=[], will=lambda _: Will(topic, b"offline")
        ) as client:
            await client.publish(topic, b"online")
        async with connect(client_id=f"{run_name}-b", subscriptions=[]) as other:
            await other.publish(topic, b"later")
        events = server.events()
        assert [(await next_frame(events)).payload for _ in range(2)] == [b"online", b"later"]


async def test_publishing_and_listening_after_leaving_end_with_a_reason(
    connect: Connect, run_name: str
) -> None:
    async with connect(client_id=f"{run_name}-a", subscriptions=[]) as client:
        pass
    assert [event async for event in client.events()] == [Connected(1)]
    with pytest.raises(BrokerError):
        await client.publish("fl/x", b"")


async def test_a_retained_message_that_would_need_chunks_is_refused(connect: Connect, run_name: str) -> None:
    async with connect(client_id=f"{run_name}-a", subscriptions=[]) as client:
        with pytest.raises(ValueError, match="retained message of 128001 bytes"):
            await client.publish("fl/x", bytes(chunks.MAX_PACKET_BYTES + 1), retain=True)


async def test_a_client_that_vanishes_has_its_will_said_and_kept(broker_url: str, run_name: str) -> None:
    topic = f"fl/{run_name}/status/a"
    async with MqttTransport(broker_url, client_id=f"{run_name}-s", subscriptions=[topic]) as server:
        await asyncio.to_thread(
            RawClient(broker_url, f"{run_name}-a", Will(topic, b"off", retain=True)).vanish
        )
        assert (await next_frame(server.events())).payload == b"off"
    async with MqttTransport(broker_url, client_id=f"{run_name}-s", subscriptions=[topic]) as server:
        assert (await next_frame(server.events())).payload == b"off"


async def test_fifty_clients_with_kept_messages_connect_and_get_only_their_own(
    broker_url: str, run_name: str
) -> None:
    # amqtt by itself hangs some of these connections and hands out foreign messages
    async def take_part(number: int) -> None:
        client_id = f"{run_name}-{number}"
        await asyncio.sleep(0.002 * number)  # so that some find the presence of others
        topics = [f"fl/{run_name}/state", f"fl/{run_name}/down/{number}"]
        async with MqttTransport(broker_url, client_id=client_id, subscriptions=topics) as client:
            await client.publish(f"fl/{run_name}/status/{number}", b"online", retain=True)
            await client.publish(f"fl/{run_name}/up/{number}", bytes(370_000))
            events = client.events()
            received = [await next_frame(events) for _ in range(2)]
            assert {frame.topic for frame in received} == set(topics)

    subscriptions = [f"fl/{run_name}/{kind}/+" for kind in ("up", "status")]
    async with MqttTransport(broker_url, client_id=f"{run_name}-s", subscriptions=subscriptions) as server:
        await server.publish(f"fl/{run_name}/state", b"running", retain=True)
        async with asyncio.TaskGroup() as tasks:
            for number in range(50):
                tasks.create_task(take_part(number))
            events = server.events()
            for _ in range(100):
                frame = await next_frame(events)
                if "/up/" in frame.topic:
                    assert frame.payload == bytes(370_000)
                    down = frame.topic.replace("/up/", "/down/")
                    tasks.create_task(server.publish(down, frame.payload))
        assert not server.stats.dropped


async def test_a_hostile_packet_ends_its_sender_and_nobody_else(broker_url: str, run_name: str) -> None:
    topic = f"fl/{run_name}/up/a"
    before = {process.pid: process.memory_info().rss for process in broker_processes()}
    async with MqttTransport(broker_url, client_id=f"{run_name}-s", subscriptions=[topic]) as server:
        hostile = RawClient(broker_url, f"{run_name}-h")
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            await asyncio.to_thread(hostile.publish, topic, 100 * 2**20)
        hostile.vanish()
        await server.publish(topic, b"still here")
        assert (await next_frame(server.events())).payload == b"still here"
        assert server.stats.connections == 1
    for process in broker_processes():
        assert process.memory_info().rss < before.get(process.pid, 0) + 30 * 2**20


@contextlib.contextmanager
def mortal_broker(kind: local.Kind, folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    folder.mkdir(exist_ok=True)
    process = local._start(kind, folder, port)
    try:
        local._wait_until_it_answers(process, port, folder / "broker.log")
        yield process
    finally:
        local._stop(process)


def kill_session(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("kind", ["embedded", "mosquitto"])
async def test_a_publish_outlives_a_killed_broker(
    kind: local.Kind, request: pytest.FixtureRequest, broker_folder: Path
) -> None:
    if kind == "mosquitto":
        request.getfixturevalue("mosquitto_program")
    port = local._free_port()
    url = f"mqtt://127.0.0.1:{port}"
    with mortal_broker(kind, broker_folder, port) as first:
        async with MqttTransport(url, client_id="a", subscriptions=["x"]) as client:
            events = client.events()
            assert await anext(events) == Connected(1)
            await asyncio.to_thread(kill_session, first)
            publishing = [asyncio.create_task(client.publish("x", bytes([n]) * 300_000)) for n in range(3)]
            await next_of(events, Disconnected)
            with mortal_broker(kind, broker_folder, port):
                await next_of(events, Connected)
                assert [(await next_frame(events)).payload[0] for _ in publishing] == [0, 1, 2]
                await asyncio.gather(*publishing)
            assert client.stats.connections == 2


async def test_leaving_ends_publishes_that_wait_for_a_lost_broker(broker_folder: Path) -> None:
    port = local._free_port()
    with mortal_broker("embedded", broker_folder, port) as process:
        async with MqttTransport(f"mqtt://127.0.0.1:{port}", client_id="a", subscriptions=["x"]) as client:
            await asyncio.to_thread(kill_session, process)
            await next_of(client.events(), Disconnected)
            waiting = [asyncio.create_task(client.publish(f"x/{number}", b"x")) for number in range(40)]
            await asyncio.sleep(0)
        for publish in waiting:
            with pytest.raises(BrokerError, match="left"):
                await publish
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_leaving_at_the_moment_of_a_loss_leaves_no_unheard_error(
    broker_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port = local._free_port()
    with mortal_broker("embedded", broker_folder, port) as process:
        async with MqttTransport(f"mqtt://127.0.0.1:{port}", client_id="a", subscriptions=["x"]):
            kill_session(process)  # while the event loop stands still
        gc.collect()
    assert not [record for record in caplog.records if record.name == "asyncio"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["embedded", "mosquitto"])
async def test_a_frozen_broker_is_given_up_and_found_again(kind: local.Kind, broker_folder: Path) -> None:
    port = local._free_port()
    with mortal_broker(kind, broker_folder, port) as process:
        url = f"mqtt://127.0.0.1:{port}"
        async with MqttTransport(url, client_id="a", subscriptions=["x"], keepalive_s=2) as client:
            events = client.events()
            os.killpg(process.pid, signal.SIGSTOP)
            publishing = asyncio.create_task(client.publish("x", b"x"))
            await next_of(events, Disconnected)
            os.killpg(process.pid, signal.SIGCONT)
            await next_of(events, Connected)
            assert (await next_frame(events)).payload == b"x"
            await publishing


@contextlib.asynccontextmanager
async def slow_uplink(url: str, bytes_per_s: float) -> AsyncIterator[str]:
    """Give the URL of a proxy that takes its time with what clients send."""

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, per_byte_s: float) -> None:
        with contextlib.suppress(ConnectionError):  # either side may reset the connection as it leaves
            while data := await reader.read(4096):
                writer.write(data)
                await writer.drain()
                await asyncio.sleep(len(data) * per_byte_s)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    handlers = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.append(asyncio.current_task())
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
        await asyncio.gather(forward(reader, up_writer, 1 / bytes_per_s), forward(up_reader, writer, 0))

    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    async with await asyncio.start_server(connected, sock=listener, limit=4096):
        yield f"mqtt://127.0.0.1:{listener.getsockname()[1]}"
        await asyncio.gather(*filter(None, handlers))


@pytest.mark.slow
async def test_a_large_message_gets_through_an_uplink_slower_than_the_keepalive(
    broker_url: str, run_name: str
) -> None:
    # 600 kB at 60 kB/s is 10 s; a client whose ping waits longer than 2 x 2 s gives its connection up
    async with (
        slow_uplink(broker_url, 60_000) as slow_url,
        MqttTransport(slow_url, client_id=run_name, subscriptions=[run_name], keepalive_s=2) as client,
    ):
        await client.publish(run_name, bytes(600_000))
        assert (await next_frame(client.events())).payload == bytes(600_000)
        assert client.stats.connections == 1


def test_the_broker_program_ends_cleanly_on_ctrl_c(tmp_path: Path) -> None:
    port = local._free_port()
    command = [sys.executable, "-m", "broker", f"--port={port}"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=Path(__file__).parents[2]
    ) as process:
        local._wait_until_it_answers(process, port, tmp_path / "none")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert output.decode() == f"embedded broker on mqtt://127.0.0.1:{port}; Ctrl-C ends it\n"


def test_a_local_broker_ends_with_the_process_that_needs_it(broker_folder: Path) -> None:
    script = (
        "import os, pathlib, sys\n"
        "from broker.servers.spawn import local_broker\n"
        "with local_broker('embedded', pathlib.Path(sys.argv[1])) as url:\n"
        "    print(url, flush=True)\n"
        "    sys.stdin.read()\n"
        "    os._exit(1)\n"
    )
    command = [sys.executable, "-c", script, str(broker_folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdin
        assert parent.stdout
        port = urlsplit(parent.stdout.readline().strip()).port
        assert port
        assert local._is_broker(port)
        parent.stdin.close()
        parent.wait()
        deadline_s = time.monotonic() + 10
        while not local._is_free(port):
            assert time.monotonic() < deadline_s
            time.sleep(0.02)


def test_a_local_broker_is_gone_after_its_context(broker_folder: Path) -> None:
    with local_broker("embedded", broker_folder) as url:
        port = urlsplit(url).port
        assert port
        with (
            pytest.raises(BrokerError, match=f"port {port} is taken"),
            local_broker("embedded", broker_folder, port),
        ):
            pass
    assert local._is_free(port)


def test_a_broker_that_cannot_start_says_why(
    mosquitto_program: str, broker_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mosquitto_program
    monkeypatch.setattr(local, "LOCALHOST", "192.0.2.1")  # not an address of this machine
    monkeypatch.setattr(local, "_is_free", lambda _: True)
    monkeypatch.setattr(local, "_is_broker", lambda _: False)
    with pytest.raises(BrokerError, match=r"(?s)ended with code 2; .*broker.log ends with.*192.0.2.1"):
        local_broker("embedded", broker_folder, 2883).__enter__()
    with pytest.raises(BrokerError, match=r"(?s)mosquitto ended with code 1"):
        local_broker("mosquitto", broker_folder, 2883).__enter__()


def test_a_missing_mosquitto_is_told_with_a_remedy(
    broker_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_args, **_kwargs: None)
    with pytest.raises(BrokerError, match="apt install mosquitto"):
        local_broker("mosquitto", broker_folder).__enter__()


def test_mosquitto_is_set_up_for_quick_answers_and_bounded_packets(tmp_path: Path) -> None:
    lines = mosquitto_config("127.0.0.1", 1883, tmp_path).splitlines()
    assert "set_tcp_nodelay true" in lines
    limit = int(next(line.split()[1] for line in lines if line.startswith("max_packet_size")))
    assert limit >= chunks.mqtt_packet_bytes("x" * 65_535, chunks.MAX_PACKET_BYTES)
