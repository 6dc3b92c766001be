"""The grid that a scenario sweeps, and how mistakes in it are told."""

from pathlib import Path

import pytest

from broker.codecs import Pq
from scenarios.errors import ScenarioError
from scenarios.loading.grid import GridPoint, load_grid
from scenarios.loading.load import dump_resolved, load_scenario
from scenarios.schema.scenario import scenario_digest
from tests.helpers import SMALL
from tests.scenarios.schema_walk import keys_of


def write(folder: Path, sweep: str = "") -> Path:
    path = folder / "my.yaml"
    path.write_text(f"{SMALL.strip()}\n{sweep}")
    return path


def grid_of(folder: Path, sweep: str = "", *grid: str) -> list[GridPoint]:
    return load_grid(write(folder, sweep), [], grid)


def error_of(folder: Path, sweep: str = "", *grid: str) -> list[str]:
    with pytest.raises(ScenarioError) as caught:
        grid_of(folder, sweep, *grid)
    return str(caught.value).replace(f"{folder}/", "").splitlines()


def test_the_grid_is_the_product_and_the_last_key_varies_fastest(tmp_path: Path) -> None:
    points = grid_of(tmp_path, "sweep: {training.correction.lambda: [0, 1.0e-5], training.cohort: [2, 3]}")
    assert [list(point.values.values()) for point in points] == [[0, 2], [0, 3], [1e-5, 2], [1e-5, 3]]
    assert [point.scenario.training.cohort for point in points] == [2, 3, 2, 3]
    assert points[2].scenario.training.correction.lambda_ == 1e-5


def test_list_items_and_whole_mappings_can_be_swept(tmp_path: Path) -> None:
    points = grid_of(
        tmp_path,
        "sweep:\n"
        "  fleet.0.link: [3g, {uplink_kbps: 64}]\n"
        "  flows.activations_up: [{codec: float32}, {codec: pq, centroids: 2}]\n",
    )
    assert [point.scenario.fleet[0].link == "3g" for point in points] == [True, True, False, False]
    second = points[1]
    assert second.values == {
        "fleet.0.link": "3g",
        "flows.activations_up": {"codec": "pq", "centroids": 2},
    }
    assert second.scenario.flows.activations_up == Pq(subvectors=4, groups=1, centroids=2)  # over the file's


def test_the_command_line_adds_keys_and_replaces_them(tmp_path: Path) -> None:
    points = grid_of(tmp_path, "sweep: {seed: [1, 2]}", "seed=7", "training.cohort=1,2")
    assert [point.values for point in points] == [
        {"seed": 7, "training.cohort": 1},
        {"seed": 7, "training.cohort": 2},
    ]


def test_values_on_the_command_line_may_be_mappings(tmp_path: Path) -> None:
    points = grid_of(tmp_path, "", "flows.gradient_down={codec: float32},{codec: int4}")
    assert [point.scenario.flows.gradient_down.codec for point in points] == ["float32", "int4"]


def test_a_single_run_knows_nothing_of_the_sweep(tmp_path: Path) -> None:
    plain = load_scenario(write(tmp_path))
    swept = load_scenario(write(tmp_path, "sweep: {seed: [1, 2]}"))
    assert swept == plain
    assert scenario_digest(swept) == scenario_digest(plain)
    [point] = grid_of(tmp_path, "sweep: {training.cohort: [2]}")
    assert "sweep" not in dump_resolved(point.scenario)


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        (
            "sweep: {task.partitoin: [iid]}",
            (
                "my.yaml:12: task.partitoin: unknown key; did you mean 'partition'? allowed: "
                f"{keys_of('task')}"
            ),
        ),
        (
            "sweep:\n  training.cohort: [1, 9]",
            "my.yaml:13: training.cohort: must be at most the fleet's 4 clients, not 9",
        ),
        (
            "sweep:\n  training.cohort:\n    - 1\n    - many",
            "my.yaml:15: training.cohort: must be a whole number >= 1, not 'many'",
        ),
        ("sweep: [1]", "my.yaml:12: sweep: must be a mapping of key paths to lists of values"),
        ("sweep: {seed: 1}", "my.yaml:12: sweep.seed: must be a list of at least one value"),
        ("sweep: {seed: []}", "my.yaml:12: sweep.seed: must be a list of at least one value"),
        (
            "sweep: {training..x: [1]}",
            "my.yaml:12: sweep.training..x: must be a key path like training.cohort",
        ),
        ("sweep: {fleet.3.count: [1]}", "my.yaml:12: '3' is no item of the list; it has items 0 to 0"),
        ("sweep: {seed: [1, 2, 1]}", "sweep: {'seed': 1} and {'seed': 1} are the same scenario"),
        ("", "my.yaml: sweeps nothing; give it a key sweep, --grid training.cohort=5,10 or --seeds 5"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_that_says_where(tmp_path: Path, sweep: str, message: str) -> None:
    assert error_of(tmp_path, sweep) == [message]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (
            "training.cohort=1,9",
            "--grid training.cohort=1,9: training.cohort: must be at most the fleet's 4 clients, not 9",
        ),
        ("seed", "--grid seed: must be like training.cohort=5,10"),
        ("seed=", "--grid seed=: must be like training.cohort=5,10"),
        (".seed=1", "--grid .seed=1: must be like training.cohort=5,10"),
        ("seed=[", "--grid seed=[: not YAML: the end of a list or mapping is missing: a ] or }"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(tmp_path: Path, grid: str, message: str) -> None:
    assert error_of(tmp_path, "", grid) == [message]


def test_the_mistakes_of_all_points_are_told_once(tmp_path: Path) -> None:
    assert error_of(tmp_path, "sweep:\n  training.cohort: [0, 9]\n  seed: [1, 2]") == [
        "my.yaml:13: training.cohort: must be a whole number >= 1, not 0",
        "my.yaml:13: training.cohort: must be at most the fleet's 4 clients, not 9",
    ]
