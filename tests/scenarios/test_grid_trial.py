"""The points of a sweep are tried before any of them runs, each different one once."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from broker.cli.commands import app
from scenarios.errors import ScenarioError
from scenarios.loading.grid import load_grid
from scenarios.loading.grid_trial import try_points
from tests.helpers import small_file

COUNTED = """
from dataclasses import replace
from tests import small_task

def task():
    made = replace(small_task.task(), name="counted")
    def load():
        with open(__file__ + ".loads", "a") as file:
            file.write("x")
        return made.load()
    def head():
        with open(__file__ + ".heads", "a") as file:
            file.write("x")
        return made.head()
    return replace(made, load=load, head=head)
"""


def test_each_different_point_is_tried_once(tmp_path: Path) -> None:
    module = tmp_path / "counted_task.py"
    module.write_text(COUNTED)
    settings = ["task.name=counted", f"task.module={module}"]
    points = load_grid(small_file(tmp_path), settings, ["training.rounds=1,2,3", "seed=1,2,3,4"])
    heads = (tmp_path / "counted_task.py.heads").stat().st_size
    assert try_points(points) == ""
    assert (tmp_path / "counted_task.py.loads").stat().st_size == 2  # once, and once to compare
    one = (tmp_path / "counted_task.py.heads").stat().st_size - heads
    points = load_grid(small_file(tmp_path), settings, ["task.batch_size=5,10", "seed=1,2,3,4"])
    heads = (tmp_path / "counted_task.py.heads").stat().st_size
    try_points(points)
    assert (tmp_path / "counted_task.py.heads").stat().st_size - heads == 2 * one


def test_a_point_that_cannot_be_trained_is_named(tmp_path: Path) -> None:
    points = load_grid(small_file(tmp_path), (), ["task.partition=iid,natural", "seed=1,2"])
    with pytest.raises(
        ScenarioError, match=r"^at task\.partition=natural, seed=1: task\.partition: natural: "
    ):
        try_points(points)


def test_a_point_without_enough_data_is_told(tmp_path: Path) -> None:
    points = load_grid(small_file(tmp_path), (), ["fleet.0.count=4,6000"])
    assert try_points(points).startswith(
        "at fleet.0.count=6000: task.partition: 200 training samples are not"
    )


def test_validate_tries_all_points(tmp_path: Path) -> None:
    file = small_file(tmp_path)
    file.write_text(file.read_text() + "sweep: {task.partition: [iid, natural]}\n")
    result = CliRunner().invoke(app, ["scenarios", "validate", str(file)])
    assert result.exit_code == 2
    assert result.output.startswith(
        "error: at task.partition=natural: task.partition: natural: these data have"
    )
