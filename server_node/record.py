"""The folder that a run leaves: what ran, where, and what came out.

scenario.yaml      the resolved scenario
environment.json   versions, machine, incarnation
metrics.parquet    one row a round
summary.json       totals, see server_node.summary
model.safetensors  head and tail at the end

A simulated run and `fedlite run` add trace.json. What an earlier run left of the last three and of the trace
is removed at the start: a run that fails must not be taken for the one before it.
"""

import json
import logging
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from broker.errors import RunError
from broker.files import atomic_write, writing
from scenarios.loading.load import dump_resolved
from scenarios.schema.scenario import Scenario
from server_node.checkpoint import save_model
from server_node.summary import Better, EnergyDrawn, Summary, best_of, bytes_of, links_of, ratios_of, rungs_of
from server_node.trackers.events import began
from server_node.vocabulary.ledger import Ledger
from server_node.vocabulary.reports import RoundReport

log = logging.getLogger(__name__)

RESULTS = ("metrics.parquet", "summary.json", "model.safetensors", "trace.json")
"""Files that say what a run came to."""

_PACKAGES = ("aiomqtt", "amqtt", "msgpack", "numpy", "paho-mqtt", "torch")


class RunFolder:
    """Writes one run's folder.

    Args:
        folder: made if missing.
        scenario: what runs.
        mode: "live" or "simulate".
        metric: name of the task's metric.
        ledger: counted by the state machine.
        clock: the run's own seconds; virtual ones when it is simulated.
        rows: of the rounds before, when a checkpoint was restored.

    Attributes:
        rows: one a round, as in metrics.parquet.
        better: which values of the metric are better.
        checkpoint_error: why the last checkpoint could not be written, for the summary; None if it could.
        damaged: what was wrong with checkpoints that could not be gone on from, for the summary.
        measures: gives further columns of a round's row, when it ends.
        links: gives the bytes on the devices' links until now, up and down; those of the ledger by default.
        wall_s_before: seconds that earlier processes have spent on a simulated run, for the summary.

    Raises:
        RunError: the folder cannot be written to, at the start or at the end; in between the run goes on.
    """

    def __init__(
        self,
        folder: Path,
        scenario: Scenario,
        *,
        mode: str,
        metric: str,
        ledger: Ledger,
        clock: Callable[[], float] = time.monotonic,
        rows: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.folder = folder
        self._scenario = scenario
        self._mode = mode
        self._metric = metric
        self.better: Better = "higher"
        self._ledger = ledger
        self.rows = list(rows)
        self._clock = clock
        self._started = time.monotonic()
        self._seconds_before = self.rows[-1]["elapsed_s"] if self.rows else 0.0
        self.checkpoint_error: str | None = None
        self.damaged: tuple[str, ...] = ()
        self.measures: Callable[[], Mapping[str, float]] = dict
        self.links: Callable[[], tuple[int, int]] = lambda: (ledger.links_up, ledger.links_down)
        self.wall_s_before = 0.0
        self._is_on_disk = True
        self.start_training_clock()
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for name in RESULTS:
                (folder / name).unlink(missing_ok=True)
            with atomic_write(folder / "scenario.yaml") as part:
                part.write_text(dump_resolved(scenario))
        self._write_json("environment.json", _environment())

    def began(self, run: str) -> dict[str, Any]:
        """Make the event that tells trackers of the run, called `run`: it begins, or goes on."""
        return began(
            self._scenario,
            run=run,
            mode=self._mode,
            metric=self._metric,
            rounds_done=len(self.rows),
            folder=self.folder,
        )

    def start_training_clock(self) -> None:
        """Start the clock of the training itself; until now the fleet gathered."""
        self._training_since = time.monotonic()
        self._clock_at_start = self._clock()

    @property
    def wall_s(self) -> float:
        """Seconds that this process and earlier ones have spent on a simulated run."""
        return self.wall_s_before + time.monotonic() - self._started

    def round(self, report: RoundReport) -> dict[str, Any]:
        """Note a round and give its row; after an evaluation the metrics are written."""
        row = self.note(report)
        if report.metric is not None:
            self._write_metrics_so_far()
        return row

    def note(self, report: RoundReport) -> dict[str, Any]:
        """Note a round and give its row, and write nothing."""
        row = asdict(report) | {"elapsed_s": self._seconds_before + self._clock() - self._clock_at_start}
        for name, flow in self._ledger.flows.items():
            row[f"{name}_wire_bytes"] = flow.wire_bytes
        row["links_up_bytes"], row["links_down_bytes"] = self.links()
        row["discarded_late"] = self._ledger.discarded_late
        for number, rung in enumerate(self._ledger.rungs):
            row |= {f"rung_{number}_{name}": value for name, value in asdict(rung).items()}
        row |= self.measures()
        self.rows.append(row)
        return row

    def finish(
        self,
        reason: str,
        model: Mapping[str, Tensor] | None,
        network: dict[str, int] | None = None,
        energy: EnergyDrawn | None = None,
    ) -> Summary:
        """Write what is left to write.

        Args:
            reason: why the run ended.
            model: tensors of head and tail, if any were trained; see server_node.checkpoint.tensors_of.
            network: counts of the modelled network, if it was one.
            energy: what its devices have drawn, if that is known.

        Returns:
            The content of summary.json.
        """
        self._write_metrics()
        if model is not None:
            save_model(self.folder / "model.safetensors", model)
        summary = self.summary(reason)
        if self._ledger.rungs:
            summary["rungs"] = rungs_of(self._ledger.rungs)
        if network is not None:
            summary["network"] = network
        if energy is not None:
            summary["energy"] = energy
        if self.checkpoint_error is not None:
            summary["checkpoint_error"] = self.checkpoint_error
        if self.damaged:
            summary["damaged_checkpoints"] = list(self.damaged)
        self._write_json("summary.json", summary)
        return summary

    def summary(self, reason: str) -> Summary:
        """Give the content of summary.json without writing anything; `reason` is why the run ended."""
        ledger = self._ledger
        before_s = self._seconds_before + self.wall_s_before
        training_s = max(before_s + time.monotonic() - self._training_since, 1e-9)
        steps = sum(row["client_steps"] for row in self.rows)
        scores = [row["metric"] for row in self.rows if row["metric"] is not None]
        return {
            "scenario": self._scenario.name,
            "task": self._scenario.task.name,
            "mode": self._mode,
            "seed": self._scenario.seed,
            "reason": reason,
            "rounds": len(self.rows),
            "metric": {
                "name": self._metric,
                "better": self.better,
                "final": scores[-1] if scores else None,
                "best": best_of(scores, self.better),
            },
            "clients": self._scenario.fleet_size,
            "client_steps": steps,
            "client_steps_per_second": steps / training_s,
            "wall_seconds": self.wall_s,
            "training_seconds": training_s,
            "virtual_seconds": self._clock() if self._mode == "simulate" else None,
            "bytes": {name: bytes_of(name, flow) for name, flow in ledger.flows.items()},
            "ratio": ratios_of(ledger),
            "links": links_of(ledger, *self.links(), simulated=self._mode == "simulate"),
            "messages": {
                "sent": ledger.sent,
                "received": ledger.received,
                "rejected": sum(ledger.rejected.values()),
                "rejected_by_reason": dict(ledger.rejected),
                "refused": {
                    client: {"count": count, "last": ledger.refused_of[client]}
                    for client, count in sorted(ledger.refusals.items())
                },
                "duplicates": ledger.duplicates,
                "discarded_late": ledger.discarded_late,
            },
        }

    def _write_metrics_so_far(self) -> None:
        """Write the rows for who looks meanwhile. A full disk ends nothing: the next writing has them all."""
        try:
            self._write_metrics()
        except RunError as error:
            if self._is_on_disk:
                log.warning("the run goes on without writing its metrics: %s", error)
            self._is_on_disk = False
        else:
            self._is_on_disk = True

    def _write_metrics(self) -> None:
        target = self.folder / "metrics.parquet"
        with writing(target), atomic_write(target) as part:
            named = {"metric": self._metric, "better": self.better}  # a run that is not over has no summary
            pq.write_table(pa.Table.from_pylist(self.rows).replace_schema_metadata(named), part)

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        target = self.folder / name
        with writing(target), atomic_write(target) as part:
            part.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def _environment() -> dict[str, Any]:
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
    }
