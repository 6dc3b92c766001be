"""Packets that are dropped unread are counted to the byte, and their sender is answered."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from broker.machine.actions import Action, Done, Event, Online, Publish, StopAsked, Undecodable
from broker.machine.asyncio_driver import Driver, event_of
from broker.machine.event_log import Journal
from broker.transports.base import Frame, Refused, TransportStats
from broker.transports.inbox import Inbox, InboxLimits
from broker.transports.memory import MemoryBroker
from broker.wire import chunks, topics
from broker.wire.messages import Rejected
from broker.wire.packing import encode
from server_node.protocol.core import ServerCore
from server_node.vocabulary.ledger import CONTROL, Ledger
from tests import small_task
from tests.helpers import plan_of, small_scenario

UP = topics.up("run", "c3")


def packet_bytes(packet: bytes) -> int:
    return chunks.mqtt_packet_bytes(UP, len(packet))


async def refusals(box: Inbox) -> list[tuple[str, int]]:
    box.close()
    return [(event.error.reason, event.wire_bytes) async for event in box if isinstance(event, Refused)]


def inbox(**limits: int) -> Inbox:
    return Inbox("test", TransportStats(), InboxLimits(**limits))


BAD_HEADER = b"\x97\x01\x00 no such header"
OVERSIZE = bytes(chunks.MAX_PACKET_BYTES + 1)
FIRST, SECOND = chunks.split(bytes(200_000), 1)
CONTRADICTION = chunks.split(bytes(128_001), 1)[1]
WRONG_SUM = chunks.split(bytes(199_999) + b"\x01", 1)


@pytest.mark.parametrize(
    ("packets", "reason"),
    [
        pytest.param([OVERSIZE], "oversize", id="too long a packet"),
        pytest.param([BAD_HEADER], "malformed", id="no header of a chunk"),
        pytest.param([WRONG_SUM[0], WRONG_SUM[1][:-1] + b"\x02"], "crc", id="a wrong checksum"),
    ],
)
async def test_what_is_dropped_is_told_with_the_bytes_of_all_its_packets(
    packets: list[bytes], reason: str
) -> None:
    box = inbox()
    for packet in packets:
        box.receive(UP, packet)
    assert await refusals(box) == [(reason, sum(map(packet_bytes, packets)))]


async def test_a_chunk_that_contradicts_others_costs_itself_alone() -> None:
    box = inbox()
    for packet in (FIRST, CONTRADICTION, SECOND):
        box.receive(UP, packet)
    box.close()
    events = [event async for event in box]
    assert [type(event) for event in events] == [Refused, Frame]
    assert sum(event.wire_bytes for event in events if isinstance(event, Refused | Frame)) == sum(
        map(packet_bytes, (FIRST, CONTRADICTION, SECOND))
    )


async def test_an_unfinished_message_that_makes_room_is_told_with_its_own_topic() -> None:
    box = inbox()
    for transfer in range(3):  # two may be unfinished on one topic
        box.receive(UP, chunks.split(bytes(200_000), transfer)[0])
    assert await refusals(box) == [("evicted", packet_bytes(FIRST))]


async def test_a_message_without_room_is_told() -> None:
    for limits, reason in (({"topic_frames": 1}, "topic-full"), ({"frames": 1}, "full")):
        box = inbox(**limits)
        for _ in range(2):
            box.receive(UP, b"x")
        assert await refusals(box) == [(reason, packet_bytes(b"x"))]


async def test_refusals_that_wait_are_told_together_so_a_flood_takes_no_memory() -> None:
    box = inbox(frames=10)
    for number in range(10_000):
        box.receive(f"topic-{number:04}", BAD_HEADER)
    assert len(box._events) <= 11
    told = await refusals(box)
    assert sum(size for _, size in told) == 10_000 * chunks.mqtt_packet_bytes("topic-0000", len(BAD_HEADER))


def test_the_server_counts_and_answers_what_was_dropped(tmp_path: Path) -> None:
    ledger = Ledger()
    plan = replace(plan_of(small_scenario(tmp_path), small_task.task()), alone=True)
    core = ServerCore(plan, ledger)
    core.handle(Online(), 0.0)
    before = ledger.flows[CONTROL].wire_bytes
    box = inbox()
    for packet in (OVERSIZE, BAD_HEADER):
        box.receive(UP, packet)
    answers = []
    for told in box._refused.values():
        event = event_of(told)
        assert isinstance(event, Undecodable)
        answers += core.handle(event, 100.0)
    said = [action for action in answers if isinstance(action, Publish)]
    assert [(each.topic, type(each.message)) for each in said] == [(topics.down("run", "c3"), Rejected)]
    assert isinstance(said[0].message, Rejected)
    assert said[0].message.reason == "oversize"
    assert ledger.rejected == {"oversize": 1, "malformed": 1}
    answer_bytes = sum(chunks.wire_bytes(each.topic, len(encode(each.message))) for each in said)
    assert ledger.flows[CONTROL].wire_bytes - before == sum(map(packet_bytes, (OVERSIZE, BAD_HEADER))) + (
        answer_bytes
    )


class Listener:
    """A state machine that only listens."""

    def __init__(self, stop: asyncio.Event) -> None:
        self.heard: list[Event[None, None]] = []
        self._stop = stop

    def handle(self, event: Event[None, None], now_s: float) -> list[Action[None, None]]:  # noqa: ARG002
        self.heard.append(event)
        if isinstance(event, Undecodable):
            self._stop.set()
        return [Done("stopped")] if isinstance(event, StopAsked) else []


async def test_the_driver_hands_refusals_to_its_state_machine() -> None:
    broker, stop = MemoryBroker(), asyncio.Event()
    listener = Listener(stop)

    async def compute(_: None) -> None: ...

    async with broker.transport(client_id="s", subscriptions=[UP]) as transport:
        transport.receive(UP, BAD_HEADER)
        await Driver(listener, transport, compute, Journal(())).run(stop)
    told = [event for event in listener.heard if isinstance(event, Undecodable)]
    assert [(event.sender, event.error.reason, event.wire_bytes) for event in told] == [
        ("c3", "malformed", packet_bytes(BAD_HEADER))
    ]
