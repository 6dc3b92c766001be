"""Gets a run's scenario from the broker, for a device that has no file of it."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypedDict, Unpack

from broker.errors import RunError
from broker.machine.actions import Received, Undecodable
from broker.machine.asyncio_driver import event_of
from broker.machine.event_log import Journal
from broker.transports.base import Connect, Frame, Transport
from broker.wire import topics
from broker.wire.messages import RunScenario
from edge_client.board import Board
from edge_client.live import host
from edge_client.service.chooser import Offer
from edge_client.service.standing import Watch, stand
from scenarios.loading.published import read_published
from scenarios.schema.scenario import Scenario


class Hosting(TypedDict, total=False):
    """How clients are hosted once the scenario is known.

    Attributes:
        settings: see read_published.
        data: where the device has its data, see there.
        module: the device's own task, see there.
        jobs: see `host`.
        journal: see there.
        board: see there.
    """

    settings: Sequence[str]
    data: str
    module: str
    jobs: int
    journal: Journal | None
    board: Board | None


async def join(
    connect: Connect,
    *,
    connect_for: Callable[[Scenario], Connect] | None = None,
    run: str,
    names: Sequence[str],
    stop: asyncio.Event,
    say: Callable[[str], None] = lambda _line: None,
    **hosting: Unpack[Hosting],
) -> dict[str, str]:
    """Wait until the run's scenario is published, then take part with some of its clients.

    Args:
        connect: makes the transport that reads the scenario.
        connect_for: gives what makes the clients' transports, with the scenario's packet size; None:
        `connect`.
        run: as of `host`, which this one ends with; so is `stop`.
        names: of the clients, at least one.
        stop: see there.
        say: shows a line to the person at the screen.
        hosting: see Hosting.

    Returns:
        Why each client ended.

    Raises:
        RunError: a name that cannot stand in a topic, or a server of another version of the protocol.
        ScenarioError: a scenario that cannot be used here, see read_published, or a name that is not in its
            fleet.
        BrokerError: no broker, or one that refuses us.
    """
    say(f"asking the broker for the scenario of run {run}; its server may not have begun")
    client_id = f"{topics.check_name(run)}-{topics.check_name(names[0])}"
    subscriptions = [topics.scenario(run), topics.every_state(run)]
    async with connect(client_id=client_id, subscriptions=subscriptions) as transport:
        packed = await _unless(stop, asyncio.create_task(_published(transport)))
    if packed is None:
        return dict.fromkeys(names, "stopped")
    connect_for = connect_for or (lambda _scenario: connect)
    return await host_published(packed, connect_for, run=run, names=names, stop=stop, say=say, **hosting)


async def host_published(
    packed: bytes,
    connect_for: Callable[[Scenario], Connect],
    *,
    run: str,
    names: Sequence[str],
    stop: asyncio.Event,
    settings: Sequence[str] = (),
    data: str = "",
    module: str = "",
    jobs: int = 1,
    journal: Journal | None = None,
    board: Board | None = None,
    say: Callable[[str], None] = lambda _line: None,
) -> dict[str, str]:
    """Take part in a run whose published scenario is known; arguments and errors as of `join`."""
    scenario = read_published(packed, settings, data=data, module=module)
    say(
        f"scenario {scenario.name}: task {scenario.task.name}, {scenario.fleet_size} clients, "
        f"{scenario.training.rounds} rounds"
    )
    connect = connect_for(scenario)
    return await host(
        scenario, connect, run=run, names=names, stop=stop, jobs=jobs, journal=journal, board=board
    )


async def stay_in_fleet(
    connect: Connect,
    *,
    connect_for: Callable[[Scenario], Connect],
    run: str,
    names: Sequence[str],
    stop: asyncio.Event,
    say: Callable[[str], None] = lambda _line: None,
    **hosting: Unpack[Hosting],
) -> dict[str, str]:
    """Take part in the runs of a fleet, one after the other; arguments as of `join`, errors as of `stand`.

    With a name of a run, only that one counts, as often as its server begins again.
    """
    board = hosting.get("board")

    async def take_part(offer: Offer, watch: Watch, stop_or_leave: asyncio.Event) -> dict[str, str]:
        if board is not None:
            board.begin(offer.run)
        return await host_published(
            offer.packed,
            lambda scenario: watch(connect_for(scenario)),
            run=offer.run,
            names=names,
            stop=stop_or_leave,
            say=say,
            **hosting,
        )

    return await stand(connect, take_part, names=names, stop=stop, only=run, say=say)


async def _published(transport: Transport) -> bytes:
    async for item in transport.events():
        event = event_of(item) if isinstance(item, Frame) else None
        match event:
            case Received(message=RunScenario(packed)):
                return packed
            case Undecodable(error=error) if error.reason == "version":
                raise RunError(str(error))
            case _:
                pass
    raise RunError("the connection has ended")


async def _unless(stop: asyncio.Event, reading: asyncio.Task[bytes]) -> bytes | None:
    """Give what is read; None if a stop is asked for first."""
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({reading, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return await reading if reading.done() else None
    finally:
        reading.cancel()
        stopping.cancel()
