"""What ends a driver before its state machine does: errors, wherever they come from."""

import asyncio

import pytest

from broker.machine.actions import (
    Action,
    Compute,
    ComputeDone,
    Done,
    Event,
    Online,
    StartTimer,
    TimerFired,
)
from broker.machine.asyncio_driver import Driver
from broker.machine.event_log import Journal
from broker.transports.memory import MemoryBroker


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
