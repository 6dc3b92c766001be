"""The pages that a server publishes for whoever watches: small retained JSON below fl/3/<run>/watch/.

Each page fits the smallest packet that a scenario can choose, so that brokers can retain it. The times `at`,
`since`, `began` and `seen` are seconds of the Unix epoch by the server's clock, all others are durations.
Whoever reads skips fields that it does not know.
"""

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from broker.wire import metric_page
from broker.wire.errors import WireError
from broker.wire.metric_page import MetricPage

MAX_PAGE_BYTES = 4096
"""Of one page; the least that a scenario's `broker.packet_bytes` can be."""

CLIENTS_A_PAGE = 12
MAX_CLIENTS = 1200
"""Clients that are shown one by one, the first ones of the fleet."""

MAX_POINTS = 40
"""Points of a curve."""
MAX_MEMBERS = 14
"""Members of a round whose timeline is shown: first those that are waited for."""
MAX_MARKS = 12
"""Changes of turn that are shown of one member, the latest ones."""
MAX_EVENTS = {"presence": 8, "refused": 5, "late": 5, "run": 5}
"""Events that are shown of each sort; a flood of one takes no room from the others."""

Name = Annotated[str, Meta(max_length=32)]
Label = Annotated[str, Meta(max_length=24)]
Words = Annotated[str, Meta(max_length=80)]
Number = Annotated[int, Meta(ge=0, le=2**53)]
Status = Literal["unknown", "offline", "idle", "working", "waiting"]
"""unknown: was never here; working: the round waits for it; waiting: it waits for the round."""
Kind = Literal["joined", "back", "lost", "refused", "late", "note", "run"]
Why = Literal["offline", "computing", "answer under way", "message under way", "no sign yet"]
"""What a member that is waited for said last of itself, see broker.wire.messages.Standing."""


class Slowest(msgspec.Struct, frozen=True):
    """The member that the round has waited for longest.

    Attributes:
        client: who.
        since: when it was given what it has to answer.
        why: what is known of the reason.
    """

    client: Name
    since: float
    why: Why


class RunPage(msgspec.Struct, frozen=True):
    """watch/run: how far the run is, in figures.

    Attributes:
        run: its name.
        phase: as in RunState.
        reason: why it finished or paused.
        round: the last one that has begun.
        rounds: how many there will be.
        metric_name: of the task.
        metric: of the last evaluation.
        best: of all evaluations.
        loss: mean of the last round.
        online: clients that are there.
        clients: clients of the fleet.
        elapsed_s: of training, up to the end of the last round.
        steps: batches that went through the tail, up to the end of the last round.
        wire_bytes: by flow, as in the run's summary: whole MQTT packets, without those of these pages.
        watch_bytes: of the packets that carried these pages.
        rejected: messages refused.
        duplicates: messages whose effect had been had.
        late: answers that came after their round.
        slowest: whom the round waits for; None: for nobody.
        version: of these pages.
    """

    run: Name
    phase: Literal["gathering", "running", "paused", "finished"]
    reason: Words
    round: Number
    rounds: Number
    metric_name: Label
    metric: float | None
    best: float | None
    loss: float | None
    online: Number
    clients: Number
    elapsed_s: float
    steps: Number
    wire_bytes: dict[Label, Number]
    watch_bytes: Number
    rejected: Number
    duplicates: Number
    late: Number
    slowest: Slowest | None = None
    version: Literal[1] = 1


class HistoryPage(msgspec.Struct, frozen=True):
    """watch/history: the curves so far; of a long run every so manieth point, and the last.

    Attributes:
        metric: round and metric of evaluations.
        traffic: round, elapsed seconds, bytes up and bytes down (totals, without control messages).
    """

    metric: Annotated[list[tuple[Number, float]], Meta(max_length=MAX_POINTS)]
    traffic: Annotated[list[tuple[Number, float, Number, Number]], Meta(max_length=MAX_POINTS)]


