"""A run with a hostile client: everything wrong it can say, over a real broker, while others train."""

import asyncio
import functools
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgpack
import numpy as np
import pytest

from broker.codecs import Pq
from broker.transports.base import Frame
from broker.transports.mqtt import MqttTransport
from broker.wire import packing, topics
from broker.wire.messages import (
    Activations,
    Assignment,
    Gradient,
    HeadUpdate,
    Hello,
    Message,
    Rejected,
    RunState,
    Status,
)
from edge_client.live import host
from scenarios.schema.scenario import Scenario, scenario_digest
from server_node.live import serve
from server_node.summary import Summary
from tests.helpers import final_score, small_scenario

MALLORY = "c3"  # it is in the fleet, so nothing but the checks of its messages keeps it out
UP, STATUS = topics.up("small", MALLORY), topics.status("small", MALLORY)
CODEC = Pq(subvectors=4, groups=1, centroids=4)
N, D, HEAD = 10, 16, 8 * 16 + 16


class Mallory:
    """A client whose every word the test chooses."""

    def __init__(self, transport: MqttTransport) -> None:
        self._transport = transport

    async def say(self, message: Message | bytes, topic: str = UP) -> None:
        data = message if isinstance(message, bytes) else packing.encode(message)
        await self._transport.publish(topic, data)

    async def hear(self, kind: type[Message]) -> Message:
        """Wait for the next message of a kind."""
        async for event in self._transport.events():
            if isinstance(event, Frame):
                message = packing.decode(event.payload)
                if isinstance(message, kind):
                    return message
        raise AssertionError("the transport ended")


@asynccontextmanager
async def mallory(url: str, name: str = MALLORY) -> AsyncIterator[Mallory]:
    """Connect, and wait for a server that listens."""
    subscriptions = topics.client_subscriptions("small", name)
    async with MqttTransport(url, client_id=f"small-{name}", subscriptions=subscriptions) as transport:
        bad = Mallory(transport)
        while True:
            state = await bad.hear(RunState)
            if isinstance(state, RunState) and state.phase in ("gathering", "running"):
                break
        yield bad


@asynccontextmanager
async def honest_run(scenario: Scenario, url: str, folder: Path) -> AsyncIterator[asyncio.Task[Summary]]:
    """Run the server and the three honest clients."""
    connect, stop = functools.partial(MqttTransport, url), asyncio.Event()
    async with connect(
        client_id="broom", subscriptions=[]
    ) as broom:  # what earlier tests left on this broker
        await broom.publish(topics.state("small"), b"", retain=True)
    async with asyncio.TaskGroup() as group:
        server = group.create_task(serve(scenario, connect, run="small", folder=folder, stop=stop))
        group.create_task(host(scenario, connect, run="small", names=["c0", "c1", "c2"], stop=stop))
        yield server


def greeting(scenario: Scenario) -> Hello:
    return Hello(1, scenario_digest(scenario), 50)


