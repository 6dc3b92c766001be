"""What was on a client's lane, moment by moment, and what it waited for when nothing was."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence

from sim.chrome_trace import SERVER
from sim.report.runs import Event

WAITING, CLOSING = "waiting", "closing"
PHASES = {
    "compute": "compute",
    "train": "compute",  # FedAvg: the whole model, there and back
    "top": "compute",  # a U-shape: the last layers, there and back
    "encode": "encode",
    "uplink": "uplink",
    "queue": "queue",
    "tail": "tail",
    "downlink": "downlink",
    "decode": "decode + backward",
    "backward": "decode + backward",
}
"""What a span's name is called in the report; the order is that of a step."""

OWN_CORES = "waiting for a core"
"""Phase, and cause: the machine that runs all clients was busy with others when this one's turn had come."""

_ON_A_CORE = ("compute", "train", "encode", "decode", "backward")
"""Spans that need a core of a client's machine."""


def busy_cores(spans: Sequence[Event]) -> list[tuple[float, float]]:
    """Give the times in which any client was on a core, as intervals that do not touch, in seconds."""
    busy: list[tuple[float, float]] = []
    for span in spans:
        if span.pid == SERVER or span.name not in _ON_A_CORE:
            continue
        from_s, to_s = span.ts / 1e6, (span.ts + span.dur) / 1e6
        if busy and from_s <= busy[-1][1]:
            busy[-1] = (busy[-1][0], max(busy[-1][1], to_s))
        else:
            busy.append((from_s, to_s))
    return busy


def along(
    spans: Sequence[Event], from_s: float, to_s: float, busy: Sequence[tuple[float, float]] = ()
) -> dict[str, float]:
    """Walk along a lane from one moment to another: seconds by phase, every moment counted once.

    A gap is waiting; as far as others were on the cores of the same machine, it is waiting for a core.
    """
    seconds: dict[str, float] = defaultdict(float)
    now_s = from_s

    def wait(until_s: float) -> None:
        others_s = _overlap(busy, now_s, until_s)
        seconds[OWN_CORES] += others_s
        seconds[WAITING] += until_s - now_s - others_s

    for span in spans:
        begin_s, end_s = max(span.ts / 1e6, now_s), min((span.ts + span.dur) / 1e6, to_s)
        if end_s > begin_s:
            seconds[PHASES.get(span.name, WAITING)] += end_s - begin_s
            wait(begin_s)
            now_s = end_s
    wait(max(now_s, to_s))
    return {phase: spent_s for phase, spent_s in seconds.items() if spent_s or phase == WAITING}


def _overlap(intervals: Sequence[tuple[float, float]], from_s: float, to_s: float) -> float:
    """Give how much of a time lies in intervals, which are in order and do not touch."""
    total_s = 0.0
    for place in range(bisect_right(intervals, from_s, key=lambda each: each[1]), len(intervals)):
        begin_s, end_s = intervals[place]
        if begin_s >= to_s:
            break
        total_s += min(end_s, to_s) - max(begin_s, from_s)
    return total_s
