"""What an edge process shows of its clients; it looks at their state machines, and changes nothing."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from broker.machine.actions import Compute, ComputeDone, Done, Publish, Received
from broker.metrics import Metric, Sample
from broker.transports.base import Frame, Refused, TransportStats
from broker.wire import topics
from broker.wire.errors import WireError
from broker.wire.messages import Activations, FeatureGradient, HeadUpdate, Hello, Rejected, Released, RunState
from broker.wire.metric_page import PAGE, MetricPage, decode
from edge_client.actions import ClientAction, ClientEvent
from edge_client.core import ClientCore
from edge_client.jobs import FirstBatch

log = logging.getLogger(__name__)

TELL_SLOWEST_S = 1.0
"""Nobody is called slow who has been waited for less long."""

_OF_CLIENT = ("run", "client")
METRICS = {
    "fedlite_edge_connected": Metric("gauge", "1 if the connection to the broker stands", _OF_CLIENT),
    "fedlite_edge_connections_total": Metric("counter", "connections made", _OF_CLIENT),
    "fedlite_edge_working": Metric("gauge", "1 while the client computes", _OF_CLIENT),
    "fedlite_edge_round": Metric("gauge", "last round that the client took part in", _OF_CLIENT),
    "fedlite_edge_answers_total": Metric("counter", "activations and head updates made", _OF_CLIENT),
    "fedlite_edge_compute_seconds_total": Metric("counter", "time for these, waits included", _OF_CLIENT),
    "fedlite_edge_rejected_total": Metric("counter", "messages that the server refused", _OF_CLIENT),
    "fedlite_edge_resent_total": Metric("counter", "packets sent again after a lost connection", _OF_CLIENT),
    "fedlite_edge_dropped_total": Metric("counter", "incoming packets that were dropped", _OF_CLIENT),
}


@dataclass(slots=True)
class Record:
    """What is known of a client.

    Attributes:
        stats: of its transport; None: it has none yet.
        round: the last one that it took part in; 0: none.
        answers: activations and head updates that it made.
        compute_s: what these took, and how long they waited for a thread.
        rejected: messages that the server refused.
        computing_s: since when it computes; None: it does not.
        waiting_s: since when its answer waits for the server's next word; None: it does not.
        reason: why it has left; empty: it has not.
    """

    stats: TransportStats | None = None
    round: int = 0
    answers: int = 0
    compute_s: float = 0.0
    rejected: int = 0
    computing_s: float | None = None
    waiting_s: float | None = None
    reason: str = ""

    @property
    def is_connected(self) -> bool:
        """Whether its connection stands."""
        return self.stats is not None and self.stats.is_connected and not self.reason


@dataclass(slots=True)
class Board:
    """What is known of all clients of a process.

    Attributes:
        run: name of the run.
        records: by client.
        phase: of the run, as in RunState; empty: nothing is known.
        rounds: of the run; 0: not known.
        metric: what the server told of the run's last evaluation; None: nothing yet.
        shows_metric: somebody looks at it, so one of the clients listens to what the server tells of it.
    """

    run: str
    records: dict[str, Record] = field(default_factory=dict)
    phase: str = ""
    rounds: int = 0
    metric: MetricPage | None = None
    shows_metric: bool = False

    @classmethod
    def of(cls, run: str, names: Sequence[str], *, shows_metric: bool = False) -> "Board":
        """Make the board of a process."""
        return cls(run, {name: Record() for name in names}, shows_metric=shows_metric)

    def begin(self, run: str) -> None:
        """Forget the run before; the same clients take part in another one."""
        self.run, self.phase, self.rounds, self.metric = run, "", 0, None
        self.records = {name: Record() for name in self.records}

    def hear(self, state: RunState) -> None:
        """Take note of the run's state, which each client hears."""
        if state.phase != self.phase:
            log.info("the run is %s%s", state.phase, f": {state.reason}" if state.reason else "")
        self.phase, self.rounds = state.phase, state.rounds or self.rounds

    def overhear(self, frame: Frame | Refused) -> None:
        """Take note of the run's metric, if that is what a client has heard."""
        if isinstance(frame, Frame) and frame.payload and frame.topic == topics.watch(self.run, PAGE):
            try:
                self.metric = decode(frame.payload)
            except WireError as error:
                log.debug("no metric: %s", error)

    def line(self, now_s: float) -> str:
        """Say in one line how the clients get on."""
        records = self.records.values()
        connected = sum(record.is_connected for record in records)
        working = sum(record.computing_s is not None for record in records)
        parts = [self.phase] if self.phase not in ("", "running") else []
        parts.append(f"{connected} of {len(records)} connected")
        if self.round:
            parts.append(f"round {self.round} of {self.rounds}" if self.rounds else f"round {self.round}")
        if self.metric is not None:
            parts.append(f"{self.metric.name} {self.metric.metric:.3f} (best {self.metric.best:.3f})")
        parts.append(f"{working} computing, {sum(record.answers for record in records)} answers")
        if rejected := sum(record.rejected for record in records):
            parts.append(f"{rejected} refused")
        since_s, name, what = self.slowest()
        if name and now_s - since_s >= TELL_SLOWEST_S:
            parts.append(f"slowest {name}: {now_s - since_s:.1f} s, {what}")
        return "  ".join(parts)

    def content(self, now_s: float) -> dict[str, Any]:
        """Give the same for programs."""
        since_s, name, what = self.slowest()
        records = self.records.values()
        return {
            "run": self.run,
            "phase": self.phase,
            "round": self.round,
            "rounds": self.rounds,
            "metric": None if self.metric is None else msgspec.to_builtins(self.metric),
            "connected": sum(record.is_connected for record in records),
            "clients": len(records),
            "computing": sum(record.computing_s is not None for record in records),
            "answers": sum(record.answers for record in records),
            "rejected": sum(record.rejected for record in records),
            "slowest": {"client": name, "seconds": round(now_s - since_s, 1), "what": what} if name else None,
        }

    @property
    def round(self) -> int:
        """The last round that one of the clients took part in."""
        return max((record.round for record in self.records.values()), default=0)

    def slowest(self) -> tuple[float, str, str]:
        """Give who has been at the same thing longest: since when, the name, and at what; no name: nobody."""
        busy = []
        for name, record in self.records.items():
            if record.computing_s is not None:
                busy.append((record.computing_s, name, "computing"))
            elif record.waiting_s is not None:
                busy.append((record.waiting_s, name, "waits for the server"))
        return min(busy, default=(0.0, "", ""))

    def samples(self) -> Iterator[Sample]:
        """Give the values of METRICS; may be called from any thread."""
        for name, record in self.records.items():
            labels, stats = (self.run, name), record.stats or TransportStats()
            values = (
                record.is_connected,
                stats.connections,
                record.computing_s is not None,
                record.round,
                record.answers,
                record.compute_s,
                record.rejected,
                stats.resent,
                stats.dropped.total(),
            )
            yield from ((metric, labels, float(value)) for metric, value in zip(METRICS, values, strict=True))


