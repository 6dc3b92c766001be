"""Draws a trace: rates, latency and loss over time. Needs matplotlib."""

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from sim.network.links.traces import Trace

SETTINGS: Any = {"font.size": 8, "svg.hashsalt": "fedlite", "svg.fonttype": "path"}
STROKE: Any = {"linewidth": 0.9, "color": "#0b6e99"}
LINES = {
    "uplink_kbps": ("up, Mbit/s", 1e-3),
    "downlink_kbps": ("down, Mbit/s", 1e-3),
    "latency_ms": ("latency, ms", 1.0),
    "loss": ("loss, %", 100.0),
}


def draw(trace: Trace, title: str, file: Path) -> None:
    """Draw a trace, a panel for each of its columns, to a file whose suffix says its form.

    Args:
        trace: what is drawn.
        title: stands above it.
        file: .svg, .png or .pdf.
    """
    said = [name for name in LINES if any(getattr(state, name) is not None for state in trace.states)]
    edges_s = [*trace.times_s, trace.length_s]
    with rc_context(SETTINGS):
        figure = Figure(figsize=(6.5, 0.4 + 1.1 * len(said)), layout="constrained")
        panels = figure.subplots(len(said), 1, sharex=True, squeeze=False)[:, 0]
        for panel, name in zip(panels, said, strict=True):
            label, factor = LINES[name]
            values = [getattr(state, name) for state in trace.states]
            panel.stairs(
                [factor * (value or 0.0) for value in values], edges_s, linewidth=0.9, color="#0b6e99"
            )
            panel.set_ylabel(label)
            panel.set_ylim(bottom=0)
            panel.set_xlim(0, trace.length_s)
            panel.grid(alpha=0.25)
        panels[0].set_title(title, loc="left")
        panels[-1].set_xlabel("seconds")
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None, dpi=150)
