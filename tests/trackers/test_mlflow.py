"""What MLflow itself reads of a run; skipped where it is not installed, since it brings forty packages."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from server_node.trackers.opening import telling_trackers
from sim.simulation.run import simulate
from tests.helpers import small_scenario
from tests.trackers.told import BEGIN, a_round

pytest.importorskip("mlflow", reason="MLflow is not installed: pip install 'fedlite-mqtt[mlflow]'")

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from server_node.trackers.mlflow import DATABASE, FILE, MLflow

pytestmark = pytest.mark.filterwarnings("ignore")  # of its own dependencies
NAMES = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME")


@pytest.fixture(autouse=True)
def _no_server_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def runs(uri: str) -> tuple[MlflowClient, list[Any]]:
    client = MlflowClient(uri)
    experiments = client.search_experiments()
    found = client.search_runs([each.experiment_id for each in experiments])
    assert found
    return client, found


def test_a_run_is_in_a_database_in_its_folder(tmp_path: Path) -> None:
    folder, secret = tmp_path / "run", "broker={kind: url, url: 'mqtt://dev:pA55-word@h'}"
    with telling_trackers(["mlflow"], (), folder, waits=True) as tell:
        simulate(small_scenario(tmp_path, secret), folder, tell=tell)
    client, [run] = runs(f"sqlite:///{folder / DATABASE}")
    assert (run.info.run_name, run.info.status) == ("small", "FINISHED")
    assert run.data.tags["seconds"] == "virtual"
    assert run.data.params["flows.activations_up.centroids"] == "4"
    assert run.data.params["broker.url"] == "mqtt://dev@h:1883"
    assert b"pA55" not in (folder / DATABASE).read_bytes()
    rows = pq.read_table(folder / "metrics.parquet").to_pylist()
    for key, column in {"loss": "loss", "metric/accuracy": "metric", "clients/members": "clients"}.items():
        history = {each.step: each.value for each in client.get_metric_history(run.info.run_id, key)}
        assert history == {row["round"]: row[column] for row in rows if row[column] is not None}


def test_a_run_that_goes_on_stays_one_run(tmp_path: Path) -> None:
    end = {"event": "end", "reason": "stopped", "summary": None}
    MLflow(tmp_path)([BEGIN, a_round(1, 1.0), end])
    MLflow(tmp_path)([{**BEGIN, "rounds_done": 1, "metric": "recall@5"}, {**a_round(2, 1.0), "metric": 0.5}])
    client, [run] = runs(f"sqlite:///{tmp_path / DATABASE}")
    assert run.info.status == "RUNNING"
    assert [each.step for each in client.get_metric_history(run.info.run_id, "loss")] == [1, 2]
    assert run.data.metrics["metric/recall_at_5"] == 0.5
    MLflow(tmp_path)([BEGIN, a_round(1, 1.0)])
    assert len(runs(f"sqlite:///{tmp_path / DATABASE}")[1]) == 2
    assert (tmp_path / FILE).is_file()


def test_a_server_that_is_away_is_asked_again(tmp_path: Path) -> None:
    away = [True]

    def connect(uri: str) -> MlflowClient:
        if away:
            raise MlflowException("no answer")
        return MlflowClient(uri)

    tracker = MLflow(tmp_path, connect)
    with pytest.raises(MlflowException, match="no answer"):
        tracker([BEGIN, a_round(1, 1.0)])
    away.clear()
    tracker([a_round(2, 2.0)])
    _, [run] = runs(f"sqlite:///{tmp_path / DATABASE}")
    assert run.data.metrics["loss"] == 2.0
