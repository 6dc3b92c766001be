"""Reads what runs and sweeps have left. A file that is missing or broken is told in one line."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from broker.errors import ReportError
from server_node.summary import Summary
from server_node.vocabulary.ledger import CONTROL, FLOWS, U_SHAPE_FLOWS
from sim.key_paths import flat

T = TypeVar("T")
Row = dict[str, Any]

_NAMES = (*FLOWS, CONTROL)
_WRITERS = "fedlite run and fedlite simulate write it"


class Details(msgspec.Struct, frozen=True):
    """Of a span: what a message was about. Of a lane: its name."""

    name: str = ""
    round: int | None = None
    step: int | None = None


class Event(msgspec.Struct, frozen=True):
    """Of a Chrome trace, times in microseconds; see sim.chrome_trace."""

    name: str
    ph: str
    pid: int
    ts: float = 0.0
    dur: float = 0.0
    args: Details = Details()


class Extent(msgspec.Struct, frozen=True):
    """How much is on the trace."""

    clients: int
    clients_traced: int
    spans_left_out_at_the_end: int


class TraceFile(msgspec.Struct, frozen=True):
    """Content of trace.json."""

    extent: Extent = msgspec.field(name="otherData")
    events: list[Event] = msgspec.field(name="traceEvents")


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        label: what the run is called in the report; no two have the same.
        folder: where it is.
        summary: its totals.
        scenario: the resolved scenario's leaves by key path.
        rows: of metrics.parquet, one a round.
        trace: None if there is no trace.json.
    """

    label: str
    folder: Path
    summary: Summary
    scenario: Row
    rows: list[Row]
    trace: TraceFile | None

    @property
    def clock(self) -> str:
        """What a second of this run is."""
        return "virtual" if self.summary["virtual_seconds"] is not None else "real"


@dataclass(frozen=True)
class Sweep:
    """One sweep folder.

    Attributes:
        folder: where it is.
        keys: key paths that were swept.
        rows: of sweep.parquet, one a point.
    """

    folder: Path
    keys: tuple[str, ...]
    rows: list[Row]


def read_all(folders: Sequence[Path]) -> tuple[list[Run], list[Sweep]]:
    """Read run and sweep folders, each kind in the order given.

    Raises:
        ReportError: a file is missing or cannot be read.
    """
    sweeps = [folder for folder in folders if (folder / "sweep.parquet").exists()]
    runs = [folder for folder in folders if folder not in sweeps]
    scenarios = [flat(_read(folder / "scenario.yaml", _yaml, _WRITERS)) for folder in runs]
    labels = _labels([str(scenario.get("name", "")) for scenario in scenarios], runs)
    return (
        [read_run(*each) for each in zip(runs, scenarios, labels, strict=True)],
        [read_sweep(folder) for folder in sweeps],
    )


def read_run(folder: Path, scenario: Row, label: str) -> Run:
    """Read the other files of a run folder.

    Raises:
        ReportError: a file is missing or cannot be read.
    """
    at_end = f"{_WRITERS} when the run ends"
    trace = folder / "trace.json"
    return Run(
        label=label,
        folder=folder,
        scenario=scenario,
        summary=_read(folder / "summary.json", _summary, at_end),
        rows=_read(folder / "metrics.parquet", _metrics, _WRITERS),
        trace=_read(trace, _decoder(TraceFile), at_end) if trace.exists() else None,
    )


def read_sweep(folder: Path) -> Sweep:
    """Read a sweep folder; the columns before `run` are those that were swept.

    Raises:
        ReportError: sweep.parquet cannot be read.
    """
    table = _read(folder / "sweep.parquet", pq.read_table, "fedlite sweep writes it")
    names = table.column_names
    if "run" not in names:
        raise ReportError(f"{folder / 'sweep.parquet'}: has no column 'run'; fedlite sweep writes one")
    return Sweep(folder, tuple(names[: names.index("run")]), table.to_pylist())


def _labels(names: list[str], folders: list[Path]) -> list[str]:
    """Take the shortest kind of name that tells the runs apart."""
    kinds = (names, [folder.resolve().name for folder in folders], [str(folder) for folder in folders])
    return next((kind for kind in kinds if len(set(kind)) == len(kind)), kinds[-1])


def _read(file: Path, read: Callable[[Path], T], writers: str) -> T:
    try:
        return read(file)
    except FileNotFoundError as error:
        missing = f"{file}: missing" if file.parent.is_dir() else f"no such folder: {file.parent}"
        raise ReportError(f"{missing}; {writers}") from error
    except (OSError, ValueError, KeyError, pa.ArrowException, yaml.YAMLError, msgspec.MsgspecError) as error:
        why = " ".join(str(error).split())
        raise ReportError(f"{file}: cannot be read ({why}); {writers}") from error


def _decoder(kind: type[T]) -> Callable[[Path], T]:
    return lambda file: msgspec.json.decode(file.read_bytes(), type=kind)


def _summary(file: Path) -> Summary:
    summary = _decoder(Summary)(file)
    lacking = [name for name in _NAMES if name not in summary["bytes"]]
    if lacking:
        raise ValueError(f"no bytes of {lacking[0]}")
    return summary


def _yaml(file: Path) -> Any:
    tree = yaml.safe_load(file.read_bytes())
    if not isinstance(tree, dict):
        raise ValueError("no mapping")  # noqa: TRY004  whoever wrote the file made a mistake, not the caller
    return tree


def _metrics(file: Path) -> list[Row]:
    columns = ["round", "metric", "elapsed_s", *(f"{name}_wire_bytes" for name in _NAMES)]
    table = pq.read_table(file)
    lacking = sorted(set(columns) - set(table.column_names))
    if lacking:
        raise ValueError(f"no column {json.dumps(lacking[0])}")
    of_features = [f"{name}_wire_bytes" for name in U_SHAPE_FLOWS]
    columns += [name for name in of_features if name in table.column_names]
    rows: list[Row] = table.select(columns).to_pylist()
    if not rows:
        raise ValueError("no round has ended")
    return rows
