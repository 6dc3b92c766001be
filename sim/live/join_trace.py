"""Joins the event logs of a live run's processes to one trace, with the lanes and spans of a simulated run.

Processes of one machine share its monotonic clock. Times of another machine are moved by the difference of
the wall clocks, so they are as exact as its NTP. A message that seems to arrive before it left is not shown.
"""

from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from broker.machine import event_log as journal
from broker.machine.event_log import MessageSeen, Notes, Span
from sim.chrome_trace import SERVER, Trace

_WAY = {
    "Activations": "uplink",
    "FeatureGradient": "uplink",
    "HeadUpdate": "uplink",
    "Assignment": "downlink",
    "Features": "downlink",
    "Gradient": "downlink",
}

Found = tuple[Span, dict[str, int]]
"""A span and its details."""


def live_trace(clients: Sequence[str], journals: Sequence[Notes]) -> Trace:
    """Make the trace of a run; it begins with whatever was noted first.

    uplink and downlink last from the moment when a message begins to be sent until its receiver has it
    whole: both hops and the broker between them. queue is the time between an arrival and its TailStep.

    Args:
        clients: names of the whole fleet.
        journals: the server's first.
    """
    trace = Trace(clients)
    trace.left_out = sum(notes.left_out for notes in journals)
    spans = [
        replace(span, from_s=span.from_s + shift_s, to_s=span.to_s + shift_s)
        for notes, shift_s in _with_shifts(journals)
        for span in notes.spans
    ]
    sightings = [
        replace(seen, at_s=seen.at_s + shift_s)
        for notes, shift_s in _with_shifts(journals)
        for seen in notes.sightings
    ]
    found: list[Found] = (
        [(span, {}) for span in spans] + list(_queues(spans, sightings)) + list(_ways(sightings))
    )
    found.sort(key=lambda found: found[0].from_s)
    origin_s = found[0][0].from_s if found else 0.0
    for span, details in found:
        lane = SERVER if span.lane == journal.SERVER else trace.lane(span.lane)
        if lane is not None:
            trace.span(lane, span.name, span.from_s - origin_s, span.to_s - origin_s, **details)
    return trace


def _with_shifts(journals: Sequence[Notes]) -> Iterator[tuple[Notes, float]]:
    """Yield each journal and its clock offset from the first one, in seconds."""
    ours = journals[0]
    for notes in journals:
        same_clock = notes is ours or (notes.boot != "" and notes.boot == ours.boot)
        yield notes, 0.0 if same_clock else notes.wall_s - ours.wall_s


def _ways(sightings: list[MessageSeen]) -> Iterator[Found]:
    """Yield a span for each message: from the last time that it left to its first arrival after that."""
    left_s: dict[tuple[str, str, int, int | None, int], float] = {}
    for seen in sorted(sightings, key=lambda seen: seen.at_s):
        key = (seen.lane, seen.kind, seen.round, seen.step, seen.attempt)
        if not seen.wire_bytes:
            left_s[key] = seen.at_s
        elif key in left_s:
            details = {"round": seen.round, "bytes": seen.wire_bytes}
            if seen.step is not None:
                details = {"round": seen.round, "step": seen.step, "bytes": seen.wire_bytes}
            yield Span(seen.lane, _WAY[seen.kind], left_s.pop(key), seen.at_s), details


def _queues(spans: list[Span], sightings: list[MessageSeen]) -> Iterator[Found]:
    """Yield the time that each batch waited at the server, from its first arrival to its TailStep."""
    arrived_s: dict[tuple[str, int, int | None], float] = {}
    for seen in sightings:
        if seen.kind in ("Activations", "FeatureGradient") and seen.wire_bytes:
            arrived_s.setdefault((seen.lane, seen.round, seen.step), seen.at_s)
    for span in spans:
        at_s = arrived_s.get((span.lane, span.round, span.step)) if span.name == "tail" else None
        if at_s is not None:
            yield Span(span.lane, "queue", at_s, span.from_s), {}
