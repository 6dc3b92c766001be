"""Drives a state machine in real time: frames, timers and finished jobs in, actions out.

The event loop only moves messages. Jobs run wherever `compute` puts them (a worker thread); while one
runs the loop keeps answering the broker.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Generic

from broker.machine.actions import (
    Action,
    CancelTimer,
    Compute,
    ComputeDone,
    Core,
    Done,
    Event,
    F,
    J,
    Online,
    Publish,
    R,
    Received,
    Report,
    StartTimer,
    StopAsked,
    TimerFired,
    Undecodable,
)
from broker.machine.event_log import Journal
from broker.transports.base import Connected, Frame, Refused, Transport
from broker.wire import messages, packing, topics
from broker.wire.chunks import mqtt_packet_bytes
from broker.wire.errors import WireError

log = logging.getLogger(__name__)

FAREWELL_S = 10.0
"""How long a side that is done waits for the broker to take its last words."""

MAX_PENDING = 65_536
"""Messages that may wait for the broker. What comes while so many wait is dropped; it is asked for later."""


@asynccontextmanager
async def connected(transport: Transport, stop: asyncio.Event) -> AsyncIterator[bool]:
    """Enter a transport, which may wait long for its broker, unless somebody asks to stop.

    Args:
        transport: is left with the context.
        stop: ends the waiting.

    Yields:
        Whether the connection stands; False: it was stopped before.

    Raises:
        BrokerError: what entering the transport raises.
    """
    entering = asyncio.create_task(transport.__aenter__())
    stopping = asyncio.create_task(stop.wait())
    async with AsyncExitStack() as stack:
        try:
            await asyncio.wait({entering, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            if not entering.done():
                entering.cancel()
                await asyncio.gather(entering, return_exceptions=True)
            if not entering.cancelled() and entering.exception() is None:
                stack.push_async_exit(transport)
        if not entering.cancelled():
            entering.result()
        yield not entering.cancelled()


def event_of(frame: Frame | Refused) -> Received | Undecodable | None:
    """Read a frame, or take note of one that was refused unread; None when there is nothing to be read."""
    try:
        place = topics.parse(frame.topic)
    except WireError as error:
        log.warning("ignored a message: %s", error)
        return None
    if isinstance(frame, Frame) and not frame.payload and place.kind != "up":
        return None  # a retained message was cleared
    if place.kind == "watch":
        return None  # for people; no part of the protocol
    sender = place.client if place.kind in ("up", "status") else ""
    if isinstance(frame, Refused):
        return Undecodable(sender, frame.error, frame.wire_bytes)
    if place.version != messages.VERSION:
        who, own = sender or "the server", messages.VERSION
        spoken = WireError(
            "version", f"{who} speaks protocol {place.version}, this side {own}: update one of them"
        )
        return Undecodable(sender, spoken, frame.wire_bytes)
    try:
        message = packing.decode(frame.payload)
    except WireError as error:
        return Undecodable(sender, error, frame.wire_bytes)
    if packing.qos_of(message, len(frame.payload)) == 1:
        return Received(sender, message, frame.wire_bytes)
    return Received(sender, message, mqtt_packet_bytes(frame.topic, len(frame.payload), qos=0))


class Driver(Generic[J, R, F]):
    """One state machine on one transport.

    Args:
        core: the state machine.
        transport: an entered transport.
        compute: runs a job off the event loop and gives its result.
        journal: hears of messages that leave and arrive.
        farewell_s: how long its last words are tried; FAREWELL_S when it was asked to stop.
        report: hears the facts of the core's Report actions.
        overhear: is given what arrives that is no part of the protocol.
    """

    def __init__(
        self,
        core: Core[J, R, F],
        transport: Transport,
        compute: Callable[[J], Awaitable[R]],
        journal: Journal,
        report: Callable[[F], None] = lambda _: None,
        farewell_s: float = FAREWELL_S,
        overhear: Callable[[Frame | Refused], None] = lambda _: None,
    ) -> None:
        self._core = core
        self._transport = transport
        self._compute = compute
        self._journal = journal
        self._report = report
        self._farewell_s = farewell_s
        self._overhear = overhear
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._publishing: set[asyncio.Task[None]] = set()
        self._dropped = 0
        self._computing: set[asyncio.Future[R]] = set()

    async def run(self, stop: asyncio.Event) -> str:
        """Drive until the core is done, let its last words out, and give its reason.

        Args:
            stop: set it to ask the core to end early.

        Raises:
            ExceptionGroup: of what the transport or a job raised.
        """
        self._done = asyncio.get_running_loop().create_future()
        async with asyncio.TaskGroup() as self._tasks:
            listeners = {
                self._tasks.create_task(self._read()),
                self._tasks.create_task(self._on_signal(stop)),
            }
            reason: str = await self._done
            if self._publishing:
                patience_s = FAREWELL_S if stop.is_set() else self._farewell_s
                await asyncio.wait(self._publishing, timeout=patience_s)
            for task in listeners | self._publishing:
                task.cancel()
            for computing in self._computing:
                computing.cancel()
        for timer in self._timers.values():
            timer.cancel()
        return reason

    def _feed(self, event: Event[J, R]) -> None:
        """Let the core take an event; what it raises ends `run`, also when a timer or a job has fed it."""
        if self._done.done():
            return
        try:
            for action in self._core.handle(event, asyncio.get_running_loop().time()):
                self._carry_out(action)
        except Exception as error:  # noqa: BLE001  run raises it
            self._fail(error)

    async def _read(self) -> None:
        async for item in self._transport.events():
            match item:
                case Connected(connection):
                    self._feed(Online(connection))
                case Frame() | Refused():
                    event = event_of(item)
                    if isinstance(event, Received):
                        self._journal.arrived(item.topic, event.message, event.wire_bytes)
                    if event is None:
                        self._overhear(item)
                    else:
                        self._feed(event)

    async def _on_signal(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._feed(StopAsked("stopped"))

    def _carry_out(self, action: Action[J, F]) -> None:
        match action:
            case Publish() if len(self._publishing) >= MAX_PENDING and not action.retain:
                self._dropped += 1
                if self._dropped == 1:
                    log.warning("messages wait for the broker; more than %d are not kept", MAX_PENDING)
            case Publish():
                task = self._tasks.create_task(self._publish(action))
                self._publishing.add(task)
                task.add_done_callback(self._publishing.discard)
            case Compute(job):
                self._start(job)
            case StartTimer(key, delay_s):
                self._cancel(key)
                loop = asyncio.get_running_loop()
                self._timers[key] = loop.call_later(delay_s, self._fire, key)
            case CancelTimer(key):
                self._cancel(key)
            case Report(fact):
                self._report(fact)
            case Done(reason):
                self._done.set_result(reason)

    async def _publish(self, action: Publish) -> None:
        payload = packing.encode(action.message)
        self._journal.left(action.topic, action.message)
        qos = packing.qos_of(action.message, len(payload))
        await self._transport.publish(action.topic, payload, retain=action.retain, qos=qos)

    def _start(self, job: J) -> None:
        computing = asyncio.ensure_future(self._compute(job))
        self._computing.add(computing)
        computing.add_done_callback(lambda ended: self._computed(job, ended))

    def _computed(self, job: J, ended: asyncio.Future[R]) -> None:
        self._computing.discard(ended)
        if ended.cancelled():
            return
        error = ended.exception()
        if error is None:
            self._feed(ComputeDone(job, ended.result()))
        else:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self._done.done():
            self._done.set_exception(error)

    def _fire(self, key: str) -> None:
        del self._timers[key]
        self._feed(TimerFired(key))

    def _cancel(self, key: str) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