def batch(payload: bytes | None = None, targets: bytes | None = None, **fields: int) -> Activations:
    """An Activations of round 1, right but for what is given."""
    numbers = {"server": 1, "round": 1, "step": 0, "attempt": 1, "count": N} | fields
    good = CODEC.encode(np.ones((N, D), np.float32), np.random.default_rng(0))
    return Activations(
        **numbers, payload=good if payload is None else payload, targets=targets or bytes(2 * N // 8 + 1)
    )


NESTED = b"\x92" + b"\x91" * 1000 + b"\x01\x01"
HUGE = batch(payload=bytes([100]) + batch().payload[1:])  # the codebook's exponent: 2**100 and more

REFUSED: list[tuple[bytes | Message, str]] = [
    (b"", "malformed"),
    (b"\xc1 this is no msgpack", "malformed"),
    (msgpack.packb([3, 77, "unknown type"]), "malformed"),
    (NESTED, "version"),
    (b"\x92\x03" + NESTED[1:], "malformed"),
    (b"\x93\x03\x05" + b"\x91" * 4_600_000 + b"\x01", "malformed"),
    (msgpack.packb([2, 5, 1, 1, 0, 1, N, b"", b""]), "version"),
    (msgpack.packb([3, 5, 1, 1, 0, 1, -3, b"", b""]), "malformed"),
    (msgpack.packb([3, 7, 1, 1, 1, 20, float("nan"), b""]), "not-finite"),
    (batch(payload=b""), "shape"),
    (batch(payload=bytes(5000)), "shape"),
    (batch(targets=bytes(99)), "shape"),
    (batch(count=N + 1), "shape"),
    (batch(step=1), "order"),
    (batch(round=9), "order"),
    (HeadUpdate(1, 1, 1, 20, 0.0, bytes(1 + 2 * HEAD)), "order"),
    (Gradient(1, 1, 0, 1, 0.0, b""), "direction"),
    (Hello(1, "another scenario", 1), "scenario"),
]


async def test_what_is_wrong_is_counted_and_the_run_goes_on(tmp_path: Path, broker_url: str) -> None:
    scenario = small_scenario(tmp_path, "training.cohort=4")
    async with honest_run(scenario, broker_url, tmp_path / "run") as server, mallory(broker_url) as bad:
        await bad.say(greeting(scenario))
        await bad.hear(Assignment)
        for message, _ in REFUSED:
            await bad.say(message)
        await bad.say(Status(online=False, session=1), STATUS)
        summary = await server
    expected = [reason for _, reason in REFUSED]
    assert summary["messages"]["rejected_by_reason"] == {r: expected.count(r) for r in expected}
    assert summary["reason"] == "complete"
    assert final_score(summary) > 0.9


NAN_CODEBOOK = batch().payload[:1] + np.full(4 * 4, np.nan, "<f2").tobytes() + batch().payload[33:]


@pytest.mark.parametrize(
    ("message", "reason", "centroids"),
    [
        pytest.param(batch(payload=NAN_CODEBOOK), "not-finite", 4, id="NaN in the codebook"),
        pytest.param(HUGE, "range", 4, id="exponent 100"),
        pytest.param(batch(targets=b"\x00\x00\x10"), "malformed", 4, id="padding bits set"),
        pytest.param(batch(payload=bytes(1 + 3 * 4 * 2) + b"\xff" * 10), "range", 3, id="code 3 of 3"),
    ],
)
async def test_a_batch_that_is_wrong_inside_never_reaches_the_tail(
    tmp_path: Path, broker_url: str, message: Activations, reason: str, centroids: int
) -> None:
    more = f"flows.activations_up.centroids={centroids}"
    scenario = small_scenario(tmp_path, "training.cohort=4", "training.rounds=3", more)
    async with honest_run(scenario, broker_url, tmp_path / "run") as server, mallory(broker_url) as bad:
        await bad.say(greeting(scenario))
        await bad.hear(Assignment)
        await bad.say(message)
        await bad.say(Status(online=False, session=1), STATUS)
        summary = await server
    assert summary["reason"] == "complete"
    assert summary["messages"]["rejected_by_reason"] == {reason: 1}
    assert summary["client_steps"] == 9
    assert summary["messages"]["refused"][MALLORY]["last"].startswith(f"{reason}: ")


def head_update(first: int, value: float, samples: int = N) -> HeadUpdate:
    """An update of round 1 in float16: its exponent, and the value that all parameters have before it."""
    halves = np.full(HEAD, value, "<f2").tobytes()
    return HeadUpdate(1, 1, 1, samples, 0.0, bytes([first]) + halves)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        pytest.param(head_update(0, 0.0, samples=2**31 - 1), "samples", id="2**31 - 1 samples"),
        pytest.param(head_update(100, 2.0**14), "range", id="exponent 100"),
        pytest.param(head_update(0, float("nan")), "not-finite", id="NaN"),
    ],
)
async def test_a_head_update_that_would_own_the_model_is_refused_and_named(
    tmp_path: Path, broker_url: str, message: HeadUpdate, reason: str
) -> None:
    scenario = small_scenario(tmp_path, "training.cohort=4")
    async with honest_run(scenario, broker_url, tmp_path / "run") as server, mallory(broker_url) as bad:
        await bad.say(greeting(scenario))
        await bad.hear(Assignment)
        await bad.say(batch())
        await bad.hear(Gradient)
        await bad.say(message)
        await bad.say(Status(online=False, session=1), STATUS)
        summary = await server
    assert summary["reason"] == "complete"
    assert final_score(summary) > 0.9
    assert summary["client_steps"] == 61
    assert summary["messages"]["rejected_by_reason"] == {reason: 1}
    refused = summary["messages"]["refused"]
    assert [(client, of["count"]) for client, of in refused.items()] == [(MALLORY, 1)]


