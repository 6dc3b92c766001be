"""Sweeps: names, table, going on where one stopped, failed points, and pools of workers."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from broker.cli.commands import app
from broker.errors import RunError
from scenarios.loading.grid import GridPoint, load_grid
from server_node.summary import Summary
from sim.experiments.grid_runs import GridRun, sweep
from sim.experiments.pool import local_pool
from sim.experiments.results import Mode, Row, finished, write_table
from tests.helpers import SMALL

P = ParamSpec("P")
T = TypeVar("T")

LINKS = "fleet.0.link={uplink_kbps: 8},{uplink_kbps: 16}"
WALL_CLOCK = {"wall_seconds", "training_seconds", "client_steps_per_second"}


class Here(Executor):
    """Runs everything at once, in this process."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  that is what an executor does
            future.set_exception(error)
        return future


@contextmanager
def nobody() -> Iterator[Executor]:
    pytest.fail("nothing should run")
    yield Here()  # type: ignore[unreachable]


def small_file(folder: Path) -> Path:
    path = folder / "small.yaml"
    path.write_text(
        SMALL.replace("rounds: 20", "rounds: 4").replace("evaluate_every: 5", "evaluate_every: 2")
    )
    return path


def points_of(folder: Path, *grid: str) -> list[GridPoint]:
    return load_grid(small_file(folder), [], grid)


def timed(points: list[GridPoint], folder: Path) -> list[Row]:
    return sweep(points, folder, Mode.TIMING_ONLY, Here)


def table_of(folder: Path) -> list[Row]:
    rows: list[Row] = pq.read_table(folder / "sweep.parquet").to_pylist()
    return rows


def without_clock(rows: list[Row]) -> list[Row]:
    return [{key: value for key, value in row.items() if key not in WALL_CLOCK} for row in rows]


# names and table


def test_run_folders_are_named_after_what_is_swept(tmp_path: Path) -> None:
    points = points_of(tmp_path, "training.correction.lambda=0,1.0e-5", LINKS)
    names = [GridRun(point, Mode.SIMULATE).name for point in points]
    assert [name.rpartition("-")[0] for name in names] == [
        "lambda=0,link=8", "lambda=0,link=16", "lambda=1e-05,link=8", "lambda=1e-05,link=16",
    ]  # fmt: skip
    assert len(set(names)) == 4


def test_names_do_not_depend_on_the_rest_of_the_grid(tmp_path: Path) -> None:
    few = points_of(tmp_path, "seed=2")
    many = points_of(tmp_path, "seed=1,2,3")
    assert GridRun(few[0], Mode.SIMULATE).name == GridRun(many[1], Mode.SIMULATE).name


def test_names_tell_scenarios_and_modes_apart(tmp_path: Path) -> None:
    [point] = points_of(tmp_path, "seed=2")
    [other] = load_grid(small_file(tmp_path), ["training.cohort=2"], ["seed=2"])
    names = {GridRun(point, mode).name for mode in Mode} | {GridRun(other, Mode.SIMULATE).name}
    assert len(names) == 3


def test_names_are_file_names_whatever_is_swept(tmp_path: Path) -> None:
    source = "x/" * 100 + "ä b"
    [point] = points_of(tmp_path, f"fleet.0.link.source='{source}'")
    name = GridRun(point, Mode.SIMULATE).name
    assert name.startswith("source=x_x_")
    assert len(name) <= 90
    assert name.isascii()
    assert "/" not in name


def test_keys_that_end_alike_are_named_in_full(tmp_path: Path) -> None:
    [point] = points_of(tmp_path, "training.head_lr=0.1", "network.server.link=3g", "fleet.0.link=2g")
    name = GridRun(point, Mode.SIMULATE).name
    assert name.startswith("head_lr=0.1,network.server.link=3g,fleet.0.link=2g-")


