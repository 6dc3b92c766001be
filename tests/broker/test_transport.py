import asyncio
import contextlib
import logging
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import uvloop

from broker.errors import BrokerError, RefusedError
from broker.servers import spawn as local
from broker.transports.access import Access
from broker.transports.base import (
    Connected,
    Disconnected,
    Event,
    Frame,
    TransportStats,
    Will,
)
from broker.transports.inbox import Inbox, InboxLimits
from broker.transports.memory import MemoryBroker, matches
from broker.transports.mqtt import MAX_PUBLISHES, MqttTransport
from broker.urls import Address, parse_url
from broker.wire import chunks

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def inbox(**limits: int) -> tuple[Inbox, TransportStats]:
    stats = TransportStats()
    return Inbox("test", stats, InboxLimits(**limits)), stats


async def drain(box: AsyncIterator[Event]) -> list[str]:
    """Topics of what is there; the inbox must be closed."""
    return [event.topic async for event in box if isinstance(event, Frame)]


async def test_one_topic_cannot_crowd_out_the_others() -> None:
    box, stats = inbox(topic_frames=3)
    for _ in range(100):
        box.receive("flood", b"x")
    box.receive("quiet", b"x")
    box.close()
    assert await drain(box) == ["flood"] * 3 + ["quiet"]
    assert stats.dropped == {"topic-full": 97}


async def test_bytes_of_one_topic_and_of_all_are_bounded() -> None:
    box, stats = inbox(topic_bytes=1000, bytes=1500)
    for topic in ("a", "a", "b", "c"):
        box.receive(topic, bytes(600))
    box.receive("c", bytes(300))
    box.close()
    assert await drain(box) == ["a", "b", "c"]
    assert stats.dropped == {"topic-full": 1, "full": 1}
    assert stats.peak_pending_bytes == 1500


async def test_the_number_of_waiting_messages_is_bounded() -> None:
    box, stats = inbox(frames=5)
    for number in range(8):
        box.receive(f"topic-{number}", b"")
    box.close()
    assert len(await drain(box)) == 5
    assert stats.dropped == {"full": 3}


async def test_what_was_taken_out_makes_room_again() -> None:
    box, stats = inbox(topic_frames=1, topic_bytes=10, bytes=10)
    for number in range(5):
        box.receive("a", bytes(10))
        assert await anext(box) == Frame("a", bytes(10), chunks.mqtt_packet_bytes("a", 10)), number
    assert not stats.dropped


async def test_an_oversize_packet_is_dropped_before_it_is_read() -> None:
    box, stats = inbox()
    box.receive("a", b"\x97\x01\x00" + bytes(chunks.MAX_PACKET_BYTES))
    box.receive("a", bytes(chunks.MAX_PACKET_BYTES))
    box.close()
    assert await drain(box) == ["a"]
    assert stats.dropped == {"oversize": 1}


async def test_bad_chunks_are_counted_by_reason() -> None:
    box, stats = inbox()
    box.receive("a", b"\x97\x01\x00 garbage")
    for transfer in range(3):
        box.receive("a", chunks.split(bytes(200_000), transfer)[0])
    assert stats.dropped == {"malformed": 1, "evicted": 1}


async def test_drops_are_logged_but_do_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    box, _ = inbox(topic_frames=1)
    with caplog.at_level(logging.WARNING):
        for _ in range(1000):
            box.receive("a", b"x")
    assert len(caplog.records) == 1


async def test_signals_keep_their_place_among_messages() -> None:
    box, _ = inbox()
    box.signal(Connected(1))
    box.receive("a", b"")
    box.signal(Disconnected())
    box.close()
    assert [type(event) for event in [event async for event in box]] == [Connected, Frame, Disconnected]


async def test_an_error_comes_after_what_was_already_there() -> None:
    box, _ = inbox()
    box.receive("a", b"")
    box.close(BrokerError("gone"))
    assert isinstance(await anext(box), Frame)
    with pytest.raises(BrokerError, match="gone"):
        await anext(box)


