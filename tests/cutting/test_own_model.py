"""A model and data of one's own, with the layer to cut at in the scenario."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from broker.cli.commands import app
from broker.exits import COMPLETE
from scenarios.errors import ScenarioError
from scenarios.loading.load import load_scenario
from scenarios.tasks import task_of
from scenarios.tasks.usual import class_losses, right_share
from scenarios.training import initial_model
from sim.simulation.run import simulate
from tests.helpers import final_score, small_scenario

PAGE = Path(__file__).parents[2] / "docs/own-model.md"
LISTED, MODULE, SCENARIO = (
    re.findall(rf"^```{kind}(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)[0]
    for kind in ("(?=\n cut)", "python\n", "yaml\n")
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder with the guide's files, and go there."""
    (tmp_path / "mine.py").write_text(MODULE)
    (tmp_path / "mine.yaml").write_text(SCENARIO)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fedlite(*words: str) -> str:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code in {0, 2}, result.output
    return result.output


def error_of(folder: Path, text: str, *settings: str) -> str:
    (folder / "mine.py").write_text(text)
    with pytest.raises(ScenarioError) as caught:
        load_scenario("mine.yaml", settings)
    return str(caught.value).removeprefix("mine.yaml:2: ")


# the guide


def test_an_own_model_with_own_data_takes_at_most_15_lines() -> None:
    assert len(MODULE.strip().splitlines()) <= 15


@pytest.mark.usefixtures("folder")
def test_every_line_of_the_guide_runs() -> None:
    commands = re.findall(r"^fedlite (.*)$", PAGE.read_text(), flags=re.MULTILINE)
    outputs = [fedlite(*command.split()) for command in commands]
    assert [command.split()[0] for command in commands] == ["scenarios", "scenarios", "simulate"]
    assert outputs[0].split()[: len(LISTED.split())] == LISTED.split()
    assert outputs[1].startswith(
        "mine: valid, 4 clients, 100 rounds\nmine: a device with one client needs about "
    )
    assert "100 rounds" in outputs[2]


def test_the_guides_model_learns(folder: Path) -> None:
    scenario = load_scenario("mine.yaml")
    summary = simulate(scenario, folder / "run")
    assert summary["reason"] == COMPLETE
    assert final_score(summary) > 0.9


def test_a_task_is_named_after_its_module(folder: Path) -> None:
    assert load_scenario("mine.yaml").task.name == "mine"
    assert load_scenario("mine.yaml", ["task.name=other"]).task.name == "other"
    assert task_of(load_scenario("mine.yaml")).name == "mine"
    assert folder.is_dir()


