"""Tells in the terminal who has what."""

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.table import Table

from sim.labels.counts import OTHERS, LabelCounts

SHOWN = 20
"""Clients that have a line of their own."""


def tell_counts(counts: LabelCounts, *, rows: int) -> None:
    """Print a line for each of the first clients, and what all of them have together.

    Args:
        counts: of the clients.
        rows: of the training data.
    """
    has_classes = bool(counts.classes.any())
    table = Table("client", box=None)
    for name in ("samples", *(("classes", "commonest", "share") if has_classes else ())):
        table.add_column(name, justify="right")
    for number, client in enumerate(counts.clients[:SHOWN]):
        cells = [f"{counts.samples[number]:,}"]
        if has_classes:
            mine = counts.table[number, : len(counts.labels) - (counts.labels[-1] == OTHERS)]
            best, whole = int(mine.argmax()), int(counts.table[number].sum())
            cells += [str(counts.classes[number]), counts.labels[best], f"{mine[best] / max(whole, 1):.0%}"]
        table.add_row(client, *cells)
    Console().print(table)
    if len(counts.clients) > SHOWN:
        typer.echo(f"... and {len(counts.clients) - SHOWN} more")
    typer.echo(
        f"\n{len(counts.clients)} clients have {counts.samples.sum():,} of {rows:,} rows: "
        f"{_spread(counts.samples)} each" + (f", {_spread(counts.classes)} classes" if has_classes else "")
    )


def _spread(values: npt.NDArray[np.int64]) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,} (median {np.median(values):,.0f})"
