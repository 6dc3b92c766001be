"""The journal of one process of a live run: what it did, which messages it saw, and when.

Every process keeps a journal in memory and writes it to a file when it ends; sim.live.join_trace makes one
trace of all of them. A note takes one or two microseconds and about 200 bytes. When a process is killed, its
journal is lost, and nothing else.
"""

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from broker.errors import RunError
from broker.files import atomic_write
from broker.wire import topics
from broker.wire.messages import Assignment, BatchDown, BatchUp, HeadUpdate, Message

MAX_WHOLE_FLEET = 512
"""Of a fleet of at most this size the trace shows every client."""

MAX_CLIENTS = 64
"""Of a larger fleet it shows so many, the first ones."""

MAX_NOTES = 100_000
"""A process keeps at most this many notes; it counts further ones and drops them."""

SERVER = ""
"""The lane of the server; a client's lane is its name."""

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def shown(fleet: Sequence[str]) -> Sequence[str]:
    """Give the clients of a fleet that the trace shows."""
    return fleet if len(fleet) <= MAX_WHOLE_FLEET else fleet[:MAX_CLIENTS]


class Span(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A piece of work, from its begin to its end.

    Attributes:
        lane: the client that worked, or SERVER.
        name: what was done.
        from_s: begin.
        to_s: end.
        round: the round it was for; 0 if it was for none.
        step: the step of the round; 0 also if it was for none.
    """

    lane: str
    name: str
    from_s: float
    to_s: float
    round: int = 0
    step: int = 0


class MessageSeen(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A message that carries a tensor was handed to the transport, or has arrived.

    Attributes:
        lane: the client that it comes from or goes to.
        kind: name of the message's class.
        round: the message's field of that name.
        step: the message's field of that name; None where it has none.
        attempt: the message's field of that name.
        wire_bytes: bytes of its MQTT packets; 0 for a message that leaves, since its packets come later.
        at_s: when that was.
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
        boot: identifies the start of the machine; journals with the same one have the same monotonic clock.
            Empty where the system does not tell.
        wall_s: wall clock minus monotonic clock.
        spans: pieces of work, in the order in which they ended.
        sightings: messages, in the order in which they were seen.
        left_out: how many notes beyond MAX_NOTES were dropped.
    """

    boot: str
    wall_s: float
    spans: list[Span] = []
    sightings: list[MessageSeen] = []
    left_out: int = 0


class Journal:
    """Takes notes; may be used from any thread.

    Args:
        fleet: names of the run's clients.

    Attributes:
        notes: the notes so far.
    """

    def __init__(self, fleet: Collection[str]) -> None:
        boot = _BOOT.read_text().strip() if _BOOT.exists() else ""
        self.notes = Notes(boot, time.time() - time.monotonic())
        self._lanes = {SERVER, *shown(list(fleet))}
        self._count = 0

    def span(self, lane: str, name: str, from_s: float, to_s: float, number: int = 0, step: int = 0) -> None:
        """Note work between two times of time.monotonic(); `number` is its round, see Span."""
        if self._may_note(lane):
            self.notes.spans.append(Span(lane, name, from_s, to_s, number, step))

    @contextmanager
    def timed(self, lane: str, name: str) -> Iterator[None]:
        """Note the time that a `with` block took."""
        from_s = time.monotonic()
        try:
            yield
        finally:
            self.span(lane, name, from_s, time.monotonic())

    def left(self, topic: str, message: Message) -> None:
        """Note that a message is handed to the transport, if it carries a tensor."""
        self._see(topic, message, 0)

    def arrived(self, topic: str, message: Message, wire_bytes: int) -> None:
        """Note that a message has arrived, if it carries a tensor."""
        self._see(topic, message, wire_bytes)

    def write(self, file: Path) -> None:
        """Write the notes as JSON; when that fails, there is no file or still the old one."""
        with atomic_write(file) as part:
            part.write_bytes(msgspec.json.encode(self.notes))

    def _see(self, topic: str, message: Message, wire_bytes: int) -> None:
        if not isinstance(message, BatchUp | BatchDown | Assignment | HeadUpdate):
            return
        client = topics.parse(topic).client
        if self._may_note(client):
            step = message.step if isinstance(message, BatchUp | BatchDown) else None
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
        RunError: the file cannot be read, or is not a journal.
    """
    try:
        return msgspec.json.decode(file.read_bytes(), type=Notes)
    except (OSError, msgspec.DecodeError) as error:
        raise RunError(f"{file} is no journal of a run: {error}") from error
