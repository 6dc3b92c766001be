"""Events as trackers are told them, with made numbers."""

from server_node.trackers.events import Event, ended

BEGIN = {
    "event": "begin", "run": "r", "mode": "live", "seconds": "wall", "metric": "accuracy", "rounds_done": 0,
    "settings": {"seed": 1},
}  # fmt: skip
END = ended("complete")


def a_round(number: int, loss: float) -> Event:
    flows = ("activations_up", "gradient_down", "head_update_up", "head_state_down", "control")
    return {
        "event": "round", "round": number, "loss": loss, "metric": None, "elapsed_s": float(number),
        "clients": 3, "online": 4, "rejected": 0, "discarded_late": 0, "quantization_error": 0.5,
        **{f"{flow}_wire_bytes": 10 * number for flow in flows},
    }  # fmt: skip
