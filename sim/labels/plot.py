"""Draws who has what: a bar for each client, as high as it has labels, with a colour for each class."""

import io
from html import escape
from pathlib import Path

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure

from broker.errors import ReportError
from broker.files import atomic_write, writing
from sim.labels.counts import OTHERS, LabelCounts

KINDS = (".html", ".svg", ".png", ".pdf")
NAMED = 40
"""So many clients have their names below their bars."""
_GREY = "#BBBBBB"


def check_kind(file: Path) -> None:
    """Refuse a file whose name does not say what kind of picture it is to be.

    Raises:
        ReportError: it ends in nothing of KINDS.
    """
    if file.suffix.lower() not in KINDS:
        raise ReportError(f"{file}: its name must end in {', '.join(KINDS[:-1])} or {KINDS[-1]}")


def write_plot(file: Path, title: str, counts: LabelCounts) -> None:
    """Write the plot; the same counts give the same bytes.

    Raises:
        ReportError: see check_kind.
        RunError: the file cannot be written.
    """
    check_kind(file)
    kind = file.suffix.lower().removeprefix(".")
    with rc_context({"svg.hashsalt": "fedlite"}):
        figure, drawn = _draw(title, counts), io.BytesIO()
        form = "svg" if kind == "html" else kind
        figure.savefig(
            drawn, format=form, metadata={"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(form)
        )
    content = drawn.getvalue()
    if kind == "html":
        picture = content.decode().partition("<svg")
        content = (
            f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(title)}</title>"
            f"<body>{''.join(picture[1:])}</body></html>\n"
        ).encode()
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as part:
            part.write_bytes(content)


def _draw(title: str, counts: LabelCounts) -> Figure:
    clients = len(counts.clients)
    figure = Figure(figsize=(min(6 + clients / 8, 16), 4.8), layout="constrained")
    axes = figure.subplots()
    edges, floor = np.arange(clients + 1) - 0.5, np.zeros(clients)
    for number, (label, heights) in enumerate(zip(counts.labels, counts.table.T, strict=True)):
        colour = _GREY if label == OTHERS else colormaps["tab20"](number % 20)
        axes.stairs(floor + heights, edges, baseline=floor, fill=True, color=colour, label=label)
        floor = floor + heights
    if clients <= NAMED:
        axes.set_xticks(range(clients), list(counts.clients), rotation=90)
    axes.set_xlim(-0.6, clients - 0.4)
    are_rows = int(counts.table.sum()) == int(counts.samples.sum())
    axes.set(title=title, xlabel="client", ylabel="samples" if are_rows else "labels")
    if len(counts.labels) > 1:
        axes.legend(title="class", fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), reverse=True)
    return figure
