"""Where the time of every round went, and who held it up: the critical path of a trace.

A round lasts from one closing to the next. Its path is that of the member that finished last: what was on
this client's lane, moment by moment; when nothing is, it waits. When the round's end came clearly later
than the last answer, it waited for somebody whose answer did not come, and the path is that client's.
"""

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from sim.chrome_trace import SERVER
from sim.report.lanes import CLOSING, OWN_CORES, WAITING, along, busy_cores
from sim.report.runs import Event, TraceFile

ABSENT, NOT_TRACED = "away or idle", "not on the trace"
_CAUSES = {
    "compute": "compute",
    "encode": "compute",
    "decode + backward": "compute",
    "uplink": "uplink",
    "downlink": "downlink",
    "queue": "server",
    "tail": "server",
    WAITING: ABSENT,
    OWN_CORES: OWN_CORES,
}
CAUSES = (*(cause for cause in dict.fromkeys(_CAUSES.values()) if cause != OWN_CORES), NOT_TRACED)
"""What a client may be held up by. That its machine's cores were busy is nobody's doing."""

_ROUNDING_S = 1e-6
_LATE, _LATE_S = 0.05, 0.05
"""A round that ends later after the last answer, by this share of it and so many seconds (for a live
server may be busy), waited for somebody else."""


@dataclass(frozen=True)
class Window:
    """A round on the trace's clock, in seconds."""

    round: int
    from_s: float
    to_s: float


@dataclass(frozen=True)
class Member:
    """A client in a round.

    Attributes:
        client: its name.
        finished_s: from the round's beginning to its answer's arrival; the whole round if none came.
        answered: whether one came.
        seconds: by phase, until `finished_s`.
        until_s: when the last thing on its lane that began in this round ended, on the trace's clock.
    """

    client: str
    finished_s: float
    answered: bool
    seconds: Mapping[str, float]
    until_s: float


@dataclass(frozen=True)
class RoundTime:
    """Where a round's time went.

    Attributes:
        round: its number.
        duration_s: from the closing of the round before to its own.
        seconds: by phase along the critical path; they sum up to the duration.
        client: who held the round up; None when nothing on the trace tells.
        cause: one of CAUSES: where that client lost most against the median of the others; or OWN_CORES,
            and then nobody has held the round up.
        lost_s: by how much it finished later than the median of the others; of an unknown client, by how
            much the round ended later than the last answer.
        answered: whether its answer came in time.
        missing: other members on the trace whose answer did not come in time.
    """

    round: int
    duration_s: float
    seconds: Mapping[str, float]
    client: str | None
    cause: str
    lost_s: float = 0.0
    answered: bool = True
    missing: int = field(default=0)


def round_times(
    trace: TraceFile,
    rows: Sequence[Mapping[str, Any]],
    *,
    virtual_s: float | None,
    overlapping: bool,
    one_machine: bool = False,
) -> list[RoundTime]:
    """Follow the critical path of every round that is on the trace.

    Args:
        trace: of the run.
        rows: of metrics.parquet.
        virtual_s: when the run ended, on the trace's clock; None if it was live.
        overlapping: whether members work on through the rounds (policy `buffered`).
        one_machine: whether all clients share the cores of one machine, live.
    """
    lanes = {e.pid: e.args.name.partition(" (")[0] for e in trace.events if e.name == "process_name"}
    spans = _without_kept_back([e for e in trace.events if e.ph == "X" and e.pid in lanes])
    found = windows(trace, rows, virtual_s)
    by_round = _by_round(spans, found)
    networked = {span.pid for span in spans if span.args.round is not None}
    busy = busy_cores(spans) if one_machine else []
    times: list[RoundTime] = []
    for window in found:
        work = by_round[window.round]
        closing_s = sum(span.dur for span in work.pop(SERVER, []) if span.name == "CloseRound") / 1e6
        members = [
            _member(lanes[lane], on_lane, window, busy, overlapping=overlapping, networked=lane in networked)
            for lane, on_lane in work.items()
            if overlapping
            or lane not in networked
            or any(span.args.round == window.round for span in on_lane)
        ]
        whole_fleet = trace.extent.clients_traced == trace.extent.clients
        times.append(_judge(window, members, closing_s, whole_fleet=whole_fleet))
    return times


