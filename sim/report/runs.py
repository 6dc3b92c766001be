"""Reads what runs and sweeps have left. A file that is missing or broken is told in one line."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from broker.errors import ReportError
from server_node.ownership import RESULTS
from server_node.summary import Metric, Summary, total_wire_bytes
from server_node.vocabulary.ledger import CONTROL, FLOWS, U_SHAPE_FLOWS
from sim.key_paths import flat, value_at
from sim.report.groups import groups_of
from sim.report.unfinished import as_swept, how_far, metric_so_far, summary_so_far
from sim.statistics.trials import higher_is_better

T = TypeVar("T")
Row = dict[str, Any]

_NAMES = (*FLOWS, CONTROL)
UNFINISHED = ".unfinished"
"""The end of the name of a point's hidden folder."""
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
        label: name on the page, different from those of the other runs.
        folder: where it is.
        summary: content of summary.json; of a run that is not over what its rounds tell.
        scenario: the resolved scenario's leaves by key path.
        groups: what kind of client each is, by its name, such as "pi-zero-2w, 3g".
        rows: of metrics.parquet, one a round.
        trace: None if there is no trace.json.
        unfinished: of a run that is not over how far it is; None of others.
    """

    label: str
    folder: Path
    summary: Summary
    scenario: Row
    groups: Mapping[str, str]
    rows: list[Row]
    trace: TraceFile | None
    unfinished: str | None = None

    @property
    def clock(self) -> str:
        """What a second of this run is."""
        return "virtual" if self.summary["virtual_seconds"] is not None else "real"

    @property
    def takes_time(self) -> bool:
        """Whether a second can pass: not in virtual time if links and devices take none."""
        return self.summary["virtual_seconds"] != 0

    @property
    def seed(self) -> int:
        """Its seed."""
        return self.summary["seed"]

    @property
    def higher_is_better(self) -> bool:
        """Which way its metric is better."""
        return higher_is_better(self.summary["metric"].get("better"))

    @property
    def one_machine(self) -> bool:
        """Whether it ran live with all clients on one machine: `fedlite run` leaves their logs."""
        return self.clock == "real" and (self.folder / "logs").is_dir()

    @property
    def total_bytes(self) -> int:
        """Bytes of all flows, both directions."""
        return total_wire_bytes(self.summary)


@dataclass(frozen=True)
class Unfinished:
    """A point of a sweep that is not over."""

    keys: Row
    seed: int
    run: str
    rounds: list[Row]
    metric: Metric


@dataclass(frozen=True)
class Sweep:
    """One sweep folder.

    Attributes:
        folder: where it is.
        keys: key paths that were swept.
        rows: of sweep.parquet, one a point.
        rounds: of each point's metrics.parquet, by the name of its run.
        unfinished: points that were begun.
    """

    folder: Path
    keys: tuple[str, ...]
    rows: list[Row]
    rounds: Mapping[str, list[Row]] = field(default_factory=dict)
    unfinished: Sequence[Unfinished] = ()


def read_all(folders: Sequence[Path]) -> tuple[list[Run], list[Sweep]]:
    """Read run and sweep folders, each kind in the order given.

    Raises:
        ReportError: a file is missing or cannot be read.
    """
    sweeps = [folder for folder in folders if (folder / "sweep.parquet").exists()]
    runs = [folder for folder in folders if folder not in sweeps]
    _refuse_other_folders(runs)
    scenarios = [_read(folder / "scenario.yaml", _yaml, _WRITERS) for folder in runs]
    labels = _labels([str(scenario.get("name", "")) for scenario in scenarios], runs)
    return (
        [read_run(*each) for each in zip(runs, scenarios, labels, strict=True)],
        [read_sweep(folder) for folder in sweeps],
    )


def _refuse_other_folders(folders: Sequence[Path]) -> None:
    """Refuse folders without a run that have something else.

    Raises:
        ReportError: a folder has a study, or a sweep of which nothing is over.
    """
    for folder in folders:
        results = folder / RESULTS["study"]
        if results.exists():
            raise ReportError(
                f"{folder} has a study, whose tables are in {results}; name some of its run folders instead"
            )
        if not (folder / "scenario.yaml").exists() and any(folder.glob(f".*{UNFINISHED}")):
            raise ReportError(f"{folder}: no run of this sweep or study is over yet; try again when one is")


def read_run(folder: Path, scenario: Row, label: str) -> Run:
    """Read the other files of a run folder.

    Args:
        folder: of the run.
        scenario: the resolved one, as a tree.
        label: the run's name on the page.

    Raises:
        ReportError: a file is missing or cannot be read.
    """
    at_end = f"{_WRITERS} when the run ends"
    trace, summary = folder / "trace.json", folder / "summary.json"
    rows = _read(folder / "metrics.parquet", _metrics, f"{_WRITERS}, first after an evaluation")
    over = summary.exists()
    return Run(
        label=label,
        folder=folder,
        scenario=flat(scenario),
        groups=groups_of(scenario),
        summary=_read(summary, _summary, at_end) if over else summary_so_far(folder, scenario, rows),
        rows=rows,
        trace=_read(trace, _decoder(TraceFile), at_end) if trace.exists() else None,
        unfinished=None if over else how_far(rows, scenario),
    )


def read_sweep(folder: Path) -> Sweep:
    """Read a sweep folder; the columns before `run` are those that were swept.

    Raises:
        ReportError: a file cannot be read.
    """
    table = _read(folder / "sweep.parquet", pq.read_table, "fedlite sweep writes it")
    names = table.column_names
    if "run" not in names:
        raise ReportError(f"{folder / 'sweep.parquet'}: has no column 'run'; fedlite sweep writes one")
    keys, rows = tuple(names[: names.index("run")]), table.to_pylist()
    files = {row["run"]: folder / row["run"] / "metrics.parquet" for row in rows}
    rounds = {run: _read(file, _metrics, _WRITERS) for run, file in files.items() if file.exists()}
    known = {key: list({str(row[key]): row[key] for row in rows}.values()) for key in keys}
    return Sweep(folder, keys, rows, rounds, list(_unfinished(folder, known)))


def _unfinished(folder: Path, known: Mapping[str, Sequence[object]]) -> Iterator[Unfinished]:
    """Read the points that are not over; of one that cannot be read nothing is known yet."""
    for there in sorted(folder.glob(f".*{UNFINISHED}")):
        with suppress(ReportError):
            tree = _read(there / "scenario.yaml", _yaml, _WRITERS)
            rows = _read(there / "metrics.parquet", _metrics, _WRITERS)
            values = {key: as_swept(value_at(tree, key), swept) for key, swept in known.items()}
            metric = metric_so_far(there / "metrics.parquet", rows)
            name = there.name.strip(".").removesuffix(UNFINISHED)
            yield Unfinished(values, tree.get("seed", 0), name, rows, metric)


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
    columns += [name for name in table.column_names if name in of_features or name.startswith("rung_")]
    rows: list[Row] = table.select(columns).to_pylist()
    if not rows:
        raise ValueError("no round has ended")
    return rows
