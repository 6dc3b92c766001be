"""leaf_shakespeare: LEAF's JSON files, Flower's parquet files, and its task."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from scenarios.errors import ScenarioError
from scenarios.loading.load import load_scenario
from scenarios.schema.task_spec import TaskSpec
from scenarios.task import Split
from scenarios.tasks import leaf_shakespeare, load_task
from scenarios.training import initial_model
from sim.simulation.run import simulate
from tests.small_data import losses

LINE = "Now is the winter of our discontent Made glorious summer by this sun of York; "


def rows(count: int) -> tuple[list[str], list[str]]:
    """Make windows of 80 characters, each one character after the one before."""
    text = LINE * (count // len(LINE) + 3)
    return [text[n : n + 80] for n in range(count)], [text[n + 80] for n in range(count)]


def write_leaf(file: Path, counts: dict[str, int]) -> None:
    data = {user: dict(zip("xy", rows(count), strict=True)) for user, count in counts.items()}
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"users": list(counts), "num_samples": [], "user_data": data}))


def write_parquet(file: Path, counts: dict[str, int]) -> None:
    table: dict[str, list[str]] = {"character_id": [], "x": [], "y": []}
    for user, count in counts.items():
        x, y = rows(count)
        table["x"] += x
        table["y"] += y
        table["character_id"] += [user] * count
    parquet.write_table(pa.table(table), file)


def text_of(split: Split, row: int) -> str:
    return "".join(leaf_shakespeare.LETTERS[number] for number in split.inputs[row])


def test_leafs_json_files_are_read_by_speaker(tmp_path: Path) -> None:
    write_leaf(tmp_path / "train/all_data_niid_0_keep_0_train_9.json", {"HAMLET": 3, "BANQUO": 2})
    write_leaf(tmp_path / "test/all_data_niid_0_keep_0_test_9.json", {"HAMLET": 1})
    spec = TaskSpec(name="leaf_shakespeare", path=tmp_path, partition="natural")
    data = load_task(spec).load()
    assert data.owners is not None
    assert data.owners.tolist() == [1, 1, 1, 0, 0]
    assert data.train.inputs.shape == (5, 80)
    x, y = rows(3)
    assert text_of(data.train, 2) == x[2]
    assert leaf_shakespeare.LETTERS[int(data.train.targets[2])] == y[2]
    assert len(data.test.targets) == 1


def test_what_is_tested_shares_no_character_with_what_is_trained_on(tmp_path: Path) -> None:
    write_parquet(tmp_path / "0000.parquet", {"LEAR": 400, "FOOL": 9})
    data = leaf_shakespeare.load(tmp_path)
    assert data.owners is not None
    assert np.bincount(data.owners).tolist() == [
        9,
        280,
    ]  # of 400 rows 40 are tested, the 80 before are not used
    assert len(data.test.targets) == 40
    x, _ = rows(400)
    assert text_of(data.train, 279) == x[279]
    assert text_of(data.test, 0) == x[360]


def test_test_files_are_used_where_there_are_any(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", {"LEAR": 20})
    write_parquet(tmp_path / "test.parquet", {"LEAR": 3})
    data = leaf_shakespeare.load(tmp_path)
    assert (len(data.train.targets), len(data.test.targets)) == (20, 3)


def test_characters_that_leaf_does_not_know_are_question_marks() -> None:
    inputs, targets = leaf_shakespeare._rows(["a$é\n" * 20], ["~"])
    letters = [leaf_shakespeare.LETTERS[number] for number in inputs[0, :4]]
    assert letters == ["a", "?", "?", "\n"]
    assert leaf_shakespeare.LETTERS[targets[0]] == "?"


def test_leaf_shakespeare_needs_its_folder(tmp_path: Path) -> None:
    files = (
        "the LEAF JSON files (all_data_*_train_*.json, ..._test_*.json) or the parquet files of "
        "flwrlabs/shakespeare"
    )
    with pytest.raises(ScenarioError) as caught:
        leaf_shakespeare.task(None)
    assert str(caught.value) == f"task.path: leaf_shakespeare needs the folder with {files}"
    with pytest.raises(ScenarioError) as caught:
        leaf_shakespeare.load(tmp_path)
    assert str(caught.value) == f"task.path: {tmp_path} must hold {files}; it is empty"


@pytest.mark.parametrize(
    ("x", "y"),
    [(["short"], ["a"]), (["a" * 80], ["ab"]), ([["a"] * 80], ["a"])],
    ids=["length of x", "length of y", "no text"],
)
def test_other_rows_are_refused(tmp_path: Path, x: list[str], y: list[str]) -> None:
    wrong = "x must be texts of 80 characters, and y of 1"
    file = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"character_id": ["LEAR"], "x": x, "y": y}), file)
    with pytest.raises(ScenarioError) as caught:
        leaf_shakespeare.load(tmp_path)
    assert str(caught.value) == f"{file}: {wrong}"
    file = tmp_path / "all_data_train_9.json"
    file.write_text(json.dumps({"users": ["LEAR"], "user_data": {"LEAR": {"x": x, "y": y}}}))
    write_leaf(tmp_path / "all_data_test_9.json", {"LEAR": 1})
    with pytest.raises(ScenarioError) as caught:
        leaf_shakespeare.load(tmp_path)
    assert str(caught.value) == f"{file}: not LEAF's Shakespeare: ValueError: {wrong}"


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", {})
    with pytest.raises(ScenarioError, match=r"a\.parquet: no rows of Shakespeare"):
        leaf_shakespeare.load(tmp_path)


def test_the_next_character_model_has_leafs_sizes_and_learns(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", {"LEAR": 8})
    task = leaf_shakespeare.task(tmp_path)
    head, tail = initial_model(task, 0)
    assert sum(parameter.numel() for parameter in head.parameters()) == 799_360
    assert sum(parameter.numel() for parameter in tail.parameters()) == 20_560
    found = losses(task, task.load(), steps=10, lr=0.5)
    assert found[-1] < found[0] * 0.9


def test_the_last_state_has_read_all_characters() -> None:
    head = leaf_shakespeare.Head().eval()
    first = torch.full((1, 80), 5, dtype=torch.int8)
    other = first.clone()
    other[0, 79] = 6
    with torch.no_grad():
        assert not torch.equal(head(first), head(other))


def test_leaf_shakespeare_is_learned_over_the_wire(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", {"LEAR": 110, "FOOL": 120})
    changes = ["training.rounds=2", "training.cohort=2", "training.evaluate_every=2", "fleet.0.count=2"]
    changes += ["task.name=leaf_shakespeare", f"task.path={tmp_path}", "task.batch_size=4"]
    summary = simulate(load_scenario("debtags", changes), tmp_path / "run")
    assert summary["reason"] == "complete"
    assert summary["messages"]["rejected"] == 0
    assert summary["metric"]["final"] is not None