def windows(trace: TraceFile, rows: Sequence[Mapping[str, Any]], virtual_s: float | None) -> list[Window]:
    """Place the rounds on the trace's clock; those that it does not cover are left out."""
    spans = [e for e in trace.events if e.ph == "X"]
    ends = {row["round"]: row["elapsed_s"] for row in rows}
    begins: dict[int, float] = {}
    last_s = 0.0
    for span in spans:
        if span.args.round is not None:
            begins[span.args.round] = min(span.ts / 1e6, begins.get(span.args.round, math.inf))
            last_s = max(last_s, (span.ts + span.dur) / 1e6)
    before = {0: 0.0} | ends
    bounds = [begin_s - before[number - 1] for number, begin_s in begins.items() if number - 1 in before]
    if virtual_s is not None:
        bounds.append(virtual_s - rows[-1]["elapsed_s"])
    if not bounds:
        return []
    origin_s = min(bounds)  # no message is earlier than its round, no round later than the run's end
    first_s = min((span.ts / 1e6 for span in spans if span.pid != SERVER), default=0.0)
    from_s = max(origin_s, first_s)
    if not trace.extent.spans_left_out_at_the_end:
        last_s = math.inf
    found: list[Window] = []
    for number, end_s in ends.items():
        to_s = origin_s + end_s
        if from_s < to_s <= last_s:
            found.append(Window(number, from_s, to_s))
            from_s = to_s
    return found


def _without_kept_back(spans: Sequence[Event]) -> list[Event]:
    """Sort spans and leave out queues of messages that a device could not yet send.

    A device sends one message at a time, so when one waits on it the device is away.
    """

    def message(span: Event) -> tuple[int, int | None, int | None]:
        return span.pid, span.args.round, span.args.step

    sent = {(*message(span), round(span.ts)) for span in spans if span.name == "uplink"}
    kept = [
        span
        for span in spans
        if span.name != "queue"
        or span.args.round is None
        or (*message(span), round(span.ts + span.dur)) not in sent
    ]
    return sorted(kept, key=lambda span: (span.ts, span.dur))


def _by_round(spans: Sequence[Event], found: Sequence[Window]) -> dict[int, dict[int, list[Event]]]:
    """Sort spans by the rounds that they lie in, wholly or in part, and by lane."""
    by_round: dict[int, dict[int, list[Event]]] = {window.round: defaultdict(list) for window in found}
    ends = [window.to_s for window in found]
    for span in spans:
        for window in found[bisect_right(ends, span.ts / 1e6 + _ROUNDING_S) :]:
            if window.from_s >= (span.ts + span.dur) / 1e6 - _ROUNDING_S:
                break
            by_round[window.round][span.pid].append(span)
    return by_round


def _member(
    client: str,
    spans: Sequence[Event],
    window: Window,
    busy: Sequence[tuple[float, float]],
    *,
    overlapping: bool,
    networked: bool,
) -> Member:
    """Sum up a client's part in a round; where the network takes no time, the last work is the answer."""
    ends = [(span.ts + span.dur) / 1e6 for span in spans]
    answers = [
        end_s
        for span, end_s in zip(spans, ends, strict=True)
        if ((span.name == "uplink" and span.args.step is None) or not networked)
        and (overlapping or span.args.round in (window.round, None))
    ]
    answer_s = max(answers, default=float("inf"))
    answered = answer_s <= window.to_s + _ROUNDING_S
    end_s = min(answer_s, window.to_s)
    seconds = along(spans, window.from_s, end_s, busy)
    return Member(client, end_s - window.from_s, answered, seconds, max(ends))


def _judge(window: Window, members: Sequence[Member], closing_s: float, *, whole_fleet: bool) -> RoundTime:
    """Say who held a round up, and why."""
    duration_s = window.to_s - window.from_s
    answered = [member for member in members if member.answered]
    missing = [member for member in members if not member.answered]
    last = max(answered, key=lambda member: member.finished_s, default=None)
    idle_s = duration_s - closing_s - (last.finished_s if last else 0.0)
    if idle_s <= _LATE * duration_s + _LATE_S and last is not None:
        culprit: Member | None = last
    else:
        culprit = max(missing, key=lambda member: member.until_s, default=None)
    path = culprit or last
    seconds = dict(path.seconds) if path else {}
    rest_s = duration_s - (path.finished_s if path else 0.0)
    seconds[CLOSING] = min(closing_s, rest_s)
    seconds[WAITING] = seconds.get(WAITING, 0.0) + rest_s - seconds[CLOSING]
    if culprit is None:
        cause = ABSENT if whole_fleet else NOT_TRACED
        return RoundTime(
            window.round, duration_s, seconds, None, cause, idle_s if last else 0.0, answered=False
        )
    others = [member for member in members if member is not culprit]
    lost_s = culprit.finished_s - median(member.finished_s for member in others) if others else 0.0
    cause = _cause(culprit, [member for member in others if member.answered] or others)
    return RoundTime(
        window.round,
        duration_s,
        seconds,
        None if cause == OWN_CORES else culprit.client,
        cause,
        max(0.0, lost_s),
        culprit.answered,
        len([member for member in missing if member is not culprit]),
    )


def _cause(culprit: Member, others: Sequence[Member]) -> str:
    """Find where a member lost most against the median of the others."""

    def excess_s(cause: str) -> float:
        spent = [
            sum(s for phase, s in member.seconds.items() if _CAUSES[phase] == cause)
            for member in (culprit, *others)
        ]
        return spent[0] - (median(spent[1:]) if others else 0.0)

    return max(dict.fromkeys(_CAUSES.values()), key=excess_s)
