"""What the folder of a run that is not over tells: how far it is, and what its rounds add up to."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from server_node.summary import FlowRatio, Metric, Summary
from server_node.vocabulary.ledger import CONTROL, FLOWS, U_SHAPE_FLOWS
from sim.key_paths import flat
from sim.report.groups import groups_of
from sim.statistics.setting_words import parsed
from sim.statistics.trials import METRIC


def as_swept(resolved: object, swept: Sequence[object]) -> object:
    """Give the swept value that a resolved scenario's comes from: a mapping has got its defaults there.

    Args:
        resolved: the value in the scenario.
        swept: values of the key in the table of the sweep, where mappings are JSON text.

    Returns:
        The value of the scenario, if no swept one fits.
    """
    if not isinstance(resolved, Mapping):
        return next((value for value in swept if value == resolved), resolved)  # 64 rather than 64.0
    for value in swept:
        written = parsed(value)
        if isinstance(written, Mapping) and written.items() <= resolved.items():
            return value
    return dict(resolved)


def how_far(rows: Sequence[Mapping[str, Any]], scenario: Mapping[str, Any]) -> str:
    """Say how far a run is that is not over."""
    rounds = flat(scenario).get("training.rounds", "?")
    return f"unfinished: {rows[-1]['round'] if rows else 0} of {rounds} rounds"


def metric_so_far(metrics: Path, rows: Sequence[Mapping[str, Any]]) -> Metric:
    """Say what a run evaluates, and what came of it so far.

    Args:
        metrics: its metrics.parquet; one of an earlier version does not name the metric.
        rows: of it.
    """
    named = pq.read_schema(metrics).metadata or {}
    scores = [row["metric"] for row in rows if row["metric"] is not None]
    return {
        "name": named.get(b"metric", METRIC.encode()).decode(),
        "better": "lower" if named.get(b"better") == b"lower" else "higher",
        "final": scores[-1] if scores else None,
        "best": None,
    }


def summary_so_far(folder: Path, scenario: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Summary:
    """Make of rounds what a summary would say; bytes as float32 are not known."""
    last = rows[-1]
    unknown: FlowRatio = {"wire_vs_float32": None}
    virtual = _is_simulated(folder / "checkpoint.safetensors")
    return {
        "scenario": str(scenario.get("name", "")),
        "task": str(flat(scenario).get("task.name", "")),
        "mode": "simulate" if virtual else "live",
        "seed": scenario.get("seed", 0),
        "reason": "unfinished",
        "rounds": len(rows),
        "metric": metric_so_far(folder / "metrics.parquet", rows),
        "clients": max(1, len(groups_of(scenario))),
        "client_steps": 0,
        "client_steps_per_second": 0.0,
        "wall_seconds": 0.0,
        "training_seconds": 0.0,
        "virtual_seconds": last["elapsed_s"] if virtual else None,
        "bytes": {
            name: {"payload": 0, "wire": last[f"{name}_wire_bytes"]}
            for name in (*FLOWS, *U_SHAPE_FLOWS, CONTROL)
            if f"{name}_wire_bytes" in last
        },
        "ratio": {
            "activations_up": unknown,
            "gradient_down": unknown,
            "head_update_up": unknown,
            "head_state_down": unknown,
            "total_both_directions": None,
        },
        "messages": {
            "sent": 0,
            "received": 0,
            "rejected": 0,
            "rejected_by_reason": {},
            "duplicates": 0,
            "discarded_late": 0,
        },
    }


def _is_simulated(checkpoint: Path) -> bool:
    """Say whether a checkpoint is that of a simulated run."""
    try:
        with safe_open(checkpoint, "np") as saved:
            return "simulated" in (saved.metadata() or {})
    except (OSError, SafetensorError):
        return False
