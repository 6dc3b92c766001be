"""The timeline of a run as a Chrome trace, to be opened in ui.perfetto.dev or chrome://tracing.

One lane for the server and one for each client: compute, encode, queue, uplink, tail, downlink, decode,
backward. Spans are in seconds since the run began; they come from virtual time, or from sim.live.join_trace.
Large fleets and long runs are cut off: `otherData` in the file says how much is in it.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from broker.machine.event_log import MAX_CLIENTS

SERVER = 0
"""Lane of the server."""


class Trace:
    """Collects spans and writes them.

    Args:
        clients: names of the fleet, in its order.
        max_clients: only the first so many have a lane.
        max_spans: later spans are left out.

    Attributes:
        left_out: spans above max_spans.
    """

    def __init__(
        self, clients: Sequence[str], *, max_clients: int = MAX_CLIENTS, max_spans: int = 100_000
    ) -> None:
        self._fleet_size = len(clients)
        self._lanes = {client: lane for lane, client in enumerate(clients[:max_clients], SERVER + 1)}
        self._max_spans = max_spans
        self._spans: list[dict[str, Any]] = []
        self.left_out = 0

    def lane(self, client: str) -> int | None:
        """Give a client's lane; None when it has none."""
        return self._lanes.get(client)

    def span(self, lane: int, name: str, from_s: float, to_s: float, **details: int) -> None:
        """Add a span to a lane, unless it takes no time."""
        if to_s <= from_s:
            return
        if len(self._spans) >= self._max_spans:
            self.left_out += 1
            return
        times = {"ts": _microseconds(from_s), "dur": _microseconds(to_s - from_s)}
        self._spans.append({"name": name, "ph": "X", "pid": 0, "tid": lane, **times, "args": details})

    def write(self, file: Path) -> None:
        """Write the trace; the same spans give the same bytes."""
        names = {SERVER: "server"} | {lane: client for client, lane in self._lanes.items()}
        lanes = [
            {"name": "thread_name", "ph": "M", "pid": 0, "tid": lane, "args": {"name": name}}
            for lane, name in names.items()
        ]
        extent = {
            "clients": self._fleet_size,
            "clients_traced": len(self._lanes),
            "spans": len(self._spans),
            "spans_left_out_at_the_end": self.left_out,
        }
        lines = [json.dumps(event, separators=(",", ":")) for event in (*lanes, *self._spans)]
        head = json.dumps({"displayTimeUnit": "ms", "otherData": extent})[:-1]
        file.write_text(f'{head}, "traceEvents": [\n' + ",\n".join(lines) + "\n]}\n", encoding="utf-8")


def _microseconds(seconds: float) -> float:
    return round(seconds * 1e6, 3)
