"""Pages of a small run, for tests."""

from typing import Any

from server_node.board.pages import ClientLine, RunPage

WIRE_BYTES = {"activations_up": 2000, "head_update_up": 1000, "gradient_down": 4000, "control": 7}


def run_page(**changes: Any) -> RunPage:
    """Give the page of a run in its third round."""
    fields: dict[str, Any] = {
        "run": "r",
        "phase": "running",
        "reason": "",
        "round": 3,
        "rounds": 10,
        "metric_name": "accuracy",
        "metric": None,
        "best": None,
        "loss": 0.5,
        "online": 2,
        "clients": 3,
        "elapsed_s": 4.5,
        "steps": 12,
        "wire_bytes": WIRE_BYTES,
        "watch_bytes": 99,
        "rejected": 0,
        "duplicates": 0,
        "late": 0,
    }
    return RunPage(**{**fields, **changes})


def client(name: str, **changes: Any) -> ClientLine:
    """Give the line of a client."""
    fields: dict[str, Any] = {
        "status": "idle",
        "device": "raspberry-pi-4",
        "link": "lte",
        "seen": 1_790_000_000,
        "samples": 400,
        "batches": 12,
        "refused": 0,
        "answer_s": 0.25,
    }
    return ClientLine(client=name, **{**fields, **changes})
