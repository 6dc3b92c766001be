"""A model that is cut needs no loss and no score of its own: those of its kind of targets are known."""

from pathlib import Path

import pytest
import torch
from torch import nn

from scenarios.errors import ScenarioError
from scenarios.task import Labels
from scenarios.tasks.usual import (
    Accuracy,
    class_losses,
    likeliest,
    mixed_losses,
    squares,
    tag_losses,
    tag_scores,
    usual,
)
from sim.simulation.run import simulate
from tests.helpers import final_score, small_scenario

MODULE = """
import torch
from torch import nn
from scenarios.task import Dataset, Labels, Numbers, Probabilities, Split, Tags

targets = {targets}

def build():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, {outputs}))

def data():
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(1))
    y = {of}
    return Dataset(Split(x[100:], y[100:]), Split(x[:100], y[:100]))
"""
KINDS = {
    "a number": ("Numbers()", 1, "x[:, 0] - x[:, 1]"),
    "numbers": ("Numbers((2, 2))", 4, "x[:, :4].reshape(-1, 2, 2)"),
    "tags": ("Tags(3)", 3, "(x[:, :3] > 0).int()"),
    "soft labels": ("Probabilities(4)", 4, "(2 * x[:, :4]).softmax(1)"),
    "ignored": ("Labels(2, ignore=-1)", 2, "(x[:, 0] > 0).long().masked_fill(x[:, 1] > 1, -1)"),
}


def settings_of(folder: Path, targets: str, outputs: int, of: str) -> list[str]:
    (folder / "mine.py").write_text(MODULE.format(targets=targets, outputs=outputs, of=of))
    task = f"{{name: mine, module: {folder / 'mine.py'}, cut: 1, partition: iid, batch_size: 10}}"
    return [f"task={task}", "training={cohort: 3, head_lr: 0.1, tail_lr: 0.1}"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_every_kind_learns(tmp_path: Path, kind: str) -> None:
    settings = settings_of(tmp_path, *KINDS[kind])
    first, last = (
        simulate(small_scenario(tmp_path, *settings, f"training.rounds={rounds}"), tmp_path / str(rounds))
        for rounds in (1, 60)
    )
    gain = final_score(last) - final_score(first)
    assert last["metric"]["better"] == ("lower" if "number" in kind else "higher")
    assert (-gain if "number" in kind else gain) > 0.05


def test_several_outputs_need_a_loss_and_a_score(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "{'a': Numbers()}", 1, "x[:, 0]")
    with pytest.raises(ScenarioError, match="targets of several outputs need a loss and a score of yours"):
        small_scenario(tmp_path, *settings)


def test_losses_are_those_of_torch() -> None:
    outputs, numbers = torch.randn(5, 4), torch.randn(5, 2, 2)
    f = nn.functional
    assert torch.allclose(squares(outputs, numbers).mean(), f.mse_loss(outputs.view(5, 2, 2), numbers))
    mixed = torch.rand(5, 4).softmax(1)
    assert torch.allclose(mixed_losses(outputs, mixed).mean(), f.cross_entropy(outputs, mixed))
    tags = torch.randint(0, 2, (5, 4))
    expected = f.binary_cross_entropy_with_logits(outputs, tags.float())
    assert torch.allclose(tag_losses(outputs, tags).mean(), expected)
    labels, maps = torch.tensor([[1, -1], [3, 0], [-1, -1]]), torch.randn(3, 4, 2)
    kept = class_losses(maps, labels, ignore=-1)
    for at in range(2):
        assert torch.allclose(kept[at], f.cross_entropy(maps[at].T, labels[at], ignore_index=-1))
    assert kept[2] == 0


def test_scores_are_as_they_are_defined() -> None:
    outputs, tags = torch.randn(50, 4), torch.randint(0, 2, (50, 4))
    found = tag_scores(outputs, tags).tolist()
    for guesses, wanted, score in zip((outputs > 0).tolist(), tags.bool().tolist(), found, strict=True):
        guessed, had = ({at for at, one in enumerate(each) if one} for each in (guesses, wanted))
        both = len(guessed & had)
        precision, recall = both / max(1, len(guessed)), both / max(1, len(had))
        expected = 2 * precision * recall / (precision + recall) if both else float(not guessed | had)
        assert score == pytest.approx(expected)
    assert likeliest(torch.eye(3), torch.eye(3)[[0, 2, 2]] * 0.9).tolist() == [1, 0, 1]
    metric = Accuracy(-1)
    metric.update(torch.eye(3), torch.tensor([0, -1, 1]))
    metric.update(torch.eye(3)[:1], torch.tensor([0]))
    assert metric.compute() == pytest.approx(2 / 3)


def test_what_a_module_says_takes_the_place_of_what_is_usual() -> None:
    assert usual({"targets": Labels(3, ignore=-1), "score": len}).keys() == {"metric", "loss"}
    assert usual({"metric_of": Accuracy}).keys() == {"metric", "loss"}
