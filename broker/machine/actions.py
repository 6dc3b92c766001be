"""The vocabulary of both state machines: events in, actions out.

A core (edge_client.core, server_node.protocol.core) has one method, `handle(event, now_s) -> list[Action]`.
It is told the time and reads no clock; it sees no socket, thread or global random state. Two drivers feed it:
broker.machine.asyncio_driver in real time over a Transport, and sim.simulation.driver in virtual time.
"""

from typing import Generic, Protocol, TypeVar

import msgspec

from broker.wire.errors import WireError
from broker.wire.messages import Message

J = TypeVar("J")
"""A side's jobs: pieces of computation. Each room has a union of its own job classes."""
R = TypeVar("R")
"""What a side's jobs give back."""
F = TypeVar("F")
"""A side's facts: what it reports to whoever watches."""


class Online(msgspec.Struct, frozen=True):
    """The connection to the broker stands (again), subscriptions included; `connection` counts them."""

    connection: int = 1


class Received(msgspec.Struct, frozen=True):
    """A message arrived.

    Attributes:
        sender: the client whose topic it came on; empty for the server's.
        message: what was said.
        wire_bytes: bytes of its MQTT packets.
    """

    sender: str
    message: Message
    wire_bytes: int


class Undecodable(msgspec.Struct, frozen=True):
    """Bytes arrived that are no message, or that were dropped unread; the rest as in Received."""

    sender: str
    error: WireError
    wire_bytes: int = 0


class TimerFired(msgspec.Struct, frozen=True):
    """A timer ran out."""

    key: str


class ComputeDone(msgspec.Struct, Generic[J, R], frozen=True):
    """A job ended; `result` is what its worker returned."""

    job: J
    result: R


class StopAsked(msgspec.Struct, frozen=True):
    """Somebody wants the run to end now."""

    reason: str


Event = Online | Received | Undecodable | TimerFired | ComputeDone[J, R] | StopAsked


class Publish(msgspec.Struct, frozen=True):
    """Say something on a topic; its QoS follows from the message, see broker.wire.packing.qos_of."""

    topic: str
    message: Message
    retain: bool = False


class StartTimer(msgspec.Struct, frozen=True):
    """Feed TimerFired(key) back after `delay_s`; a running timer of that key starts anew."""

    key: str
    delay_s: float


class CancelTimer(msgspec.Struct, frozen=True):
    """Forget a timer; unknown keys are fine."""

    key: str


class Compute(msgspec.Struct, Generic[J], frozen=True):
    """Run a job off the network's thread and feed ComputeDone back."""

    job: J


class Report(msgspec.Struct, Generic[F], frozen=True):
    """Tell whoever watches."""

    fact: F


class Done(msgspec.Struct, frozen=True):
    """This side has finished; nothing after it is handled."""

    reason: str


Action = Publish | StartTimer | CancelTimer | Compute[J] | Report[F] | Done


class Core(Protocol[J, R, F]):
    """A protocol state machine."""

    def handle(self, event: Event[J, R], now_s: float) -> list[Action[J, F]]:
        """Take one event and say what is to be done, in order.

        Args:
            event: what happened.
            now_s: seconds on a clock that never goes back.
        """
        ...
