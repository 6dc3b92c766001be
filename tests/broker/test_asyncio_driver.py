"""What a driver makes of frames, and what ends it before its state machine does: errors from anywhere."""

import asyncio

import pytest

from broker.machine.actions import (
    Action,
    Compute,
    ComputeDone,
    Done,
    Event,
    Online,
    Received,
    StartTimer,
    TimerFired,
)
from broker.machine.asyncio_driver import Driver, event_of
from broker.machine.event_log import Journal
from broker.transports.base import Frame
from broker.transports.memory import MemoryBroker
from broker.wire import topics
from broker.wire.chunks import wire_bytes
from broker.wire.messages import Ask, Gradient
from broker.wire.packing import encode


class Fails:
    """A state machine that fails at one kind of event, after a timer and a job."""

    def __init__(self, at: type) -> None:
        self._at = at

    def handle(self, event: Event[str, str], now_s: float) -> list[Action[str, None]]:  # noqa: ARG002
        if isinstance(event, self._at):
            raise ZeroDivisionError
        match event:
            case Online():
                return [StartTimer("soon", 0.001)]
            case TimerFired():
                return [Compute("job")]
            case _:
                return [Done("well")]


async def drive(core: Fails, *, job_fails: bool = False) -> str:
    async def compute(job: str) -> str:
        if job_fails:
            raise ZeroDivisionError
        return job

    broker = MemoryBroker()
    async with broker.transport(client_id="c", subscriptions=[]) as transport, asyncio.timeout(5):
        return await Driver(core, transport, compute, Journal(())).run(asyncio.Event())


@pytest.mark.parametrize("at", [Online, TimerFired, ComputeDone])
async def test_an_error_of_the_state_machine_ends_the_driver(at: type) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await drive(Fails(at))
    assert caught.group_contains(ZeroDivisionError)


async def test_an_error_of_a_job_ends_the_driver() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await drive(Fails(StopAsyncIteration), job_fails=True)
    assert caught.group_contains(ZeroDivisionError)


async def test_without_errors_it_runs_to_the_end() -> None:
    assert await drive(Fails(StopAsyncIteration)) == "well"


@pytest.mark.parametrize(
    ("message", "qos"),
    [
        (Ask(1, 2, 3, 4), 1),
        (Gradient(1, 1, 0, 1, 0.5, bytes(100)), 0),
        (Gradient(1, 1, 0, 1, 0.5, bytes(5000)), 1),
    ],
)
def test_a_message_has_the_bytes_of_the_packets_that_its_sender_published(
    message: Ask | Gradient, qos: int
) -> None:
    topic, payload = topics.down("r", "c0"), encode(message)
    frame = Frame(topic, payload, wire_bytes(topic, len(payload)))
    assert event_of(frame) == Received("", message, wire_bytes(topic, len(payload), qos=qos))
