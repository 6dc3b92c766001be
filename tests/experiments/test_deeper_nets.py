"""The study of a deeper net: its codecs fit the places where the net is cut."""

from pathlib import Path

import pytest

from scenarios.heads.parts import form_of
from scenarios.tasks import load_task
from sim.experiments.study.points import StudyRun, load_runs

STUDY = Path(__file__).parents[2] / "benchmarks/deeper-nets.yaml"


@pytest.fixture(scope="module")
def runs() -> list[StudyRun]:
    return load_runs(str(STUDY))[1]


@pytest.mark.parametrize(
    ("cut", "values", "parameters"), [("layer1", 3_136, 9_520), ("layer2", 1_568, 42_608)]
)
def test_every_codec_fits_its_cut(runs: list[StudyRun], cut: str, values: int, parameters: int) -> None:
    scenarios = [run.grid_run.point.scenario for run in runs if run.task.name == cut]
    task = load_task(scenarios[0].task)
    assert (task.cut_size, form_of(task.head()).parameters) == (values, parameters)
    for scenario in scenarios:
        assert scenario.task.cut == cut
        scenario.flows.activations_up.check(values)
        scenario.flows.head_update_up.check(parameters)
        scenario.flows.head_state_down.check(parameters)
