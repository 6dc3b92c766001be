"""Writes a trace as CSV."""

import csv
import io
from collections.abc import Iterable

from scenarios.errors import ScenarioError
from scenarios.schema.links import LinkState
from sim.network.links.importing.generators import Row


def as_csv(rows: Iterable[Row]) -> str:
    """Give a trace as text: the column time_s, and those that it says something in.

    Raises:
        ScenarioError: there are fewer than two rows.
    """
    kept = list(rows)
    if len(kept) < 2:  # noqa: PLR2004
        raise ScenarioError("a trace needs at least two rows")
    columns = [
        name for name in LinkState.model_fields if any(getattr(row.state, name) is not None for row in kept)
    ]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["time_s", *columns])
    for row in kept:
        values = [getattr(row.state, name) for name in columns]
        table.writerow([f"{value:g}" if value is not None else "" for value in (row.time_s, *values)])
    return text.getvalue()
