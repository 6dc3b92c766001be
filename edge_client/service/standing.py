"""A standing device: it waits for runs of its fleet and takes part in one after the other.

The chooser decides; this module listens, asks it, and takes part. While a device takes
part it listens to that run alone: brokers that tie the connection to the user's name allow it only one.
"""

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from broker.errors import BrokerError, UserError
from broker.exits import STOPPED
from broker.machine.actions import Received, Undecodable
from broker.machine.asyncio_driver import connected, event_of
from broker.transports.base import Connect, Connected, Event, Frame, Refused, Transport, TransportStats, Will
from broker.wire import topics
from broker.wire.errors import WireError
from broker.wire.messages import RunState
from edge_client.service.chooser import Chooser, Offer

log = logging.getLogger(__name__)

PATIENCE_S = 60.0
"""How long a device stays in a run that is paused; its server comes back in this time after an update."""


Watch = Callable[[Connect], Connect]
"""Makes transports that tell when the run's server is away."""

TakePart = Callable[[Offer, Watch, asyncio.Event], Awaitable[dict[str, str]]]
"""Takes part in a run until it is over or the event is set; gives why each client left."""


async def stand(
    connect: Connect,
    take_part: TakePart,
    *,
    names: Sequence[str],
    stop: asyncio.Event,
    only: str = "",
    say: Callable[[str], None] = lambda _line: None,
    patience_s: float = PATIENCE_S,
) -> dict[str, str]:
    """Take part in runs, one after the other, until somebody asks to stop.

    What is wrong with one run (its scenario, its data, the device's rights in it, even a bug in its task) is
    said once, and the device waits for the next.

    Args:
        connect: makes transports.
        take_part: in one run.
        names: of the clients that live here.
        stop: ends it.
        only: the one run that counts; empty: every run that the broker lets this device hear of.
        say: shows a line to the person at the screen.
        patience_s: see PATIENCE_S.

    Returns:
        "stopped" for each client.

    Raises:
        BrokerError: a broker that refuses this device altogether.
    """
    chooser = Chooser(topics.check_name(only) if only else "")
    waits_for = f"run {only}" if only else "runs of the fleet"
    say(f"{', '.join(names)}: waiting for {waits_for}")
    while (offer := await _next_offer(connect, chooser, names[0], only or "+", stop, say)) is not None:
        say(f"{', '.join(names)}: taking part in run {offer.run}")
        leave = asyncio.Event()
        watch = functools.partial(_watched, run=offer.run, leave=leave, patience_s=patience_s)
        try:
            reasons = await _until_either(stop, leave, functools.partial(take_part, offer, watch))
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the device
            chooser.refuse(offer)
            _tell_trouble(chooser, offer.run, error, say)
            continue
        if leave.is_set() and not stop.is_set():
            say(f"run {offer.run} is paused; waiting for it or another one")
        elif not stop.is_set():
            chooser.refuse(offer)
            for reason in dict.fromkeys(reasons.values()):
                say(f"left run {offer.run}: {reason}")
    return dict.fromkeys(names, STOPPED)


def _tell_trouble(chooser: Chooser, run: str, error: Exception, say: Callable[[str], None]) -> None:
    inner: BaseException = error
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    if chooser.is_news(run, repr(inner)):
        say(f"run {run} is left out: {inner or type(inner).__name__}")
        if not isinstance(inner, UserError):  # a bug, here or in the task
            log.error("run %s cannot be taken part in", run, exc_info=error)


async def _until_either(
    stop: asyncio.Event, leave: asyncio.Event, work: Callable[[asyncio.Event], Awaitable[dict[str, str]]]
) -> dict[str, str]:
    """Do something that ends when either event is set."""
    either = asyncio.Event()

    async def wake(event: asyncio.Event) -> None:
        await event.wait()
        either.set()

    wakers = [asyncio.create_task(wake(event)) for event in (stop, leave)]
    try:
        return await work(either)
    finally:
        for waker in wakers:
            waker.cancel()


