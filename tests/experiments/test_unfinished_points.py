"""Points of a sweep that were under way when it was stopped or killed go on where they were."""

from pathlib import Path

import pytest

from scenarios.loading.grid import load_grid
from server_node import checkpoint
from server_node.ownership import alone_in
from sim.experiments.grid_runs import GridRun, sweep
from sim.experiments.results import Mode
from sim.simulation.moment import Moment
from sim.simulation.run import simulate
from sim.simulation.saving import Saving
from tests.experiments.test_sweep import Here
from tests.helpers import small_file
from tests.simulation.test_going_on import After, Killed, always, comes_out_the_same


def test_an_unfinished_point_of_a_sweep_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = load_grid(small_file(tmp_path), [], ["seed=1,2"])
    went_on: list[int] = []
    go_on = Saving.go_on

    def note(saving: Saving, moment: Moment) -> None:
        went_on.append(moment.events)
        go_on(saving, moment)

    monkeypatch.setattr(Saving, "go_on", note)
    run = GridRun(points[1], Mode.SIMULATE)
    unfinished = run.unfinished(tmp_path / "sweep")
    with pytest.raises(Killed):
        simulate(points[1].scenario, unfinished, threads=1, stop=After(200, kills=True), pace=always())
    whole = sweep(points, tmp_path / "whole", Mode.SIMULATE, Here)
    assert went_on == []
    rows = sweep(points, tmp_path / "sweep", Mode.SIMULATE, Here)
    assert len(went_on) == 1
    assert [row["error"] for row in rows] == [None, None]
    assert comes_out_the_same(tmp_path / "whole" / run.name, tmp_path / "sweep" / run.name)
    assert not unfinished.exists()
    assert [row["metric.final"] for row in rows] == [row["metric.final"] for row in whole]


def test_a_point_that_cannot_go_on_is_begun_anew(tmp_path: Path) -> None:
    [point] = load_grid(small_file(tmp_path), ["training.rounds=2"], ["seed=1"])
    run = GridRun(point, Mode.SIMULATE)
    run.unfinished(tmp_path).mkdir()
    (run.unfinished(tmp_path) / checkpoint.FILE).write_bytes(b"half of it")
    [row] = sweep([point], tmp_path, Mode.SIMULATE, Here)
    assert (row["error"], row["rounds"]) == (None, 2)


def test_a_point_of_another_process_is_left_alone(tmp_path: Path) -> None:
    [point] = load_grid(small_file(tmp_path), ["training.rounds=2"], ["seed=1"])
    unfinished = GridRun(point, Mode.SIMULATE).unfinished(tmp_path)
    with alone_in(unfinished):
        [row] = sweep([point], tmp_path, Mode.SIMULATE, Here)
    assert "another process works in" in row["error"]
    assert unfinished.exists()
