"""The trace file: its lanes, its bounds, and its format."""

import json
from pathlib import Path
from typing import Any

from sim.chrome_trace import SERVER, Trace


def written(trace: Trace, tmp_path: Path) -> dict[str, Any]:
    trace.write(tmp_path / "trace.json")
    content: dict[str, Any] = json.loads((tmp_path / "trace.json").read_text())
    return content


def test_spans_are_complete_events_in_microseconds(tmp_path: Path) -> None:
    trace = Trace(["c0"])
    trace.span(SERVER, "tail", 1.0, 1.25, round=3)
    server, client, span = written(trace, tmp_path)["traceEvents"]
    assert (server["ph"], server["tid"], server["args"]) == ("M", 0, {"name": "server"})
    assert (client["ph"], client["tid"], client["args"]) == ("M", 1, {"name": "c0"})
    assert span == {
        "name": "tail", "ph": "X", "pid": 0, "tid": 0, "ts": 1e6, "dur": 2.5e5, "args": {"round": 3},
    }  # fmt: skip


def test_what_takes_no_time_is_not_shown(tmp_path: Path) -> None:
    trace = Trace([])
    trace.span(SERVER, "tail", 1.0, 1.0)
    assert written(trace, tmp_path)["otherData"]["spans"] == 0


def test_large_fleets_and_long_runs_are_cut_off_and_the_file_says_so(tmp_path: Path) -> None:
    trace = Trace(["c0", "c1", "c2"], max_clients=2, max_spans=3)
    assert [trace.lane(client) for client in ("c0", "c1", "c2")] == [1, 2, None]
    for number in range(5):
        trace.span(SERVER, "tail", number, number + 0.5)
    assert written(trace, tmp_path)["otherData"] == {
        "clients": 3, "clients_traced": 2, "spans": 3, "spans_left_out_at_the_end": 2,
    }  # fmt: skip