async def test_a_nested_packet_that_the_broker_keeps_harms_no_server_that_starts_after_it(
    tmp_path: Path, broker_url: str
) -> None:
    scenario = small_scenario(tmp_path, "training.cohort=3", "training.rounds=3")
    async with MqttTransport(broker_url, client_id="early", subscriptions=()) as early:
        await early.publish(UP, NESTED, retain=True)
        async with honest_run(scenario, broker_url, tmp_path / "run") as server, mallory(broker_url) as bad:
            await bad.say(greeting(scenario))
            await bad.say(Status(online=False, session=1), STATUS)
            summary = await server
        await early.publish(UP, b"", retain=True)
    assert summary["reason"] == "complete"
    assert summary["messages"]["rejected_by_reason"] == {"version": 1}
    assert list(summary["messages"]["refused"]) == [MALLORY]


async def test_a_duplicated_step_counts_once(tmp_path: Path, broker_url: str) -> None:
    scenario = small_scenario(tmp_path, "training.cohort=4", "training.rounds=1")
    async with honest_run(scenario, broker_url, tmp_path / "run") as server, mallory(broker_url) as bad:
        await bad.say(greeting(scenario))
        await bad.hear(Assignment)
        for _ in range(3):
            await bad.say(batch())
        await bad.hear(Gradient)
        for _ in range(2):
            await bad.say(HeadUpdate(1, 1, 1, N, 0.0, bytes(1 + 2 * HEAD)))
        summary = await server
    assert summary["client_steps"] == 4
    assert summary["messages"]["duplicates"] >= 2
    assert summary["bytes"]["activations_up"]["raw_float32"] == 4 * N * D * 4


async def test_a_flood_of_greetings_is_survived(tmp_path: Path, broker_url: str) -> None:
    scenario = small_scenario(tmp_path, "training.cohort=4")
    async with honest_run(scenario, broker_url, tmp_path / "run") as server, mallory(broker_url) as bad:
        for _ in range(500):
            await bad.say(greeting(scenario))
        await bad.say(Status(online=False, session=1), STATUS)
        summary = await server
    assert summary["rounds"] == 20
    assert summary["messages"]["sent"] < 1000  # one answer a second, however many greetings


async def test_a_huge_message_is_dropped_and_the_run_goes_on(tmp_path: Path, broker_url: str) -> None:
    scenario = small_scenario(tmp_path, "training.cohort=3")
    async with honest_run(scenario, broker_url, tmp_path / "run") as server, mallory(broker_url) as bad:
        await _raw_publish(broker_url, UP, 100_000_000)
        await bad.say(greeting(scenario))
        await bad.say(Status(online=False, session=1), STATUS)
        summary = await server
    assert summary["reason"] == "complete"
    assert final_score(summary) > 0.9


async def _raw_publish(url: str, topic: str, size_bytes: int) -> None:
    """Write one PUBLISH of QoS 0 straight to the broker's socket; the broker may hang up on us."""
    host_name, port = url.removeprefix("mqtt://").split(":")
    reader, writer = await asyncio.open_connection(host_name, int(port))
    try:
        writer.write(b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02xx")
        await reader.readexactly(4)
        name = topic.encode()
        remaining, length = 2 + len(name) + size_bytes, b""
        while remaining:
            remaining, byte = divmod(remaining, 128)
            length += bytes([byte | (128 if remaining else 0)])
        writer.write(b"\x30" + length + len(name).to_bytes(2) + name)
        for _ in range(size_bytes // 1_000_000):
            writer.write(bytes(1_000_000))
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def test_strangers_and_other_runs_change_nothing(
    tmp_path: Path, broker_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    scenario = small_scenario(tmp_path, "training.cohort=3")
    caplog.set_level(logging.WARNING)
    async with honest_run(scenario, broker_url, tmp_path / "run") as server, mallory(broker_url) as bad:
        await bad.say(batch(), topics.up("another-run", MALLORY))
        await bad.say(batch(), "fl/3/small/u/no name for a client!")
        async with mallory(broker_url, "stranger") as stranger:
            await stranger.say(batch(), topics.up("small", "stranger"))
            answer = await stranger.hear(Rejected)
        assert isinstance(answer, Rejected)
        assert answer.reason == "roster"
        await bad.say(greeting(scenario))
        await bad.say(Status(online=False, session=1), STATUS)
        summary = await server
    assert summary["messages"]["rejected_by_reason"] == {"roster": 1}
    assert "no name for a client!" in caplog.text
    assert summary["reason"] == "complete"