async def test_a_consumer_that_waits_is_woken() -> None:
    box, _ = inbox()
    waiting = asyncio.ensure_future(anext(box))
    await asyncio.sleep(0)
    box.receive("a", b"")
    assert isinstance(await waiting, Frame)


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/+", "a/b", True),
        ("a/+", "a", False),
        ("a/+/c", "a/b/c", True),
        ("+", "a/b", False),
        ("a/#", "a/b/c", True),
        ("a/#", "a", True),
        ("#", "a/b", True),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
        ("$SYS/#", "$SYS/x", True),
    ],
)
def test_wildcards_match_as_in_mqtt(pattern: str, topic: str, expected: bool) -> None:
    assert matches(pattern, topic) is expected


async def test_a_killed_memory_client_has_its_will_said_and_kept() -> None:
    broker = MemoryBroker()
    async with broker.transport(client_id="s", subscriptions=["status/+"]) as server:
        async with broker.transport(
            client_id="a", subscriptions=[], will=lambda _: Will("status/a", b"off", retain=True)
        ) as client:
            broker.kill("a")
            with pytest.raises(BrokerError):
                await client.publish("x", b"")
        assert [await anext(server.events()) for _ in range(2)][1] == Frame("status/a", b"off", 19 - 2)
    assert broker.retained == {"status/a": b"off"}


async def test_a_newer_memory_client_takes_over_the_id() -> None:
    broker = MemoryBroker()
    async with broker.transport(client_id="a", subscriptions=["x"]) as old:
        async with broker.transport(client_id="a", subscriptions=["x"]) as new:
            await new.publish("x", b"1")
            assert [await anext(new.events()) for _ in range(2)] == [Connected(1), Frame("x", b"1", 8)]
        with pytest.raises(BrokerError, match="killed"):
            assert [event async for event in old.events()]


async def test_an_empty_retained_message_clears_the_memory_brokers() -> None:
    broker = MemoryBroker()
    broker.publish("x", b"1", retain=True)
    broker.publish("x", b"", retain=True)
    assert not broker.retained
    with pytest.raises(ValueError, match="no topic"):
        broker.publish("x/+", b"")


@pytest.mark.parametrize(
    ("url", "address", "text"),
    [
        ("mqtt://localhost", Address("localhost", 1883), "mqtt://localhost:1883"),
        ("mqtts://b.example/", Address("b.example", 8883, tls=True), "mqtts://b.example:8883"),
        ("mqtt://u:p%40ss@h:99", Address("h", 99, username="u", password="p@ss"), "mqtt://h:99"),
        ("mqtt://[::1]:1883", Address("::1", 1883), "mqtt://[::1]:1883"),
    ],
)
def test_urls_of_brokers_are_read(url: str, address: Address, text: str) -> None:
    assert parse_url(url) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "url", ["localhost:1883", "http://h:1883", "mqtt://", "mqtt://u:secret@h:port", "mqtt://h/x"]
)
def test_other_urls_are_refused_without_repeating_secrets(url: str) -> None:
    with pytest.raises(BrokerError, match=r"not the URL of a broker.*mqtt://host:1883") as caught:
        MqttTransport(url, client_id="a", subscriptions=[])
    assert "secret" not in str(caught.value)


async def test_no_broker_is_a_clear_error() -> None:
    port = local._free_port()
    url = f"mqtt://user:secret@127.0.0.1:{port}"
    with pytest.raises(BrokerError, match=f"^no MQTT broker at mqtt://127.0.0.1:{port}: Connection refused$"):
        async with MqttTransport(url, client_id="a", subscriptions=[], connect_timeout_s=0.3):
            pass
    assert asyncio.all_tasks() == {asyncio.current_task()}


