"""What one process of a live run did and saw, and when: kept in memory, written once, for the trace.

Every process keeps a journal of its own; sim.live.join_trace joins them. A note costs a microsecond or two
and about 200 bytes. A process that is killed takes its journal with it, and nothing else.
"""

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from broker.errors import RunError
from broker.files import atomic_write
from broker.wire import topics
from broker.wire.messages import Activations, Assignment, Gradient, HeadUpdate, Message

MAX_CLIENTS = 64
"""So many clients of a fleet, its first ones, are traced."""

MAX_NOTES = 100_000
"""What comes later in a process is counted and left out."""

SERVER = ""
"""Whose lane it is when it is no client's."""

_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Span(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Somebody worked for a while; `round` and `step` where they matter."""

    lane: str
    name: str
    from_s: float
    to_s: float
    round: int = 0
    step: int = 0


class MessageSeen(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A message that carries a tensor began to leave, or arrived.

    Attributes:
        lane: the client that it comes from or goes to.
        kind: the message's class.
        round: the message's.
        step: the message's; None where it has none.
        attempt: the message's.
        wire_bytes: of its MQTT packets; 0 when it left, for then they are not made.
        at_s: when.
    """

    lane: str
    kind: str
    round: int
    step: int | None
    attempt: int
    wire_bytes: int
    at_s: float


class Notes(msgspec.Struct):
    """The content of a journal; its times are those of the machine's monotonic clock.

    Attributes:
        boot: tells whether two journals had the same clock; empty where the system does not say.
        wall_s: wall clock less monotonic clock.
        spans: in the order of their ends.
        sightings: in the order of their times.
        left_out: notes beyond MAX_NOTES.
    """

    boot: str
    wall_s: float
    spans: list[Span] = []
    sightings: list[MessageSeen] = []
    left_out: int = 0


class Journal:
    """Takes notes; any thread may.

    Args:
        fleet: names of the run's clients.

    Attributes:
        notes: what was noted so far.
    """

    def __init__(self, fleet: Collection[str]) -> None:
        boot = _BOOT.read_text().strip() if _BOOT.exists() else ""
        self.notes = Notes(boot, time.time() - time.monotonic())
        self._lanes = {SERVER, *list(fleet)[:MAX_CLIENTS]}
        self._count = 0

    def span(self, lane: str, name: str, from_s: float, to_s: float, number: int = 0, step: int = 0) -> None:
        """Note work between two times of time.monotonic(), for a round and step where that matters."""
        if self._may_note(lane):
            self.notes.spans.append(Span(lane, name, from_s, to_s, number, step))

    @contextmanager
    def timed(self, lane: str, name: str) -> Iterator[None]:
        """Note the work of a block."""
        from_s = time.monotonic()
        try:
            yield
        finally:
            self.span(lane, name, from_s, time.monotonic())

    def left(self, topic: str, message: Message) -> None:
        """Note that a message begins to leave, if it carries a tensor."""
        self._see(topic, message, 0)

    def arrived(self, topic: str, message: Message, wire_bytes: int) -> None:
        """Note that a message is there, if it carries a tensor."""
        self._see(topic, message, wire_bytes)

    def write(self, file: Path) -> None:
        """Write the notes; the file is whole or not there."""
        with atomic_write(file) as part:
            part.write_bytes(msgspec.json.encode(self.notes))

    def _see(self, topic: str, message: Message, wire_bytes: int) -> None:
        if not isinstance(message, Activations | Gradient | Assignment | HeadUpdate):
            return
        client = topics.parse(topic).client
        if self._may_note(client):
            step = message.step if isinstance(message, Activations | Gradient) else None
            kind, at_s = type(message).__name__, time.monotonic()
            seen = MessageSeen(client, kind, message.round, step, message.attempt, wire_bytes, at_s)
            self.notes.sightings.append(seen)

    def _may_note(self, lane: str) -> bool:
        if lane not in self._lanes:
            return False
        if self._count >= MAX_NOTES:
            self.notes.left_out += 1
            return False
        self._count += 1
        return True


def read_notes(file: Path) -> Notes:
    """Read what a journal wrote.

    Raises:
        RunError: there is no such file, or it is no journal.
    """
    try:
        return msgspec.json.decode(file.read_bytes(), type=Notes)
    except (OSError, msgspec.DecodeError) as error:
        raise RunError(f"{file} is no journal of a run: {error}") from error
