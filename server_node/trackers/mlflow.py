"""Logs a run to MLflow: to the server of MLFLOW_TRACKING_URI, or else to a database in the run folder."""

import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from broker.exits import COMPLETE, STOPPED
from broker.files import atomic_write
from server_node.trackers.events import Event
from server_node.trackers.values import flat, numbers_of

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it is read when mlflow is imported

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

EXPERIMENT = "fedlite"
"""The experiment of all runs, unless MLFLOW_EXPERIMENT_NAME names another one."""
FILE, DATABASE, ARTIFACTS = "mlflow.run", "mlflow.db", "mlartifacts"
"""In the run folder: the id of the run at MLflow, and the store where no server is named."""
PARAMS_AT_ONCE, METRICS_AT_ONCE = 100, 900
LONGEST_VALUE = 500
"""Limits of MLflow on a request, and on a setting's text in every release."""

_NOT_IN_NAMES = re.compile(r"[^\w/.: -]")
_STATUS = {COMPLETE: "FINISHED", STOPPED: "KILLED"}


class MLflow:
    """Logs a run's numbers and settings; a sink.

    A server that is away is asked again for every batch of events; what came meanwhile is missing there.

    Args:
        folder: the run folder.
        connect: makes the client, from the URI of a store.
    """

    def __init__(self, folder: Path, connect: Callable[[str], MlflowClient] = MlflowClient) -> None:
        self._folder = folder
        self._connect = connect
        self._client: MlflowClient | None = None
        self._run_id = ""
        self._begin: Event = {}

    def __call__(self, events: Sequence[Event]) -> None:
        """Log events."""
        for event in events:
            if event["event"] == "begin":
                self._begin, self._run_id = event, ""
        client = self._client or self._connect(self._store())
        self._client = client
        self._run_id = self._run_id or self._run_of(client)
        metrics = [metric for event in events for metric in self._metrics(event)]
        for first in range(0, len(metrics), METRICS_AT_ONCE):
            client.log_batch(self._run_id, metrics=metrics[first : first + METRICS_AT_ONCE])
        if events[-1]["event"] == "end":
            reason = events[-1]["reason"]
            client.set_tag(self._run_id, "reason", reason)
            client.set_terminated(self._run_id, _STATUS.get(reason, "FAILED"))

    def _store(self) -> str:
        self._folder.mkdir(parents=True, exist_ok=True)
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self._folder.absolute() / DATABASE}"

    def _run_of(self, client: MlflowClient) -> str:
        """Go on with the MLflow run of this run folder, or make one with its settings; give its id."""
        file = self._folder / FILE
        if self._begin["rounds_done"] and file.is_file():
            known = file.read_text("utf-8").strip()
            try:
                client.update_run(known, status="RUNNING")
            except MlflowException:  # of another store
                pass
            else:
                return known
        name, mode = self._begin["run"], self._begin["mode"]
        tags = {"mode": mode, "seconds": self._begin["seconds"]}
        run_id: str = client.create_run(self._experiment(client), run_name=name, tags=tags).info.run_id
        with atomic_write(file) as part:
            part.write_text(run_id, "utf-8")
        settings = flat(self._begin["settings"])
        params = [Param(_name(key), str(value)[:LONGEST_VALUE]) for key, value in settings.items()]
        for first in range(0, len(params), PARAMS_AT_ONCE):
            client.log_batch(run_id, params=params[first : first + PARAMS_AT_ONCE])
        return run_id

    def _experiment(self, client: MlflowClient) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        found = client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        is_here = not os.environ.get("MLFLOW_TRACKING_URI")
        where = (self._folder.absolute() / ARTIFACTS).as_uri() if is_here else None
        return str(client.create_experiment(name, artifact_location=where))

    def _metrics(self, event: Event) -> list[Metric]:
        if event["event"] != "round":
            return []
        now_ms = int(time.time() * 1000)
        numbers = numbers_of(event, metric=self._begin["metric"], seconds=self._begin["seconds"])
        return [Metric(_name(key), value, now_ms, event["round"]) for key, value in numbers.items()]


def _name(text: str) -> str:
    """Write a name with the characters that MLflow allows: recall@5 becomes recall_at_5."""
    return _NOT_IN_NAMES.sub("_", text.replace("@", "_at_"))
