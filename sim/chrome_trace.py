"""The timeline of a run as a Chrome trace, to be opened in ui.perfetto.dev or chrome://tracing.

The server and each client are a process, named with what the client is. A client computes, sends, receives
and waits in lanes of its own; where spans of a lane overlap, the later one gets a further lane. An arrow
leads from each batch of activations through the tail to its gradient.

Spans are in seconds since the run began; they come from virtual time, or from sim.live.join_trace. Large
fleets and long runs are cut off: `otherData` in the file says how much is in it.
"""

import itertools
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from broker.machine.event_log import shown

SERVER = 1
"""Process of the server; those of the clients follow in the fleet's order. 0 is Linux's idle process."""

LANES = {"uplink": "up", "downlink": "down", "queue": "waits", "tail": "at the server"}
"""In which lane of a client a span stands; every other one is computing."""

COMPUTES = "computes"
ORDER = {lane: place for place, lane in enumerate((COMPUTES, *LANES.values()))}

Event = dict[str, Any]


class Span(NamedTuple):
    """What somebody did from when to when, in nanoseconds since the run began."""

    who: int
    name: str
    from_ns: int
    to_ns: int
    details: dict[str, int]

    @property
    def place(self) -> tuple[object, ...]:
        """Give its place among all: by time, and then by who and what; not by who told of it first."""
        return self.from_ns, self.who, self.to_ns, self.name, *self.details.values()


class Lane(NamedTuple):
    """Of a process: what kind of lane, which one of these, and its name; they sort as they are shown."""

    kind: int
    number: int
    name: str


class Trace:
    """Collects spans and writes them.

    Args:
        clients: names of the fleet, in its order.
        kinds: what each client is, such as "raspberry-pi-4, lte"; empty: nothing is said of any.
        max_clients: only the first so many are shown; None: as many as broker.machine.event_log.shown gives.
        max_spans: only those that begin first are kept.
        spare: so many more are kept until it is looked which ones begin first.

    Attributes:
        left_out: spans above max_spans, as far as that is known; `write` knows all.
    """

    def __init__(
        self,
        clients: Sequence[str],
        kinds: Sequence[str] = (),
        *,
        max_clients: int | None = None,
        max_spans: int = 100_000,
        spare: int = 10_000,
    ) -> None:
        self._fleet_size = len(clients)
        lanes = shown(clients) if max_clients is None else clients[:max_clients]
        self._numbers = {client: number for number, client in enumerate(lanes, SERVER + 1)}
        self._kinds = kinds
        self._max_spans, self._spare = max_spans, spare
        self._spans: list[Span] = []
        self._until_ns: float = math.inf  # what begins later is not among the first
        self.left_out = 0

    def lane(self, client: str) -> int | None:
        """Give a client's process; None when it is not shown."""
        return self._numbers.get(client)

    def span(self, who: int, name: str, from_s: float, to_s: float, **details: int) -> None:
        """Add a span, unless it takes no time."""
        from_ns, to_ns = _nanoseconds(from_s), _nanoseconds(to_s)
        if to_ns <= from_ns:
            return
        if from_ns > self._until_ns:
            self.left_out += 1
            return
        self._spans.append(Span(who, name, from_ns, to_ns, details))
        if len(self._spans) > self._max_spans + self._spare:
            self._keep_the_first()

    def _keep_the_first(self) -> None:
        """Put spans in their order, and leave out those that are too many."""
        self._spans.sort(key=attrgetter("place"))
        more = len(self._spans) - self._max_spans
        if more > 0:
            del self._spans[self._max_spans :]
            self.left_out += more
            self._until_ns = self._spans[-1].from_ns

    def write(self, file: Path) -> None:
        """Write the trace; the same spans give the same bytes, in whatever order they came."""
        self._keep_the_first()
        extent = {
            "clients": self._fleet_size,
            "clients_traced": len(self._numbers),
            "spans": len(self._spans),
            "spans_left_out_at_the_end": self.left_out,
        }
        lines = [json.dumps(event, separators=(",", ":")) for event in self._events()]
        head = json.dumps({"displayTimeUnit": "ms", "otherData": extent})[:-1]
        file.write_text(f'{head}, "traceEvents": [\n' + ",\n".join(lines) + "\n]}\n", encoding="utf-8")

    def _events(self) -> Iterator[Event]:
        for client, number in {"server": SERVER, **self._numbers}.items():
            kind = self._kinds[number - SERVER - 1] if number > SERVER and self._kinds else ""
            yield _named("process_name", number, name=f"{client} ({kind})" if kind else client)
            yield _named("process_sort_index", number, sort_index=number)
        placed = list(_in_lanes(self._spans))
        lanes = sorted({(span.who, lane) for span, lane in placed})
        threads = {lane: thread for thread, lane in enumerate(lanes, 1)}  # unique, as Perfetto wants them
        for (who, lane), thread in threads.items():
            yield _named("thread_name", who, thread, name=lane.name)
            yield _named("thread_sort_index", who, thread, sort_index=thread)
        for span, lane in placed:
            yield {
                "name": span.name,
                "ph": "X",
                "pid": span.who,
                "tid": threads[span.who, lane],
                "ts": _microseconds(span.from_ns),
                "dur": _microseconds(span.to_ns - span.from_ns),
                "args": span.details,
            }
        yield from _arrows([(span, threads[span.who, lane]) for span, lane in placed])


def _in_lanes(spans: Sequence[Span]) -> Iterator[tuple[Span, Lane]]:
    """Give each span its lane: the first one of its kind that is free when it begins; they come in order."""
    free_ns: dict[tuple[int, str], list[int]] = defaultdict(list)
    for span in spans:
        kind = COMPUTES if span.who == SERVER else LANES.get(span.name, COMPUTES)
        lanes = free_ns[span.who, kind]
        at = next((at for at, until_ns in enumerate(lanes) if until_ns <= span.from_ns), len(lanes))
        lanes[at : at + 1] = [span.to_ns]
        yield span, Lane(ORDER[kind], at, kind if at == 0 else f"{kind}, {at + 1}")


def _arrows(placed: Sequence[tuple[Span, int]]) -> Iterator[Event]:
    """Lead from a batch's way up through its time in the tail to its gradient's way down."""
    steps: dict[tuple[int, int, int], list[tuple[Span, int]]] = defaultdict(list)
    for span, thread in placed:
        if span.name in ("uplink", "tail", "downlink") and {"round", "step"} <= span.details.keys():
            steps[span.who, span.details["round"], span.details["step"]].append((span, thread))
    numbers = itertools.count(1)
    for of_step in steps.values():
        names = [span.name for span, _ in of_step]
        if names[:1] != ["uplink"] or names[-1:] != ["downlink"]:
            continue  # it was not answered, or the file ends before
        number = next(numbers)
        for at, (span, thread) in enumerate(of_step):
            arrow: Event = {"ph": "s"} if at == 0 else {"ph": "t"}
            if at == len(of_step) - 1:
                arrow = {"ph": "f", "bp": "e"}  # ends at the slice that encloses it
            where = {"pid": span.who, "tid": thread, "ts": _microseconds(span.from_ns)}
            yield {"name": "step", "cat": "step", "id": number, **arrow, **where}


def _named(what: str, process: int, thread: int | None = None, **args: object) -> Event:
    where = {"pid": process} if thread is None else {"pid": process, "tid": thread}
    return {"name": what, "ph": "M", **where, "args": args}


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _microseconds(nanoseconds: int) -> float:
    """Give what the format has: microseconds, with three places behind the point."""
    return nanoseconds / 1000
