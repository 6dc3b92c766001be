"""Watches the server's state machine from outside, and notes who is there, who works, and what has happened.

It is told each event and what the state machine made of it, and reads who is there and who is at work. It
changes nothing: no action, no byte of the ledger, no random number.
"""

import itertools
from collections import deque
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol

from broker.exits import ANOTHER_SERVER, SUPERSEDED
from broker.machine.actions import Done, Publish, Received, Report, TimerFired, Undecodable
from broker.wire.messages import Hello, Progress, RunState, Status
from server_node.board.pages import MAX_EVENTS, Kind, clean
from server_node.board.tracks import Record
from server_node.protocol.exchange import Exchange
from server_node.vocabulary.actions import ServerAction, ServerEvent
from server_node.vocabulary.ledger import Ledger
from server_node.vocabulary.plan import Plan
from server_node.vocabulary.reports import Dropped, Fact, Noticed, Refused, RoundReport

MAX_UNREAD = 100
"""Events that are kept for the log from one second to the next."""

_SORTS: dict[Kind, str] = {
    "joined": "presence",
    "back": "presence",
    "lost": "presence",
    "refused": "refused",
    "late": "late",
    "note": "run",
    "run": "run",
}


@dataclass(frozen=True, slots=True)
class Happening:
    """Something happened to a client, or to the run if `client` is empty."""

    at_s: float
    kind: Kind
    client: str
    what: str


class Watched(Protocol):
    """What the board reads of the state machine."""

    @property
    def online(self) -> AbstractSet[str]:
        """Clients that are there."""

    @property
    def members(self) -> Mapping[str, Exchange]:
        """Clients at work."""

    def handle(self, event: ServerEvent, now_s: float) -> list[ServerAction]:
        """See ServerCore.handle."""


class Board:
    """Stands between driver and state machine: it is a state machine itself, with the same actions.

    Args:
        core: the state machine.
        plan: see Plan.
        ledger: of the run.
        labels: of each client the words for device and link.

    Attributes:
        core: as given.
        records: what is known of each client.
        changed: clients of which something has changed; whoever has looked at them clears it.
        state: what the server has said last of the run.
        round: the last one that has begun; 0: none since the server's start.
        began_s: when it did.
        may_publish: whether this server has taken charge of the run, and no other has since.
    """

    def __init__(
        self, core: Watched, plan: Plan, ledger: Ledger, labels: Mapping[str, tuple[str, str]]
    ) -> None:
        self.core = core
        self.records = {name: Record(*labels.get(name, ("", ""))) for name in plan.clients}
        self.changed = set(plan.clients)
        self.state = RunState("gathering", plan.incarnation, rounds=plan.rounds)
        self.round, self.began_s = 0, 0.0
        self.may_publish = False
        self._updates = plan.local_steps  # batches behind a head update that comes alone
        self._ledger = ledger
        self._at_work: set[str] = set()  # those with a track
        self._unread: deque[Happening] = deque(maxlen=MAX_UNREAD)
        self._recent = {sort: deque[Happening](maxlen=most) for sort, most in MAX_EVENTS.items()}

    def handle(self, event: ServerEvent, now_s: float) -> list[ServerAction]:
        """Let the state machine take an event, and look at what came of it."""
        late = self._ledger.discarded_late
        actions = self.core.handle(event, now_s)
        touched: set[str] = set()
        if isinstance(event, Received | Undecodable):
            touched.add(event.sender)
            self._heard(event, now_s)
            if self._ledger.discarded_late > late:
                self._happened("late", event.sender, "an answer came after its round", now_s)
        elif isinstance(event, TimerFired):
            touched.add(event.key.partition(":")[2])
        for action in actions:
            if isinstance(action, Publish):
                touched.add(action.topic.rpartition("/")[2])
            elif isinstance(action, Report) and isinstance(action.fact, RoundReport):
                touched |= self._at_work
            self._follows(action, now_s)
        for client in sorted(touched):  # of a large fleet a few
            if client in self.records:
                self._look_at(client, now_s)
        return actions

    def _follows(self, action: ServerAction, now_s: float) -> None:
        if isinstance(action, Publish):
            if isinstance(action.message, RunState):
                self._announced(action.message, now_s)
        elif isinstance(action, Report):
            self._reported(action.fact, now_s)
        elif isinstance(action, Done):
            self.may_publish = self.may_publish and action.reason not in (SUPERSEDED, ANOTHER_SERVER)

    def recent(self) -> list[Happening]:
        """Give the last events of each sort, see MAX_EVENTS, in the order in which they happened."""
        return sorted(itertools.chain(*self._recent.values()), key=lambda happening: happening.at_s)

    def take_unread(self) -> list[Happening]:
        """Give who came and went, and what became of the run, since the last call; of many the last ones.

        Of refusals and of what comes late the log hears from server_node.observer.
        """
        taken = list(self._unread)
        self._unread.clear()
        return taken

    def _heard(self, event: Received | Undecodable, now_s: float) -> None:
        record = self.records.get(event.sender)
        message = event.message if isinstance(event, Received) else None
        if record is None or isinstance(message, Status):
            return  # a status may be the broker's word, and old
        record.seen_s = now_s
        if isinstance(message, Hello):
            record.samples = message.samples
        elif isinstance(message, Progress) and record.track is not None:
            record.track.standing = message.standing

    def _announced(self, state: RunState, now_s: float) -> None:
        if not self.may_publish or (state.phase, state.reason) != (self.state.phase, self.state.reason):
            self._happened(
                "run", "", f"{state.phase}: {state.reason}" if state.reason else state.phase, now_s
            )
        self.state, self.may_publish = state, True

    def _reported(self, fact: Fact, now_s: float) -> None:
        match fact:
            case Dropped(number, client):
                self._happened("late", client, f"round {number} goes on without it", now_s)
            case Refused(client, why):
                self._happened("refused", client, why, now_s)
            case Noticed(client, what):
                self._happened("note", client, what, now_s)
            case _:
                pass

    def _look_at(self, client: str, now_s: float) -> None:
        record = self.records[client]
        is_online = client in self.core.online
        if is_online and not record.is_online:
            if record.left_s is None:
                size = "" if record.samples is None else f" with {record.samples} samples"
                self._happened("joined", client, f"is here{size}", now_s)
            else:
                self._happened("back", client, f"is back after {now_s - record.left_s:.1f} s", now_s)
        elif record.is_online and not is_online:
            record.left_s = now_s
            self._happened("lost", client, "has gone", now_s)
        record.is_online = is_online
        begins = record.follow(self.core.members.get(client), now_s, batches_of_update=self._updates)
        if begins is not None and begins > self.round:
            self.round, self.began_s = begins, now_s
        (self._at_work.discard if record.track is None else self._at_work.add)(client)
        self.changed.add(client)

    def _happened(self, kind: Kind, client: str, what: str, now_s: float) -> None:
        happening = Happening(now_s, kind, clean(client, 32), clean(what, 80))
        self._recent[_SORTS[kind]].append(happening)
        if _SORTS[kind] == "presence" or kind == "run":
            self._unread.append(happening)
