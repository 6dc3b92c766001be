"""Connections that are lost again and again are explained, once."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.servers.mosquitto import mosquitto_config
from broker.servers.spawn import _free_port
from broker.transports.losses import LARGE_BYTES, SOON_S, Losses
from broker.transports.mqtt import MqttTransport

RIVAL = (
    "the connection was lost 3 times in a row soon after it was made: "
    "another process may use the client id a, or the same user or bundle"
)
LIMIT = (
    "the connection was lost 3 times in a row right after a packet of 5000 bytes was sent: "
    "the broker may limit packets; set broker.packet_bytes"
)


def lives(losses: Losses, *spans_s: float) -> list[str | None]:
    """One connection after the other, each of which lasts so long."""
    told, now_s = [], 0.0
    for span_s in spans_s:
        losses.connected(now_s)
        now_s += span_s
        told.append(losses.lost(now_s))
        now_s += 1
    return told


def test_three_short_connections_in_a_row_are_somebody_else() -> None:
    assert lives(Losses("a"), 1, SOON_S, 1) == [None, None, RIVAL]


def test_a_connection_that_lasts_shows_that_nobody_else_is_there() -> None:
    assert lives(Losses("a"), 1, 1, SOON_S + 0.1, 1, 1) == [None] * 5


def test_each_warning_is_given_once() -> None:
    assert lives(Losses("a"), *[1] * 20).count(None) == 19


def sending(
    losses: Losses, packet_bytes: int, *, after_s: float = 1.0, acknowledged: bool = False
) -> str | None:
    """A connection that sends a packet at once and is lost later."""
    losses.connected(0.0)
    losses.sends(packet_bytes, 0.5)
    if acknowledged:
        losses.acknowledged(packet_bytes)
    return losses.lost(0.5 + after_s)


def test_three_connections_that_end_with_a_large_packet_are_the_brokers_limit() -> None:
    losses = Losses("a")
    assert [sending(losses, size) for size in (9000, 5000, 9000, 9000)] == [None, None, LIMIT, None]


def test_a_large_packet_that_was_taken_shows_that_there_is_no_such_limit() -> None:
    losses = Losses("a")
    told = [sending(losses, 5000, acknowledged=number % 2 == 1) for number in range(5)]
    assert told == [None] * 5


def test_a_loss_after_a_large_packet_is_no_sign_of_somebody_else() -> None:
    losses = Losses("a")
    assert [sending(losses, size) for size in (10, 5000, 10, 10)] == [None] * 4


def test_small_packets_say_nothing_about_a_limit() -> None:
    losses = Losses("a")
    assert [sending(losses, LARGE_BYTES) for _ in range(3)] == [None, None, RIVAL]


def test_a_link_that_is_lost_long_after_a_packet_says_nothing() -> None:
    losses = Losses("a")
    assert [sending(losses, 5000, after_s=SOON_S + 0.1) for _ in range(5)] == [None] * 5


@contextlib.asynccontextmanager
async def limited_mosquitto(program: str, folder: Path, most_bytes: int) -> AsyncIterator[str]:
    port = _free_port()
    folder.mkdir()  # noqa: ASYNC240
    lines = mosquitto_config("127.0.0.1", port, folder).splitlines()
    lines = [line for line in lines if not line.startswith("max_packet_size")] + [
        f"max_packet_size {most_bytes}"
    ]
    config = folder / "mosquitto.conf"
    config.write_text("\n".join(lines))
    process = await asyncio.create_subprocess_exec(program, "-c", str(config))
    try:
        yield f"mqtt://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def until_logged(caplog: pytest.LogCaptureFixture, words: str) -> None:
    while words not in caplog.text:  # noqa: ASYNC110  the log has no event
        await asyncio.sleep(0.02)


async def test_mosquitto_with_a_limit_of_packets_is_explained_and_smaller_packets_pass(
    mosquitto_program: str, broker_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with limited_mosquitto(mosquitto_program, broker_folder, 20_000) as url:
        async with MqttTransport(url, client_id="a", subscriptions=["x"]) as client:
            publishing = asyncio.create_task(client.publish("y", bytes(100_000)))
            await until_logged(caplog, "the broker may limit packets; set broker.packet_bytes")
            publishing.cancel()
        async with MqttTransport(url, client_id="b", subscriptions=["x"], packet_bytes=10_000) as client:
            await client.publish("y", bytes(100_000))
    assert "another process" not in caplog.text


async def test_two_clients_of_one_id_at_mosquitto_are_told_of_each_other(
    mosquitto_url: str, run_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with (
        MqttTransport(mosquitto_url, client_id=run_name, subscriptions=["x"]),
        MqttTransport(mosquitto_url, client_id=run_name, subscriptions=["x"]),
    ):
        await until_logged(
            caplog, f"another process may use the client id {run_name}, or the same user or bundle"
        )
    assert caplog.text.count("another process may use") <= 2
