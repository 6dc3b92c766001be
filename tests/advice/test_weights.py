"""Codecs are measured with the weights that a run has trained, wherever its model was cut."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from typer.testing import CliRunner

from broker.cli.commands import app
from broker.errors import RunError
from scenarios.cutting.cut import Cut
from scenarios.cutting.finding import find_cut
from scenarios.tasks import load_task
from scenarios.training import initial_model
from server_node.checkpoint import save_model, tensors_of
from sim.advice.batches import first_batches
from sim.advice.weights import load_weights
from sim.simulation.run import simulate
from tests.cutting.nets import ResNet, images
from tests.helpers import small_file, small_scenario

LAYERS = ["relu", "maxpool", "layer1.0", "layer1", "layer2.0", "layer2", "avgpool"]
CUTS: dict[str, Cut] = {}


def cut_at(layer: str) -> Cut:
    if layer not in CUTS:
        CUTS[layer] = find_cut(ResNet, layer, images())
    return CUTS[layer]


def outputs_of(head: nn.Module, tail: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        outputs: torch.Tensor = tail.eval()(head.eval()(images()))
    return outputs


@settings(max_examples=8, deadline=None)
@given(trained=st.sampled_from(LAYERS), wanted=st.sampled_from(LAYERS), seed=st.integers(0, 99))
def test_weights_of_one_cut_fit_every_other(
    tmp_path_factory: pytest.TempPathFactory, trained: str, wanted: str, seed: int
) -> None:
    run = tmp_path_factory.mktemp("run")
    torch.manual_seed(seed)
    parts = cut_at(trained).head(), cut_at(trained).tail()
    save_model(run / "model.safetensors", tensors_of(*parts))
    others = cut_at(wanted).head(), cut_at(wanted).tail()
    assert not torch.equal(outputs_of(*others), outputs_of(*parts))
    load_weights(run, *others)
    torch.testing.assert_close(outputs_of(*others), outputs_of(*parts))


def test_a_part_takes_its_own_weights_where_the_other_has_such_a_name_too(tmp_path: Path) -> None:
    head, tail = nn.Linear(3, 3), nn.Linear(3, 3)
    save_model(tmp_path / "model.safetensors", tensors_of(head, tail))
    load_weights(tmp_path, *(others := (nn.Linear(3, 3), nn.Linear(3, 3))))
    assert torch.equal(others[0].weight, head.weight)
    assert torch.equal(others[1].weight, tail.weight)


def test_batches_go_through_the_weights_of_the_run(tmp_path: Path) -> None:
    scenario = small_scenario(tmp_path, "training.rounds=2", "training.evaluate_every=2")
    simulate(scenario, tmp_path / "run")
    task = load_task(scenario.task)
    head, tail = initial_model(task, scenario.seed)
    load_weights(tmp_path / "run", head, tail)
    before, after = (next(first_batches(scenario, task, 10, run)) for run in (None, tmp_path / "run"))
    inputs = task.load().train.inputs
    with torch.no_grad():
        possible = head.eval()(inputs).numpy()
    assert not np.array_equal(before.z, after.z)
    kept = after.z != 0  # the head has dropout
    assert any(np.allclose(after.z[0][kept[0]], 1 / 0.9 * each[kept[0]], atol=1e-5) for each in possible)


def test_what_is_no_trained_run_of_this_model_is_told_in_one_sentence(tmp_path: Path) -> None:
    file, other = small_file(tmp_path), nn.Sequential(nn.Linear(8, 12))
    with pytest.raises(RunError, match=r"no model\.safetensors in"):
        load_weights(tmp_path, other, other)
    save_model(tmp_path / "model.safetensors", tensors_of(other, other))
    for arguments in (["--json"], []):
        told = CliRunner().invoke(
            app, ["advise", str(file), "--rows=10", f"--weights={tmp_path}", *arguments]
        )
        assert told.exit_code == 2
        assert told.output == (
            f"error: {tmp_path} has trained another model: the scenario's head has 0.weight of shape "
            "(16, 8), and the run has one of shape (12, 8)\n"
        )
    save_model(tmp_path / "model.safetensors", {})
    with pytest.raises(RunError, match="and the run has no such tensor"):
        load_weights(tmp_path, other, other)
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(RunError, match="cannot be read"):
        load_weights(tmp_path, other, other)


def test_the_advice_says_whose_weights_they_are(tmp_path: Path) -> None:
    file = small_file(tmp_path)
    scenario = small_scenario(tmp_path)
    save_model(tmp_path / "model.safetensors", tensors_of(*initial_model(load_task(scenario.task), 7)))
    told = CliRunner().invoke(app, ["advise", str(file), "--rows=10", f"--weights={tmp_path}"])
    assert told.exit_code == 0, told.output
    assert f"The weights are those of {tmp_path}: train with it" in told.output