class WatchedClient:
    """Stands between driver and state machine: it is a state machine itself, with the same actions.

    Args:
        core: the state machine.
        name: the client's.
        board: takes note of what happens.
    """

    def __init__(self, core: ClientCore, name: str, board: Board) -> None:
        self._core = core
        self._name = name
        self._board = board

    def handle(self, event: ClientEvent, now_s: float) -> list[ClientAction]:
        """Let the state machine take an event, and look at what came of it."""
        actions = self._core.handle(event, now_s)
        record = self._board.records[self._name]
        self._happened(event, record, now_s)
        for action in actions:
            self._follows(action, record, now_s)
        return actions

    def _happened(self, event: ClientEvent, record: Record, now_s: float) -> None:
        match event:
            case Received(message=RunState() as state):
                self._board.hear(state)
            case Received(message=Rejected()):
                record.rejected += 1
            case Received(message=Released()):
                record.waiting_s = None
            case ComputeDone() if record.computing_s is not None:
                record.answers += 1
                record.compute_s += now_s - record.computing_s
                record.computing_s = None
            case _:
                pass

    def _follows(self, action: ClientAction, record: Record, now_s: float) -> None:
        match action:
            case Publish(message=Activations() | FeatureGradient()):
                record.waiting_s = now_s
            case Publish(message=HeadUpdate()):
                record.waiting_s = None
            case Publish(message=Hello(samples=samples)):
                log.info("%s: greets the server, with %d samples", self._name, samples)
                record.waiting_s = None
            case Compute(job):
                record.computing_s, record.waiting_s = now_s, None
                if isinstance(job, FirstBatch):
                    self._assigned(record, job.assignment.round)
            case Done(reason):
                record.reason, record.computing_s, record.waiting_s = reason, None, None
            case _:
                pass

    def _assigned(self, record: Record, number: int) -> None:
        if not record.round:
            log.info("%s: takes part, first in round %d", self._name, number)
        record.round = number
