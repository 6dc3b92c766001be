"""`fedlite stop` and `fedlite clear`: what an operator says to a run, from any machine with its broker."""

import asyncio
import functools
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from broker.cli.console import command
from broker.cli.options import (
    BrokerOption,
    BundleOption,
    CaFileOption,
    PasswordFileOption,
    access_from,
)
from broker.errors import RunError, UnreachableError
from broker.exits import ENDED
from broker.machine.actions import Received
from broker.machine.asyncio_driver import event_of
from broker.provisioning.bundle import read_bundle
from broker.stopping import interrupt_on_signals
from broker.transports.base import Connect, Frame, Transport
from broker.transports.mqtt import MqttTransport
from broker.wire import messages, packing, topics
from broker.wire.messages import RunState, StopRun

ANSWER_S = 15.0
"""How long a server may take to say that it has stopped."""

Run = Annotated[str, typer.Argument(metavar="RUN", help="Name of the run.")]


@command
def stop(
    run: Run,
    broker: BrokerOption = None,
    ca_file: CaFileOption = None,
    password_file: PasswordFileOption = None,
    bundle: BundleOption = None,
) -> None:
    """End a run for good: its server writes the results and ends, and all edges leave.

    To pause a run, stop its server with Ctrl-C or SIGTERM instead; edges wait until it is started again.
    """
    connect = _connect(broker, ca_file, password_file, bundle)
    with interrupt_on_signals():
        typer.echo(asyncio.run(stop_run(connect, topics.check_name(run))))


@command
def clear(
    run: Run,
    broker: BrokerOption = None,
    ca_file: CaFileOption = None,
    password_file: PasswordFileOption = None,
    bundle: BundleOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also when the state there says that a server is at work.")
    ] = False,
) -> None:
    """Remove what the broker keeps of a run: state, scenario, presence, what `fedlite watch` shows.

    A run of the same name then finds nothing of the earlier one. Run folders are not touched.
    """
    connect = _connect(broker, ca_file, password_file, bundle)
    with interrupt_on_signals():
        typer.echo(asyncio.run(clear_run(connect, topics.check_name(run), force=force)))


def _connect(
    broker: list[str] | None, ca_file: Path | None, password_file: Path | None, bundle: Path | None
) -> Connect:
    member = read_bundle(bundle, "operator") if bundle else None
    access = access_from(broker, ca_file=ca_file, password_file=password_file, bundle=member)
    return functools.partial(MqttTransport, access)


async def stop_run(connect: Connect, run: str) -> str:
    """End a run for good.

    When no server is at work, the waiting clients are told in its place.

    Args:
        connect: makes the transport.
        run: name of the run.

    Returns:
        A line for people.

    Raises:
        RunError: the broker knows no such run.
        UnreachableError: a server that seemed to be at work does not answer.
    """
    client_id = f"{run}-stop-{secrets.token_hex(4)}"
    subscriptions = [topics.state(run), topics.server(run)]
    async with connect(client_id=client_id, subscriptions=subscriptions) as transport:
        await transport.publish(topics.server(run), packing.encode(StopRun()))
        state: RunState | None = None
        try:
            async with asyncio.timeout(ANSWER_S):
                async for message in _said(transport):
                    if isinstance(message, RunState):
                        state = message
                    elif not isinstance(message, StopRun):
                        continue
                    elif state is None:  # what is retained comes before our own words come back
                        raise RunError(f"the broker knows no run {run!r}")
                    if state.phase == "finished":
                        return f"{run} is over after {_rounds(state)}: {state.reason}"
                    if state.phase in ("paused", "away") and isinstance(message, StopRun):
                        ended = msgspec.structs.replace(state, phase="finished", reason=ENDED)
                        await transport.publish(topics.state(run), packing.encode(ended), retain=True)
                        return f"{run} is over; no server was at work, its clients were told"
        except TimeoutError:
            pass
    raise UnreachableError(
        f"the server of {run!r} does not answer; if it is gone, `fedlite clear --force` removes its state"
    )


async def clear_run(connect: Connect, run: str, *, force: bool = False) -> str:
    """Remove what the broker keeps of a run.

    Args:
        connect: makes the transport.
        run: name of the run.
        force: also when a server seems to be at work.

    Returns:
        A line for people.

    Raises:
        RunError: a server is at work.
    """
    client_id = f"{run}-clear-{secrets.token_hex(4)}"
    subscriptions = [f"fl/+/{run}/{kept}" for kept in ("state", "scenario", "status/+", "watch/#")]
    end = topics.down(run, secrets.token_hex(8))  # nobody else listens there
    async with connect(client_id=client_id, subscriptions=[*subscriptions, end]) as transport:
        await transport.publish(end, packing.encode(StopRun()))
        kept: dict[str, None] = {}
        async for frame in transport.events():
            if not isinstance(frame, Frame):
                continue
            if frame.topic == end:
                break
            event = event_of(frame)
            if not force and isinstance(event, Received) and _is_at_work(event.message):
                raise RunError(
                    f"a server is at work on {run!r}: `fedlite stop {run}` ends the run; "
                    "--force clears it when that server is gone"
                )
            if frame.payload:
                kept[frame.topic] = None
        for topic in kept:
            await transport.publish(topic, b"", retain=True)
    return f"cleared {len(kept)} retained messages of {run}"


async def _said(transport: Transport) -> AsyncIterator[messages.Message]:
    async for frame in transport.events():
        if isinstance(frame, Frame):
            event = event_of(frame)
            if isinstance(event, Received):
                yield event.message


def _is_at_work(message: messages.Message) -> bool:
    return isinstance(message, RunState) and message.phase in ("gathering", "running")


def _rounds(state: RunState) -> str:
    return f"{state.round} of {state.rounds} rounds"