def test_the_table_has_swept_keys_run_and_summary(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    points = points_of(tmp_path, "training.cohort=1,2", LINKS)
    rows = timed(points, folder)
    assert table_of(folder) == [
        {**row, "fleet.0.link": json.dumps(row["fleet.0.link"], separators=(",", ":"))} for row in rows
    ]
    assert [row["training.cohort"] for row in rows] == [1, 1, 2, 2]
    first = rows[0]
    assert list(first)[:3] == ["training.cohort", "fleet.0.link", "run"]
    summary = json.loads((folder / first["run"] / "summary.json").read_text())
    assert first["bytes.activations_up.wire"] == summary["bytes"]["activations_up"]["wire"]
    assert first["virtual_seconds"] == summary["virtual_seconds"]
    assert (first["metric.name"], first["metric.final"]) == ("accuracy", None)
    csv = pyarrow.csv.read_csv(folder / "sweep.csv")
    assert csv.column_names == pq.read_table(folder / "sweep.parquet").column_names
    assert csv["run"].to_pylist() == [row["run"] for row in rows]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1e-5], [0.0, 1e-5]),
        (["3g", {"uplink_kbps": 8}], ["3g", '{"uplink_kbps":8}']),
        ([None, 0.5], [None, 0.5]),
        (["a", 1, True, None], ["a", "1", "true", None]),
    ],
)
def test_swept_values_of_any_kind_fit_a_column(
    tmp_path: Path, values: list[Any], expected: list[Any]
) -> None:
    write_table(tmp_path, [{"x": value, "run": "r", "error": None} for value in values], ["x"])
    assert [row["x"] for row in table_of(tmp_path)] == expected


# going on


def test_the_same_sweep_again_runs_nothing(tmp_path: Path) -> None:
    points, folder = points_of(tmp_path, "seed=1,2"), tmp_path / "sweep"
    rows = timed(points, folder)
    assert sweep(points, folder, Mode.TIMING_ONLY, nobody) == rows


def test_what_has_finished_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["sweep", str(small_file(tmp_path)), "--grid=seed=1,2", f"--out={tmp_path / 's'}"]
    command += ["--mode=timing-only", "--jobs=1"]
    assert CliRunner().invoke(app, command).exit_code == 0
    read: list[str] = []

    def note(folder: Path, scenario_yaml: str) -> Summary | None:
        read.append(folder.name)
        return finished(folder, scenario_yaml)

    monkeypatch.setattr("sim.experiments.grid_runs.finished", note)
    assert CliRunner().invoke(app, command).exit_code == 0
    assert sorted(read) == sorted(row["run"] for row in table_of(tmp_path / "s"))


def test_only_missing_points_run(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    [one] = timed(points_of(tmp_path, "seed=2"), folder)
    started = (folder / one["run"] / "environment.json").stat().st_mtime_ns
    rows = timed(points_of(tmp_path, "seed=1,2,3"), folder)
    assert [row["seed"] for row in rows] == [1, 2, 3]
    assert rows[1] == one
    assert (folder / one["run"] / "environment.json").stat().st_mtime_ns == started


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("summary.json", None),
        ("summary.json", "{"),
        ("scenario.yaml", "name: other\n"),
        ("scenario.yaml", None),
    ],
)
def test_a_damaged_point_runs_anew(tmp_path: Path, file: str, content: str | None) -> None:
    points, folder = points_of(tmp_path, "seed=1"), tmp_path / "sweep"
    [row] = timed(points, folder)
    path = folder / row["run"] / file
    good = path.read_text()
    path.unlink()
    if content is not None:
        path.write_text(content)
    [again] = timed(points, folder)
    assert without_clock([again]) == without_clock([row])
    if file == "scenario.yaml":
        assert path.read_text() == good


def test_learning_and_timing_are_not_mixed(tmp_path: Path) -> None:
    points, folder = points_of(tmp_path, "seed=1"), tmp_path / "sweep"
    [timing] = timed(points, folder)
    [learning] = sweep(points, folder, Mode.SIMULATE, Here)
    assert timing["metric.final"] is None
    assert learning["metric.final"] > 0.2
    assert timing["run"] != learning["run"]
    assert [row["run"] for row in table_of(folder)] == [learning["run"]]


def test_the_table_is_up_to_date_after_each_point(tmp_path: Path) -> None:
    points, folder = points_of(tmp_path, "seed=1,2,3"), tmp_path / "sweep"
    sizes: list[int] = []
    sweep(points, folder, Mode.TIMING_ONLY, Here, lambda _row: sizes.append(len(table_of(folder))))
    assert sizes == [1, 2, 3]


# failures


