"""The folder that a sweep leaves: a run folder per point, and one table of them all.

RUN/            run folder of a point, named after the swept values and a digest of scenario and mode
sweep.parquet   a row per point, in the grid's order: swept keys, run, what summary.json says, error
sweep.csv       the same
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from broker.files import atomic_write, writing
from scenarios.loading.grid import GridPoint
from server_node.summary import Summary
from sim.key_paths import flat
from sim.statistics.setting_words import compact, short_keys

Row = dict[str, Any]

NAME_CHARACTERS = 80


class Mode(StrEnum):
    """How each point is run."""

    SIMULATE = "simulate"
    TIMING_ONLY = "timing-only"


def run_name(values: Mapping[str, object], mode: Mode, scenario_yaml: str) -> str:
    """Name a point's run folder: swept values, then a digest that no other scenario or mode has."""
    keys = short_keys(values)
    text = ",".join(f"{keys[path]}={compact(value)}" for path, value in values.items())
    digest = hashlib.blake2b(f"{mode}\n{scenario_yaml}".encode(), digest_size=4)
    readable = re.sub(r"[^A-Za-z0-9.,=+-]+", "_", text)[:NAME_CHARACTERS]
    return f"{readable}-{digest.hexdigest()}"


def finished(folder: Path, scenario_yaml: str) -> Summary | None:
    """Give the summary of a run folder, if it holds a finished run of this very scenario."""
    try:
        if (folder / "scenario.yaml").read_text() != scenario_yaml:
            return None
        summary: Summary = json.loads((folder / "summary.json").read_text())
    except (OSError, ValueError):
        return None
    return summary


def write_run_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a run folder whole or not at all, in place of what is there.

    Raises:
        RunError: it cannot be written.
    """
    part = folder.with_name(f".{folder.name}.part")
    for stale in (part, folder):
        shutil.rmtree(stale, ignore_errors=True)
    with writing(folder):
        part.mkdir(parents=True)
        for name, content in files.items():
            (part / name).write_bytes(content)
        part.rename(folder)


def row_of(point: GridPoint, name: str, summary: Summary | None, error: str | None = None) -> Row:
    """Make a point's row; a swept key's column shows what was swept, whatever the summary calls so."""
    return {**point.values, "run": name, **flat(summary or {}), **point.values, "error": error}


def write_table(folder: Path, rows: Sequence[Row], swept: Iterable[str]) -> None:
    """Write sweep.parquet and sweep.csv, each in one step.

    Args:
        folder: the sweep's.
        rows: in the grid's order.
        swept: key paths, whose values may be of any kind.

    Raises:
        RunError: they cannot be written.
    """
    columns: dict[str, list[Any]] = {name: [] for row in rows for name in row}
    columns["error"] = columns.pop("error", [])  # the last one
    for name, values in columns.items():
        values += [row.get(name) for row in rows]
    columns |= {key_path: _of_one_type(columns[key_path]) for key_path in swept}
    table = pa.table(columns)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, write in {"sweep.parquet": pq.write_table, "sweep.csv": pa.csv.write_csv}.items():
            with atomic_write(folder / name) as part:
                write(table, part)


def _of_one_type(values: list[Any]) -> list[Any]:
    """Leave numbers, texts or booleans as they are; make text of mappings, lists and mixtures."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} or kinds in ({str}, {bool}):
        return values
    return [
        value
        if value is None or isinstance(value, str)
        else json.dumps(value, separators=(",", ":"), default=str)
        for value in values
    ]
