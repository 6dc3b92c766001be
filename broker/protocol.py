"""The vocabulary of both state machines: events in, actions out.

A core (edge_client.core, server_node.core) has one method, `handle(event) -> list[Action]`. It sees no
clock, socket, thread or global random state. Two drivers feed it: broker.drive in real time over a
Transport, and sim in virtual time.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

from broker.errors import WireError
from broker.messages import Message

Job = Hashable
"""A piece of computation; each room defines its own job classes."""


@dataclass(frozen=True, slots=True)
class Online:
    """The connection to the broker stands (again), subscriptions included."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message arrived.

    Attributes:
        sender: the client whose topic it came on; empty for the server's.
        message: what was said.
        wire_bytes: bytes of its MQTT packets.
    """

    sender: str
    message: Message
    wire_bytes: int


@dataclass(frozen=True, slots=True)
class Garbled:
    """Bytes arrived that are no message; `sender` as in Received."""

    sender: str
    error: WireError


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A timer ran out."""

    key: str


@dataclass(frozen=True, slots=True)
class ComputeDone:
    """A job ended; `result` is what its worker returned."""

    job: Job
    result: object


@dataclass(frozen=True, slots=True)
class StopAsked:
    """Somebody wants the run to end now."""

    reason: str


Event = Online | Received | Garbled | TimerFired | ComputeDone | StopAsked


@dataclass(frozen=True, slots=True)
class Publish:
    """Say something on a topic, at least once (QoS 1)."""

    topic: str
    message: Message
    retain: bool = False


@dataclass(frozen=True, slots=True)
class StartTimer:
    """Feed TimerFired(key) back after `delay_s`; a running timer of that key starts anew."""

    key: str
    delay_s: float


@dataclass(frozen=True, slots=True)
class CancelTimer:
    """Forget a timer; unknown keys are fine."""

    key: str


@dataclass(frozen=True, slots=True)
class Compute:
    """Run a job off the network's thread and feed ComputeDone back."""

    job: Job


@dataclass(frozen=True, slots=True)
class Report:
    """Tell whoever watches; `fact` is one of the room's own classes."""

    fact: object


@dataclass(frozen=True, slots=True)
class Done:
    """This side has finished; nothing after it is handled."""

    reason: str


Action = Publish | StartTimer | CancelTimer | Compute | Report | Done


class Core(Protocol):
    """A protocol state machine."""

    def handle(self, event: Event) -> list[Action]:
        """Take one event and say what is to be done, in order."""
        ...
