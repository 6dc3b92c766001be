"""Targets of every kind train, simulated and live, with the same bytes; what does not fit is refused."""

import re
from pathlib import Path

import pytest

from broker.exits import COMPLETE
from scenarios.errors import ScenarioError
from scenarios.loading.rehearsal import rehearse
from server_node.calibrate import timed_rounds
from sim.simulation.run import simulate
from tests.cases.target_kinds import BROKEN, GOOD
from tests.helpers import small_scenario


def settings_of(folder: Path, collection: str, name: str) -> list[str]:
    module = folder / "kind_task.py"
    made = f"{collection}[{name!r}]{'[0]' if collection == 'BROKEN' else ''}"
    module.write_text(f"from tests.cases.target_kinds import {collection}\n\ntask = {made}\n")
    return ["task.name=kind", f"task.module={module}", "task.partition=iid"]


@pytest.mark.parametrize("name", GOOD)
def test_targets_of_every_kind_are_learned(tmp_path: Path, name: str) -> None:
    settings = [*settings_of(tmp_path, "GOOD", name), "training.rounds=12"]
    done = simulate(small_scenario(tmp_path, *settings), tmp_path / "run")
    first = simulate(small_scenario(tmp_path, *settings, "training.rounds=1"), tmp_path / "first")
    assert done["reason"] == COMPLETE
    assert done["messages"]["rejected"] == 0
    begun, ended = first["metric"]["final"], done["metric"]["final"]
    assert begun is not None
    assert ended is not None
    assert ended > begun


@pytest.mark.parametrize("name", BROKEN)
def test_targets_that_do_not_fit_are_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        rehearse(small_scenario(tmp_path, *settings_of(tmp_path, "BROKEN", name)))
    told = str(caught.value)
    assert re.sub(r"in row \d+:", "in row N:", told).endswith(BROKEN[name][1])
    assert "\n" not in told


@pytest.mark.parametrize(
    "setting", ["task.partition={dirichlet_alpha: 1}", "training.aggregation=filtered_mean"]
)
@pytest.mark.parametrize("name", GOOD)
def test_what_needs_one_class_for_each_sample_is_refused(tmp_path: Path, name: str, setting: str) -> None:
    with pytest.raises(ScenarioError, match="needs one class per sample; this task has other targets"):
        small_scenario(tmp_path, *settings_of(tmp_path, "GOOD", name), setting)


@pytest.mark.parametrize("name", GOOD)
def test_what_stands_in_for_training_has_targets_that_fit(tmp_path: Path, name: str) -> None:
    scenario = small_scenario(tmp_path, *settings_of(tmp_path, "GOOD", name), "training.rounds=2")
    done = simulate(scenario, tmp_path / "run", timing_only=True)
    assert (done["reason"], done["messages"]["rejected"]) == (COMPLETE, 0)
    assert all(seconds > 0 for seconds in next(timed_rounds(scenario, 0.0)).values())


def test_with_fedavg_the_loss_gets_the_same_targets(tmp_path: Path) -> None:
    for name in ("numbers", "tags", "two outputs"):
        settings = [*settings_of(tmp_path, "GOOD", name), "training.method=fedavg", "training.rounds=2"]
        lasting = "fleet.0.device={whole_model_s: 0.1}"
        done = simulate(small_scenario(tmp_path, *settings, lasting), tmp_path / name)
        assert done["reason"] == COMPLETE
