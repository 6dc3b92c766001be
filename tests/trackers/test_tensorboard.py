"""What TensorBoard itself reads of a run; needs the package, which the test group brings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet as pq
import pytest

from scenarios.loading.load import load_scenario
from server_node.trackers.opening import telling_trackers
from server_node.trackers.values import flat, numbers_of
from sim.simulation.run import simulate
from tests.helpers import small_scenario
from tests.trackers.told import BEGIN, END, a_round

pytest.importorskip("tensorboard", reason="TensorBoard is not installed: pip install tensorboard")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from server_node.trackers.tensorboard import FOLDER, TensorBoard


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder / FOLDER), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def steps(read_again: EventAccumulator, tag: str) -> Mapping[int, float]:
    return {each.step: each.value for each in read_again.Scalars(tag)}


def test_it_shows_the_rounds_the_metrics_file_has(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with telling_trackers(["tensorboard"], (), folder) as tell:
        simulate(small_scenario(tmp_path), folder, tell=tell)
    shown, rows = read(folder), pq.read_table(folder / "metrics.parquet").to_pylist()
    for tag, column in {
        "loss": "loss", "bytes/gradient_down": "gradient_down_wire_bytes", "seconds/virtual": "elapsed_s",
        "clients/members": "clients",
    }.items():  # fmt: skip
        assert steps(shown, tag) == pytest.approx({row["round"]: row[column] for row in rows})
    scored = {row["round"]: row["metric"] for row in rows if row["metric"] is not None}
    assert steps(shown, "metric/accuracy") == pytest.approx(scored)
    up = {row["round"]: row["activations_up_wire_bytes"] + row["head_update_up_wire_bytes"] for row in rows}
    assert steps(shown, "bytes/up") == pytest.approx(up)


def test_its_hyperparameters_are_the_scenario_without_passwords(tmp_path: Path) -> None:
    folder, secret = tmp_path / "run", "broker={kind: url, url: 'mqtt://dev:pA55-word@h'}"
    with telling_trackers(["tensorboard"], (), folder) as tell:
        simulate(small_scenario(tmp_path, secret), folder, tell=tell)
    content = read(folder).SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    shown = HParamsPluginData.FromString(content).session_start_info
    assert shown.group_name == "small"
    assert shown.hparams["flows.activations_up.subvectors"].number_value == 4
    assert shown.hparams["task.partition"].string_value == "iid"
    assert shown.hparams["broker.url"].string_value == "mqtt://dev@h:1883"
    written = b"".join(file.read_bytes() for file in (folder / FOLDER).iterdir())
    assert b"mqtt://dev@h" in written
    assert b"pA55" not in written


def test_rounds_that_are_done_once_more_are_shown_once(tmp_path: Path) -> None:
    TensorBoard(tmp_path)([BEGIN, *(a_round(number, 1.0) for number in range(1, 6)), END])
    TensorBoard(tmp_path)(
        [{**BEGIN, "rounds_done": 3}, *(a_round(number, 2.0) for number in range(4, 8)), END]
    )
    shown = steps(read(tmp_path), "loss")
    assert shown == {1: 1.0, 2: 1.0, 3: 1.0, 4: 2.0, 5: 2.0, 6: 2.0, 7: 2.0}


def test_virtual_seconds_are_the_time_of_its_steps(tmp_path: Path) -> None:
    begin = {**BEGIN, "seconds": "virtual"}
    TensorBoard(tmp_path, clock=lambda: 1e9)([begin, a_round(1, 1.0), a_round(7, 1.0), END])
    assert [each.wall_time for each in read(tmp_path).Scalars("loss")] == [1e9 + 1, 1e9 + 7]


def test_after_a_full_disk_it_goes_on_in_another_file(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path)
    board([BEGIN, a_round(1, 1.0)])
    assert board._file is not None
    board._file = cast("Any", _Full(board._file))
    with pytest.raises(OSError, match="No space"):
        board([a_round(2, 1.0)])
    board([a_round(3, 3.0), END])
    assert len(list((tmp_path / FOLDER).iterdir())) == 2
    assert steps(read(tmp_path), "loss") == {1: 1.0, 3: 3.0}


class _Full:
    """A file that takes half of what is written, as a disk that is full."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: bytes) -> None:
        self._file.write(data[: len(data) // 2])
        self._file.flush()
        raise OSError(28, "No space left on device")

    def flush(self) -> None: ...

    def close(self) -> None:
        self._file.close()


def test_the_flows_of_every_method_are_tracked() -> None:
    other = {**a_round(1, 1.0), "feature_gradient_up_wire_bytes": 7, "features_down_wire_bytes": 5}
    numbers = numbers_of(other, metric="accuracy", seconds="wall")
    assert (numbers["bytes/feature_gradient_up"], numbers["bytes/features_down"]) == (7.0, 5.0)
    assert (numbers["bytes/up"], numbers["bytes/down"]) == (27.0, 25.0)
    assert "bytes/links_up" not in numbers
    other |= {"links_up_bytes": 40, "links_down_bytes": 30}
    numbers = numbers_of(other, metric="accuracy", seconds="wall")
    assert (numbers["bytes/links_up"], numbers["bytes/links_down"]) == (40.0, 30.0)


def test_settings_are_flat_as_set_writes_them() -> None:
    assert flat({"a": {"b": 1, "c": {"d": None}}, "e": [1, 2], "f": [{"count": 3}], "g": {}}) == {
        "a.b": 1, "a.c.d": "null", "e": "[1, 2]", "f.0.count": 3,
    }  # fmt: skip
    whole = flat({"training": load_scenario("quickstart").training.model_dump(mode="json")})
    assert whole["training.correction.schedule"] == "constant"
