"""The points of a sweep are tried before any of them runs, each different one once."""

from pathlib import Path

from typer.testing import CliRunner

from broker.cli.commands import app
from scenarios.errors import MissingDataError, ScenarioError
from scenarios.loading.grid import GridPoint, load_grid
from scenarios.loading.grid_trial import in_lines, try_all
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


def tried(points: list[GridPoint]) -> list[tuple[str, ScenarioError]]:
    return try_all((point.title, point.scenario) for point in points)


def test_each_different_point_is_tried_once(tmp_path: Path) -> None:
    module = tmp_path / "counted_task.py"
    module.write_text(COUNTED)
    settings = ["task.name=counted", f"task.module={module}"]
    points = load_grid(small_file(tmp_path), settings, ["training.rounds=1,2,3", "seed=1,2,3,4"])
    heads = (tmp_path / "counted_task.py.heads").stat().st_size
    assert tried(points) == []
    assert (tmp_path / "counted_task.py.loads").stat().st_size == 2  # once, and once to compare
    one = (tmp_path / "counted_task.py.heads").stat().st_size - heads
    points = load_grid(small_file(tmp_path), settings, ["task.batch_size=5,10", "seed=1,2,3,4"])
    heads = (tmp_path / "counted_task.py.heads").stat().st_size
    tried(points)
    assert (tmp_path / "counted_task.py.heads").stat().st_size - heads == 2 * one


def test_points_that_cannot_be_trained_are_named_all_at_once(tmp_path: Path) -> None:
    grid = ["task.partition=iid,natural", "task.batch_size=5,10", "seed=1,2"]
    [line] = in_lines(tried(load_grid(small_file(tmp_path), (), grid)))
    assert line.startswith(
        "at task.partition=natural, task.batch_size=5, seed=1; "
        "at task.partition=natural, task.batch_size=10, seed=1: task.partition: natural: "
    )


def test_a_mistake_of_many_names_three_of_them() -> None:
    wrong = ScenarioError("wrong")
    assert in_lines([("a", wrong), ("b", ScenarioError("other")), ("c", wrong)]) == [
        "a; c: wrong",
        "b: other",
    ]
    assert in_lines([(name, wrong) for name in "abc"]) == ["a; b; c: wrong"]
    assert in_lines([(name, wrong) for name in "abcde"]) == ["a; b; c; and 2 more: wrong"]


def test_a_point_without_enough_data_is_told(tmp_path: Path) -> None:
    mistakes = tried(load_grid(small_file(tmp_path), (), ["fleet.0.count=4,6000"]))
    assert [type(error) for _, error in mistakes] == [MissingDataError]
    [line] = in_lines(mistakes)
    assert line.startswith("at fleet.0.count=6000: task.partition: 200 training samples are not")


def test_validate_tries_all_points(tmp_path: Path) -> None:
    file = small_file(tmp_path)
    file.write_text(file.read_text() + "sweep: {task.partition: [iid, natural]}\n")
    result = CliRunner().invoke(app, ["scenarios", "validate", str(file)])
    assert result.exit_code == 2
    assert result.output.startswith(
        "error: at task.partition=natural: task.partition: natural: these data have"
    )