@contextlib.asynccontextmanager
async def scripted_broker(handler: Handler) -> AsyncIterator[str]:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readexactly(2)
            await handler(reader, writer)
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@pytest.mark.parametrize(
    ("code", "words"), [(4, "bad user name or password"), (5, "not authorized"), (2, "identifier not valid")]
)
async def test_a_broker_that_refuses_us_is_not_asked_again(code: int, words: str) -> None:
    connections = []

    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        writer.write(bytes([0x20, 2, 0, code]))
        await writer.drain()

    async with scripted_broker(refuse) as url:
        with pytest.raises(BrokerError, match=f"refuses us: .*{words}"):
            await MqttTransport(url, client_id="a", subscriptions=[]).__aenter__()
    assert len(connections) == 1


async def test_a_refused_subscription_is_a_clear_error() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x20\x02\x00\x00")
        await reader.readuntil(b"\x82")
        await reader.readexactly(1)
        packet_id = await reader.readexactly(2)
        writer.write(b"\x90\x04" + packet_id + b"\x01\x80")
        await reader.read()

    async with scripted_broker(refuse) as url:
        with pytest.raises(BrokerError, match="refuses the subscription to secret/x"):
            await MqttTransport(url, client_id="a", subscriptions=["x", "secret/x"]).__aenter__()


async def test_a_subscription_that_was_served_before_is_asked_for_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    connections = []

    async def refuse_second_and_third(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        writer.write(b"\x20\x02\x00\x00")
        await reader.readuntil(b"\x82")
        await reader.readexactly(1)
        refused = len(connections) in (2, 3)
        writer.write(b"\x90\x03" + await reader.readexactly(2) + (b"\x80" if refused else b"\x01"))
        if refused or len(connections) > 3:
            await reader.read()

    async with (
        scripted_broker(refuse_second_and_third) as url,
        MqttTransport(url, client_id="a", subscriptions=["x"]) as client,
    ):
        events = [await anext(client.events()) for _ in range(3)]
        assert events == [Connected(1), Disconnected(), Connected(4)]
    assert caplog.text.count("refuses the subscription to x; trying again") == 1


async def test_a_broker_that_hangs_up_is_asked_again_until_the_time_is_over() -> None:
    connections = []

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)

    async with scripted_broker(hang_up) as url:
        with pytest.raises(BrokerError, match="no MQTT broker at"):
            await MqttTransport(url, client_id="a", subscriptions=[], connect_timeout_s=1).__aenter__()
    assert len(connections) > 1
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_broker_that_never_answers_leaves_no_socket_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.transports.mqtt.ANSWER_TIMEOUT_S", 0.3)
    ended = asyncio.Event()

    async def stay_silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()
        ended.set()

    async with scripted_broker(stay_silent) as url:
        with pytest.raises(BrokerError, match="no MQTT broker at"):
            await MqttTransport(url, client_id="a", subscriptions=[], connect_timeout_s=0.2).__aenter__()
        async with asyncio.timeout(10):
            await ended.wait()


