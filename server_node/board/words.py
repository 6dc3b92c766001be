"""A run in one line, for a screen or a log."""

from broker.cli.wording import format_bytes
from server_node.board.pages import RunPage
from server_node.vocabulary.ledger import DOWN, UP

TELL_SLOWEST_S = 1.0
"""Nobody is called slow who has been waited for less long."""


def run_line(run: RunPage, at: float) -> str:
    """Say how far a run is.

    Args:
        run: its page.
        at: the time, in seconds of the Unix epoch.
    """
    online = f"{run.online} of {run.clients} online"
    if run.phase == "gathering":
        return f"gathering: {online}"
    parts = [f"round {run.round} of {run.rounds}"]
    if run.phase != "running":
        parts.insert(0, f"{run.phase}: {run.reason}" if run.reason else run.phase)
    if run.loss is not None:
        parts.append(f"loss {run.loss:.3f}")
    if run.metric is not None:
        parts.append(f"{run.metric_name} {run.metric:.3f}")
    parts.append(online)
    up, down = (format_bytes(sum(run.wire_bytes.get(flow, 0) for flow in flows)) for flows in (UP, DOWN))
    parts.append(f"up {up}, down {down}")
    if run.rejected:
        parts.append(f"{run.rejected} refused")
    slow_s = 0.0 if run.slowest is None else at - run.slowest.since
    if run.slowest is not None and slow_s >= TELL_SLOWEST_S:
        parts.append(f"slowest {run.slowest.client}: {slow_s:.1f} s, {run.slowest.why}")
    return "  ".join(parts)