async def _next_offer(
    connect: Connect, chooser: Chooser, name: str, runs: str, stop: asyncio.Event, say: Callable[[str], None]
) -> Offer | None:
    """Listen until there is a run to take part in; None: somebody asked to stop."""
    subscriptions = [topics.every_state(runs), topics.scenario(runs)]
    transport = connect(client_id=name, subscriptions=subscriptions)
    async with connected(transport, stop) as there:
        if not there:
            return None
        listening = asyncio.create_task(_listen(transport, chooser, say), name="listening for runs")
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({listening, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return None if stop.is_set() else listening.result()
        finally:
            for task in (listening, stopping):
                task.cancel()
            await asyncio.gather(listening, stopping, return_exceptions=True)


SETTLE_S = 0.5
"""After a state is heard, how long more is waited for: what is retained comes one by one, in any order."""


async def _listen(transport: Transport, chooser: Chooser, say: Callable[[str], None]) -> Offer:
    events, until = transport.events(), None
    while True:
        if chooser.next() is None:
            until = None
        elif until is None:
            until = asyncio.get_running_loop().time() + SETTLE_S
        try:
            async with asyncio.timeout_at(until):
                item = await anext(events)
        except TimeoutError:
            if (offer := chooser.next()) is not None:
                return offer
        except StopAsyncIteration:
            raise BrokerError("the connection has ended") from None
        else:
            match item:
                case Connected():
                    chooser.begin()
                case Frame() | Refused():
                    _hear(item, chooser, say)


def _hear(item: Frame | Refused, chooser: Chooser, say: Callable[[str], None]) -> None:
    try:
        run = topics.parse(item.topic).run
    except WireError:
        return
    if isinstance(item, Frame) and not item.payload:
        chooser.cleared(run)
        return
    match event_of(item):
        case Received(message=message):
            chooser.heard(run, message)
        case Undecodable(error=error) if chooser.is_news(run, str(error)):
            say(f"run {run} is left out: {error}")
        case _:
            pass


def _watched(connect: Connect, *, run: str, leave: asyncio.Event, patience_s: float) -> Connect:
    return functools.partial(_Watched, connect, run, leave, patience_s)


class _Watched:
    """A transport to one run; it asks to leave when the run's server has been away for too long.

    Args:
        connect: makes the transport.
        run: name of the run.
        leave: is set to ask for it.
        patience_s: how long the server may be away.
        client_id: as of Connect, with the two below.
        subscriptions: see there.
        will: see there.
    """

    def __init__(
        self,
        connect: Connect,
        run: str,
        leave: asyncio.Event,
        patience_s: float,
        *,
        client_id: str,
        subscriptions: Sequence[str],
        will: Callable[[int], Will] | None = None,
    ) -> None:
        self._inner = connect(client_id=client_id, subscriptions=subscriptions, will=will)
        self._state, self._leave, self._patience_s = topics.state(run), leave, patience_s
        self._stack = AsyncExitStack()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def stats(self) -> TransportStats:
        """See Transport.stats."""
        return self._inner.stats

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._inner)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wait(begins=False)
        await self._stack.__aexit__(kind, error, trace)

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> None:
        """See Transport.publish."""
        await self._inner.publish(topic, payload, retain=retain, qos=qos)

    async def events(self) -> AsyncIterator[Event]:
        """See Transport.events."""
        async for item in self._inner.events():
            if isinstance(item, Frame) and item.topic == self._state:
                match event_of(item):
                    case Received(message=RunState(phase=phase)):
                        self._wait(begins=phase in ("paused", "away"))
                    case _:
                        pass
            yield item

    def _wait(self, *, begins: bool) -> None:
        if begins and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._patience_s, self._leave.set)
        elif not begins and self._timer is not None:
            self._timer.cancel()
            self._timer = None