def failing_file(folder: Path) -> Path:
    """Write a scenario whose task has no data in a worker until the file `data` is there."""
    task = (Path(__file__).parents[1] / "small_task.py").read_text()
    load = "load=lambda: Dataset(points(200, 1), points(100, 2))"
    assert load in task
    in_worker = "__import__('multiprocessing').parent_process()"
    opened = f"{in_worker} and open({str(folder / 'data')!r}).close()"
    broken = f"load=lambda: ({opened}, {load.partition(': ')[2]})[1]"
    (folder / "task.py").write_text(task.replace(load, broken))
    path = folder / "failing.yaml"
    path.write_text(SMALL.replace(str(Path(__file__).parents[1] / "small_task.py"), "./task.py"))
    return path


@pytest.mark.parametrize(("kind", "results"), [("run", "summary.json"), ("study", "results.md")])
def test_a_sweep_is_not_written_over_a_run_or_a_study(tmp_path: Path, kind: str, results: str) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / results).write_text("{}")
    with pytest.raises(RunError, match=f"has a {kind}, not a sweep; --out names another folder"):
        sweep(points_of(tmp_path, "seed=1,2"), folder, Mode.TIMING_ONLY, nobody)
    assert [file.name for file in folder.iterdir()] == [results]


def test_a_failed_point_is_told_and_runs_again(tmp_path: Path) -> None:
    command = ["sweep", str(failing_file(tmp_path)), "--grid=training.rounds=2,3", f"--out={tmp_path / 's'}"]
    command += ["--jobs=1"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    [line, _] = [line for line in result.stderr.splitlines() if line.startswith("failed: ")]
    assert line.startswith("failed: rounds=2-")
    assert "No such file or directory" in line
    assert [row["error"] is None for row in table_of(tmp_path / "s")] == [False, False]
    (tmp_path / "data").touch()
    assert CliRunner().invoke(app, command).exit_code == 0
    assert [row["error"] for row in table_of(tmp_path / "s")] == [None, None]
    assert [row["rounds"] for row in table_of(tmp_path / "s")] == [2, 3]


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ("task.partition=iid,natural", "at task.partition=natural: task.partition: natural: "),
        ("fleet.0.count=4,900", "at fleet.0.count=900: task.partition: 200 training samples are not"),
        ("fleet.0.link=none,{trace: no.csv}", "error: at fleet.0.link={'trace': 'no.csv'}: "),
        ("task.partition=iid,natural,{shards: 300}", "at task.partition={'shards': 300}: task.partition: "),
    ],
)
def test_a_point_that_cannot_be_used_is_told_before_any_runs(tmp_path: Path, grid: str, words: str) -> None:
    command = ["sweep", str(small_file(tmp_path)), f"--grid={grid}", f"--out={tmp_path / 's'}"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert words in result.stderr
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_a_point_that_kills_its_process_leaves_the_others_alone(tmp_path: Path) -> None:
    task = (Path(__file__).parents[1] / "small_task.py").read_text()
    deadly = task.replace("load=lambda: ", "load=lambda: __import__('os')._exit(3) or ")
    for name, text in {"a.py": task, "b.py": deadly, "c.py": task}.items():
        (tmp_path / name).write_text(text)
    modules = ",".join(str(tmp_path / name) for name in ("a.py", "b.py", "c.py"))
    points = points_of(tmp_path, f"task.module={modules}", "training.cohort=1,2")
    rows = sweep(points, tmp_path / "s", Mode.SIMULATE, partial(local_pool, 1))
    assert [row["error"] is None for row in rows] == [True, True, False, False, True, True]
    assert rows[2]["error"].startswith("no result of the worker: BrokenProcessPool(")


@pytest.mark.slow
def test_a_killed_sweep_goes_on(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "broker.cli", "sweep", str(small_file(tmp_path)), "--grid=seed=1,2,3,4,5,6,7,8",
        "--set=training.rounds=300", "--mode=timing-only", "--jobs=1", "--json", f"--out={tmp_path / 's'}",
    ]  # fmt: skip
    for number in (signal.SIGTERM, signal.SIGKILL):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as killed:
            assert killed.stdout is not None
            assert killed.stderr is not None
            seeds = [json.loads(killed.stdout.readline())["seed"] for _ in range(2)]
            killed.send_signal(number)
            said = killed.stderr.read()
        assert killed.returncode == (130 if number == signal.SIGTERM else -number)
        assert ("of 8 points are done; the same command goes on" in said) == (number == signal.SIGTERM)
        assert seeds == [1, 2]
    stamps = {path.parent: path.stat().st_mtime_ns for path in (tmp_path / "s").glob("*/summary.json")}
    assert 2 <= len(stamps) < 8
    subprocess.run(command, check=True, capture_output=True)
    assert [row["seed"] for row in table_of(tmp_path / "s")] == list(range(1, 9))
    assert {folder: (folder / "summary.json").stat().st_mtime_ns for folder in stamps} == stamps


# pools


@pytest.mark.slow
def test_every_pool_gives_the_same_table(tmp_path: Path) -> None:
    from distributed import LocalCluster  # noqa: PLC0415  an optional extra

    points = points_of(tmp_path, "training.cohort=1,3", "seed=1,2")
    tables = [without_clock(sweep(points, tmp_path / "here", Mode.SIMULATE, Here))]
    for jobs in (1, 2):
        folder = tmp_path / str(jobs)
        sweep(points, folder, Mode.SIMULATE, partial(local_pool, jobs))
        tables.append(without_clock(table_of(folder)))
    with LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        command = ["sweep", str(small_file(tmp_path)), "--grid=training.cohort=1,3", "--grid=seed=1,2"]
        command += [f"--dask={cluster.scheduler_address}", f"--out={tmp_path / 'dask'}"]
        assert CliRunner().invoke(app, command).exit_code == 0
        tables.append(without_clock(table_of(tmp_path / "dask")))
    assert tables[1:] == tables[:1] * 3


def test_two_kinds_of_workers_are_refused(tmp_path: Path) -> None:
    command = ["sweep", str(small_file(tmp_path)), "--grid=seed=1,2", "--jobs=2", "--dask=tcp://127.0.0.1:1"]
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: --jobs counts processes of this machine")


def test_json_is_a_line_per_point(tmp_path: Path) -> None:
    timed(points_of(tmp_path, "seed=1,2"), tmp_path / "s")
    command = ["sweep", str(small_file(tmp_path)), "--grid=seed=1,2", "--mode=timing-only", "--json"]
    result = CliRunner().invoke(app, [*command, f"--out={tmp_path / 's'}"])
    assert [json.loads(line)["seed"] for line in result.stdout.splitlines()] == [1, 2]


def test_seeds_are_replicates_of_each_point(tmp_path: Path) -> None:
    points = load_grid(small_file(tmp_path), [], ["training.cohort=1,3"], seeds=3)
    assert [(point.scenario.training.cohort, point.scenario.seed) for point in points] == [
        (cohort, seed) for cohort in (1, 3) for seed in (3, 4, 5)
    ]
    assert len(load_grid(small_file(tmp_path), ["seed=7"], ["seed=1,2"], seeds=1)) == 1
    command = ["sweep", str(small_file(tmp_path)), "--grid=training.cohort=1,3", "--seeds=3", "--jobs=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sim.commands.sweep.local_pool", lambda _jobs: Here())
        result = CliRunner().invoke(app, [*command, "--mode=timing-only", f"--out={tmp_path / 's'}"])
    assert result.exit_code == 0, result.output
    assert len(table_of(tmp_path / "s")) == 6
    first, *rows = [line.split() for line in result.stdout.splitlines()[:3]]
    assert first == ["cohort", "bytes", "on", "links", "virtual", "s", "difference", "verdict"]
    assert [row[0] for row in rows] == ["1", "3"]
    assert "3 seeds each." in result.stdout


def test_only_keys_that_differ_can_be_compared(tmp_path: Path) -> None:
    command = ["sweep", str(small_file(tmp_path)), "--grid=training.cohort=1,3", "--seeds=2", "--by=seed"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert (
        "--by seed: the runs do not differ in it; compared can be: cohort, training.cohort" in result.output
    )


def test_the_study_of_the_guide_is_a_hundred_runs(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs/study.md").read_text("utf-8")
    file = tmp_path / "my-study.yaml"
    file.write_text(guide.partition("```yaml\n")[2].partition("```")[0])
    points = load_grid(file)
    assert len(points) == 4 * 5 * 5
    assert len({point.scenario.seed for point in points}) == 5