async def test_a_connection_lost_while_subscribing_is_made_again() -> None:
    connections = []

    async def accept_second(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        writer.write(b"\x20\x02\x00\x00")
        await reader.readuntil(b"\x82")
        await reader.readexactly(1)
        packet_id = await reader.readexactly(2)
        if len(connections) > 1:
            early = b"\x30\x04\x00\x01xa"  # a message that overtakes the confirmation
            writer.write(early + b"\x90\x03" + packet_id + b"\x01")
            await reader.read()

    async with (
        scripted_broker(accept_second) as url,
        MqttTransport(url, client_id="a", subscriptions=["x"]) as client,
    ):
        assert [await anext(client.events()) for _ in range(2)] == [Connected(2), Frame("x", b"a", 8)]


class Publish(NamedTuple):
    """A small PUBLISH packet as a broker sees it."""

    topic: str
    packet_id: bytes
    payload: bytes
    qos: int

    @property
    def answer(self) -> bytes:
        return b"\x40\x02" + self.packet_id


async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accept a client without a will; `scripted_broker` has read the two bytes of the fixed header."""
    await reader.readexactly(10)  # name and level of the protocol, flags, keepalive
    await reader.readexactly(int.from_bytes(await reader.readexactly(2)))  # client id
    writer.write(b"\x20\x02\x00\x00")


async def publishes(reader: asyncio.StreamReader) -> AsyncIterator[Publish]:
    """Read PUBLISH packets, in the order in which they left, until the client leaves."""
    while (first := (await reader.readexactly(1))[0]) & 0xF0 == 0x30:
        body = await reader.readexactly((await reader.readexactly(1))[0])
        end, qos = 2 + int.from_bytes(body[:2]), first >> 1 & 3
        yield Publish(body[2:end].decode(), body[end : end + 2 * qos], body[end + 2 * qos :], qos)


async def test_a_lost_connection_does_not_change_the_order_of_messages_on_a_topic() -> None:
    connections, taken = [], []

    async def lose_the_first_message(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer all packets but the first, and hang up once the one that was called last is there."""
        connections.append(writer)
        await accept(reader, writer)
        async for packet in publishes(reader):
            if len(connections) > 1 or packet.payload != b"first":
                taken.append((packet.topic, packet.payload))
                writer.write(packet.answer)
            if len(connections) == 1 and packet.topic == "other":
                return

    async with (
        scripted_broker(lose_the_first_message) as url,
        MqttTransport(url, client_id="a", subscriptions=[]) as client,
        asyncio.TaskGroup() as tasks,
    ):
        for topic, payload in (("x", b"first"), ("x", b"second"), ("other", b"")):
            tasks.create_task(client.publish(topic, payload))
    assert len(connections) == 2
    assert client.stats.resent >= 1
    assert [payload for topic, payload in taken if topic == "x"] == [b"first", b"second"]


async def test_a_lost_connection_has_packets_sent_again_and_counts_them() -> None:
    connections = []

    async def hang_up_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await accept(reader, writer)
        async for packet in publishes(reader):
            if len(connections) == 1:
                return
            writer.write(packet.answer)

    async with (
        scripted_broker(hang_up_first) as url,
        MqttTransport(url, client_id="a", subscriptions=[]) as client,
    ):
        await client.publish("x", b"1")
    assert (client.stats.connections, client.stats.resent) == (2, 1)


async def test_with_qos_0_a_message_leaves_in_its_turn_and_nobody_waits_for_an_answer() -> None:
    arrived = []
    loop = asyncio.get_running_loop()

    async def answer_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accept(reader, writer)
        async for packet in publishes(reader):
            arrived.append((packet.qos, packet.payload))
            if packet.qos:
                loop.call_later(0.02, writer.write, packet.answer)

    async with (
        scripted_broker(answer_late) as url,
        MqttTransport(url, client_id="a", subscriptions=[]) as client,
        asyncio.timeout(5),
        asyncio.TaskGroup() as tasks,
    ):
        for number, qos in enumerate((1, 0, 0, 1, 0)):
            tasks.create_task(client.publish("x", b"%d" % number, qos=qos))
    assert arrived == [(1, b"0"), (0, b"1"), (0, b"2"), (1, b"3"), (0, b"4")]


async def test_no_more_than_the_limit_of_packets_wait_for_the_brokers_answer() -> None:
    arrived: list[str] = []
    full, gone = asyncio.Event(), asyncio.Event()

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accept(reader, writer)
        async for packet in publishes(reader):
            arrived.append(packet.topic)
            if len(arrived) == MAX_PUBLISHES:
                full.set()
        gone.set()  # a packet that left before the goodbye has been read by now

    topics = [f"x/{number}" for number in range(3 * MAX_PUBLISHES)]
    async with scripted_broker(never_answer) as url:
        async with MqttTransport(url, client_id="a", subscriptions=[]) as client:
            publishing = [asyncio.create_task(client.publish(topic, b"")) for topic in topics]
            await full.wait()
        await gone.wait()
        ends = await asyncio.gather(*publishing, return_exceptions=True)
    assert arrived == topics[:MAX_PUBLISHES]
    assert {type(end) for end in ends} == {BrokerError}


async def test_answers_let_the_next_packets_leave() -> None:
    arrived = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accept(reader, writer)
        async for packet in publishes(reader):
            arrived.append(packet.topic)
            writer.write(packet.answer)

    topics = [f"x/{number}" for number in range(3 * MAX_PUBLISHES)]
    async with (
        scripted_broker(answer) as url,
        MqttTransport(url, client_id="a", subscriptions=[]) as client,
    ):
        await asyncio.gather(*(client.publish(topic, b"") for topic in topics))
    assert arrived == topics


async def test_connecting_can_be_cancelled() -> None:
    async def stay_silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("broker.transports.mqtt.ANSWER_TIMEOUT_S", 0.3)
        async with scripted_broker(stay_silent) as url:
            entering = asyncio.create_task(MqttTransport(url, client_id="a", subscriptions=[]).__aenter__())
            await asyncio.sleep(0.1)
            entering.cancel()
            with pytest.raises(asyncio.CancelledError):
                await entering


async def test_the_clients_socket_does_not_wait_for_more_to_send(broker_url: str, run_name: str) -> None:
    async with MqttTransport(broker_url, client_id=run_name, subscriptions=[]) as client:
        assert client._link
        connection = client._link.client._client.socket()
        assert isinstance(connection, socket.socket)
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_a_cancelled_publish_leaves_the_transport_usable(broker_url: str, run_name: str) -> None:
    async with MqttTransport(broker_url, client_id=run_name, subscriptions=[run_name]) as client:
        publishing = asyncio.create_task(client.publish(run_name, bytes(10 * chunks.MAX_PACKET_BYTES)))
        await asyncio.sleep(0)
        publishing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publishing
        await client.publish(run_name, b"next")
        events = client.events()
        assert await anext(events) == Connected(1)
        assert await anext(events) == Frame(run_name, b"next", chunks.mqtt_packet_bytes(run_name, 4))


def test_it_runs_on_uvloop(broker_url: str, run_name: str) -> None:
    payload = os.urandom(500_000)

    async def roundtrip() -> Event:
        async with MqttTransport(broker_url, client_id=run_name, subscriptions=[run_name]) as client:
            events = client.events()
            await client.publish(run_name, payload)
            assert await anext(events) == Connected(1)
            return await anext(events)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        event = runner.run(roundtrip())
    assert isinstance(event, Frame)
    assert event.payload == payload


@pytest.fixture
def tls_mosquitto(mosquitto_program: str, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    key, certificate, config = (tmp_path / name for name in ("key.pem", "cert.pem", "tls.conf"))
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *files, *names]
    subprocess.run(command, check=True, capture_output=True)
    port = local._free_port()
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nuser root\nkeyfile {key}\ncertfile {certificate}\n"
    )
    with subprocess.Popen([mosquitto_program, "-c", str(config)], stderr=subprocess.DEVNULL) as process:
        yield f"mqtts://localhost:{port}", certificate
        process.terminate()


async def test_tls_trusts_the_given_certificate_and_no_other(tls_mosquitto: tuple[str, Path]) -> None:
    url, certificate = tls_mosquitto
    async with MqttTransport(Access.of(url, certificate), client_id="a", subscriptions=["x"]) as client:
        await client.publish("x", bytes(300_000))
        events = client.events()
        assert [type(await anext(events)) for _ in range(2)] == [Connected, Frame]
    with pytest.raises(RefusedError, match="is not trusted: self-signed certificate"):
        await MqttTransport(url, client_id="a", subscriptions=[], connect_timeout_s=None).__aenter__()