class Member(msgspec.Struct, frozen=True):
    """A client at work.

    Attributes:
        client: who.
        round: of its assignment; lower than that of the page for one that is late.
        step: as in Progress.
        turn: whose turn it is; done: its head update is here.
        at_s: when the turn changed, in seconds since the page's `began`; before 0 for one that is late. The
            first is a begin of the client's turn, the second its end, and so on.
    """

    client: Name
    round: Number
    step: Number
    turn: Literal["client", "tail", "done"]
    at_s: Annotated[list[float], Meta(max_length=MAX_MARKS)]


class RoundPage(msgspec.Struct, frozen=True):
    """watch/round: the round under way.

    Attributes:
        round: its number; 0 before the first.
        began: when it did.
        steps: exchanges of each member.
        members: those that are shown.
        more: members that are not.
    """

    round: Number
    began: float
    steps: Number
    members: Annotated[list[Member], Meta(max_length=MAX_MEMBERS)]
    more: Number


class ClientLine(msgspec.Struct, frozen=True):
    """A client of the fleet.

    Attributes:
        client: its name.
        status: see Status.
        device: the scenario's word for it; "own" for one that is written out.
        link: the same for its link.
        seen: when it said something last; None: never since the server's start.
        samples: on the device, as it says.
        batches: that went through the tail, since the server's start.
        refused: messages of it that were refused, in the whole run.
        answer_s: mean time to an answer, computing and transport together.
    """

    client: Name
    status: Status
    device: Label
    link: Label
    seen: Number | None
    samples: Number | None
    batches: Number
    refused: Number
    answer_s: float | None


class ClientsPage(msgspec.Struct, frozen=True):
    """watch/clients/<number>: twelve clients of the fleet, in its order; of at most 1,200."""

    clients: Annotated[list[ClientLine], Meta(max_length=CLIENTS_A_PAGE)]


class EventLine(msgspec.Struct, frozen=True):
    """Something happened.

    Attributes:
        at: when.
        kind: see Kind.
        client: to whom; empty: to the run.
        what: in words.
    """

    at: float
    kind: Kind
    client: Name
    what: Words


class EventsPage(msgspec.Struct, frozen=True):
    """watch/events: the last events of each sort, see MAX_EVENTS; the newest last."""

    events: Annotated[list[EventLine], Meta(max_length=sum(MAX_EVENTS.values()))]


Page = MetricPage | RunPage | HistoryPage | RoundPage | ClientsPage | EventsPage
_KINDS: dict[str, type[Page]] = {
    "run": RunPage,
    metric_page.PAGE: MetricPage,
    "history": HistoryPage,
    "round": RoundPage,
    "events": EventsPage,
    "clients": ClientsPage,
}


def encode(page: Page) -> bytes:
    """Give a page as JSON."""
    return msgspec.json.encode(page)


def decode(name: str, content: bytes) -> Page:
    """Read a page, which may come from anybody.

    Args:
        name: the levels of its topic after `watch`.
        content: of the message.

    Raises:
        WireError: "watch", when it is no page of that name.
    """
    kind = "clients" if re.fullmatch(r"clients/[0-9]{1,4}", name) else name
    if kind not in _KINDS or name == "clients":
        raise WireError("watch", f"{name[:80]!r} is no page of a run")
    if len(content) > MAX_PAGE_BYTES:
        raise WireError("watch", f"a page of {len(content)} bytes, at most {MAX_PAGE_BYTES} are read")
    try:
        return msgspec.json.decode(content, type=_KINDS[kind])
    except msgspec.DecodeError as error:
        raise WireError("watch", f"page {name}: {error}") from error


def clean(text: str, most_bytes: int) -> str:
    """Cut text to so many bytes of UTF-8, without what cannot be printed or JSON would escape."""
    printable = "".join(char if char.isprintable() and char not in '"\\' else "'" for char in text)
    return printable.encode(errors="replace")[:most_bytes].decode(errors="ignore")