# mistakes


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ((": 1", ": 9"), "task.cut: no layer '9'; layers, the nearest name first: 0, 1, 2, 3, 4"),
        (("cut: 1, ", ""), "task.cut: must name the layer to cut build() at; `fedlite scenarios cuts` lists"),
        (("cut: 1", "cut: 1, model: net"), "task.model: there is no function net() -> nn.Module in "),
        (("module: mine.py, ", ""), "task.cut: goes with task.module: the built-in tasks have their own cut"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_scenario_is_told(folder: Path, change: tuple[str, str], told: str) -> None:
    (folder / "mine.yaml").write_text(SCENARIO.replace(*change, 1))
    assert error_of(folder, MODULE).startswith(told)


NEEDED = "task.module: there must be a function data() -> Dataset, or for partition local example() -> Tensor"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("def data", "def rows"), NEEDED),
        (("(400, 8)", "(400, 9)"), "task.module: data() fails: RuntimeError: The size of tensor"),
        (("return Dataset", "return dict"), "task.module: data() gives a dict, it must give a Dataset"),
        (("nn.Linear(8, 16)", "nn.Linear(7, 16)"), "task.cut: fails, given inputs of shape (3, 8)"),
        (("nn.Linear(8, 16)", "nn.Linear(8)"), "task.model: build() fails: TypeError: "),
        (("return nn.Seq", "return 1 #"), "task.cut: gives a int, it must give a torch.nn.Module"),
        (("nn.Linear(16, 4)", "nn.Linear(16, 1), nn.Flatten(0)"), "task.module: the model gives (3,) for 3"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_module_is_told(folder: Path, change: tuple[str, str], told: str) -> None:
    assert error_of(folder, MODULE.replace(*change)).startswith(told)


# what follows from model and data


def test_classes_are_found_wherever_they_are() -> None:
    targets = torch.tensor([[0, 2], [1, 1]])
    last = torch.randn(2, 2, 3)
    expected = nn.functional.cross_entropy(last.flatten(0, 1), targets.flatten(), reduction="none")
    torch.testing.assert_close(class_losses(last, targets), expected.view(2, 2).mean(1))
    torch.testing.assert_close(class_losses(last.movedim(2, 1), targets), expected.view(2, 2).mean(1))
    guesses = nn.functional.one_hot(torch.tensor([[0, 1], [1, 1]]), 3).float()
    assert right_share(guesses, targets).tolist() == [0.5, 1.0]
    assert right_share(guesses.movedim(2, 1), targets).tolist() == [0.5, 1.0]
    single = torch.randn(4, 3)
    losses = nn.functional.cross_entropy(single, torch.tensor([0, 1, 2, 0]), reduction="none")
    torch.testing.assert_close(class_losses(single, torch.tensor([0, 1, 2, 0])), losses)


def test_a_module_may_say_what_does_not_follow(folder: Path) -> None:
    (folder / "mine.py").write_text(
        MODULE + "\nclasses = 9\nmetric = 'share'\n\ndef score(outputs, targets):\n    return outputs[:, 0]\n"
    )
    task = task_of(load_scenario("mine.yaml"))
    assert (task.classes, task.metric, task.target_shape) == (9, "share", ())
    assert task.score is not None
    assert task.score(torch.ones(2, 4), torch.zeros(2)).tolist() == [1.0, 1.0]
    assert task.loss is class_losses


def test_both_sides_begin_with_the_same_weights_every_time(folder: Path) -> None:
    scenario = load_scenario("mine.yaml")
    made = [initial_model(task_of(scenario), scenario.seed) for _ in range(2)]
    for first, second in zip(*made, strict=True):
        for one, other in zip(first.parameters(), second.parameters(), strict=True):
            assert torch.equal(one, other)
    assert folder.is_dir()


NETS = """import torch

from scenarios.task import Dataset, Split
from tests.cutting.nets import *


def data():
    x = {inputs}(40)
    y = torch.arange(40) % 5
    return Dataset(Split(x, y), Split(x[:9], y[:9]))
"""


@pytest.mark.parametrize(
    ("model", "cut", "inputs"), [("Recurrent", "first", "words"), ("Around", "outer", "images")]
)
@pytest.mark.parametrize("method", ["split", "fedavg"])
def test_models_of_several_kinds_train(folder: Path, model: str, cut: str, inputs: str, method: str) -> None:
    (folder / "nets.py").write_text(NETS.format(inputs=inputs))
    task = [f"task.module={folder}/nets.py", f"task.model={model}", f"task.cut={cut}", "task.name=nets"]
    options = ["training.rounds=2", f"training.method={method}", "task.batch_size=4"]
    scenario = small_scenario(folder, *task, *options, "flows.activations_up={codec: int8}")
    assert simulate(scenario, folder / "run")["reason"] == COMPLETE


# two cuts


def u_shape(*settings: str) -> list[str]:
    return ["task.second_cut=3", "training.method=u_shape", "training.rounds=30", *settings]


def test_with_a_second_cut_labels_stay_on_devices(folder: Path) -> None:
    scenario = load_scenario("mine.yaml", u_shape("flows.activations_up={codec: int8}"))
    summary = simulate(scenario, folder / "run")
    assert summary["metric"]["final"] is not None
    assert summary["metric"]["final"] > 0.75
    steps = 30 * 3 * 20
    assert summary["bytes"]["features_down"]["raw_float32"] == steps * 16 * 4


@pytest.mark.usefixtures("folder")
def test_the_last_layer_may_be_the_servers() -> None:
    task = task_of(load_scenario("mine.yaml", u_shape("task.second_cut=4")))
    assert task.features_shape == (4,)
    assert task.top is not None
    assert list(task.top().parameters()) == []


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("task.second_cut=9", "task.second_cut: no layer '9'; layers, the nearest name first: 0, 1, 2, 3, 4"),
        ("task.second_cut=0", "task.second_cut: '0' must come after '1': '1' is not called"),
        ("task.second_cut=1", "task.second_cut: '1' must come after '1': "),
        ("task.cut=null", "task.second_cut: goes with task.cut"),
        ("task.second_cut=null", "training.method: u_shape needs to know the last layers"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_mistakes_about_the_second_cut(setting: str, told: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        load_scenario("mine.yaml", u_shape(setting))
    assert told in str(caught.value)
