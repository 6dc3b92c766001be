"""Metrics that are functions of all outputs: on the server's data and on what devices keep for it."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from broker.exits import COMPLETE
from scenarios.errors import ScenarioError
from scenarios.loading.rehearsal import rehearse, rehearse_devices
from scenarios.local import write_share
from scenarios.local.held_out import held_out
from scenarios.metrics import MeanLoss, better_of, number_of
from scenarios.schema.scenario import Scenario
from scenarios.tasks import task_of
from scenarios.training import evaluate, initial_model
from server_node.summary import best_of
from sim.simulation.run import simulate
from tests.helpers import final_score, small_scenario
from tests.small_task import loss, points

F1 = "task.metric={torchmetrics: MulticlassF1Score, num_classes: 4}"
needs_torchmetrics = pytest.mark.skipif(
    importlib.util.find_spec("torchmetrics") is None,
    reason="torchmetrics is not installed: pip install 'fedlite-mqtt[torchmetrics]'",
)


class RarestRecall:
    """Of the class with the lowest recall, that recall: no mean over samples or batches."""

    def __init__(self) -> None:
        self.hits, self.counts = torch.zeros(4), torch.zeros(4)

    def update(self, outputs: Tensor, targets: Tensor, /) -> None:
        self.counts += torch.bincount(targets, minlength=4)
        self.hits += torch.bincount(targets[outputs.argmax(1) == targets], minlength=4)

    def compute(self) -> Tensor:
        return (self.hits / self.counts).min()


class Spread:
    """Between the largest and the smallest output."""

    def __init__(self) -> None:
        self.outputs: list[Tensor] = []

    def update(self, outputs: Tensor, _targets: Tensor, /) -> None:
        self.outputs.append(outputs)

    def compute(self) -> float:
        found = torch.cat(self.outputs)
        return (found.max() - found.min()).item() + len(found)


OWN = """
from dataclasses import replace
from tests import small_task
from tests.scenarios.test_metrics import RarestRecall, Spread, Wary

def task():
    return replace(small_task.task(), metric="rarest recall", score=None, metric_of={made})
"""


def own_metric(folder: Path, made: str = "RarestRecall", *settings: str) -> Scenario:
    (folder / "own_task.py").write_text(OWN.format(made=made))
    return small_scenario(folder, f"task.module={folder / 'own_task.py'}", *settings)


def told(scenario: Scenario) -> str:
    with pytest.raises(ScenarioError) as caught:
        rehearse(scenario)
    return str(caught.value)


def test_a_metric_is_taken_over_all_batches(tmp_path: Path) -> None:
    task = task_of(own_metric(tmp_path))
    head, tail = initial_model(task, 1)
    test = points(700, 5)
    found = evaluate(task, test, head, tail)
    whole = RarestRecall()
    with torch.no_grad():
        whole.update(tail(head(test.inputs)), test.targets)
    assert found == pytest.approx(whole.compute().item())


@pytest.mark.parametrize("codec", ["float32", "float16"])
def test_over_what_devices_keep_it_is_the_same_as_over_all_their_samples(tmp_path: Path, codec: str) -> None:
    shares = {f"c{number}": points(40 + 9 * number, number) for number in range(4)}
    for client, share in shares.items():
        write_share(tmp_path / "own" / client, share)
    settings = (
        "task.partition=local",
        f"task.data={tmp_path / 'own'}",
        "training={rounds: 1, cohort: 4, head_lr: 1.0e-20, tail_lr: 1.0e-20}",
        f"flows.activations_up={{codec: {codec}}}",
    )
    scenario = own_metric(tmp_path, "Spread", *settings, "task.held_out=0.9")
    found = final_score(simulate(scenario, tmp_path / "run"))
    task = task_of(scenario)
    kept = [held_out(share, 0.9, scenario.seed)[1] for share in shares.values()]
    whole = Spread()
    head, tail = (module.eval() for module in initial_model(task, scenario.seed))
    with torch.no_grad():
        for split in kept:
            whole.update(tail(head(split.inputs)), split.targets)
    assert found == pytest.approx(whole.compute(), rel=1e-3 if codec == "float16" else 1e-6)


@pytest.mark.parametrize("method", ["split", "fedavg"])
def test_the_loss_is_a_metric_and_the_lowest_is_the_best(tmp_path: Path, method: str) -> None:
    settings = ("fleet.0.device={whole_model_s: 0.1}", f"training.method={method}")
    summary = simulate(small_scenario(tmp_path, "task.metric=perplexity", *settings), tmp_path / "run")
    metric = summary["metric"]
    assert (metric["name"], metric["better"]) == ("perplexity", "lower")
    assert metric["best"] is not None
    assert 1 < metric["best"] <= final_score(summary) < 4
    plain = simulate(small_scenario(tmp_path, "task.metric=loss", *settings), tmp_path / "plain")
    assert final_score(summary) == pytest.approx(np.exp(final_score(plain)))


def test_a_mean_score_is_better_if_it_is_higher(tmp_path: Path) -> None:
    scenario = small_scenario(tmp_path)
    assert better_of(task_of(scenario)) == "higher"
    assert better_of(task_of(own_metric(tmp_path))) == "higher"
    assert [best_of([1, 3, 2], "higher"), best_of([2, 1, 3], "lower"), best_of([], "lower")] == [3, 1, None]


def test_a_mean_that_is_too_large_is_infinite() -> None:
    metric = MeanLoss(loss, exponential=True)
    metric.update(torch.tensor([[0.0, 1e4]]), torch.tensor([0]))
    assert number_of(metric) == float("inf")


class Wary(Spread):
    """Tells nothing of fewer than 30 samples."""

    def compute(self) -> float:
        if sum(map(len, self.outputs)) < 30:
            raise ValueError("needs at least 30 samples")
        return super().compute()


def test_a_metric_that_cannot_be_told_yet_ends_nothing(tmp_path: Path) -> None:
    for number in range(4):
        write_share(tmp_path / "own" / f"c{number}", points(30, number))
    own = ("task.partition=local", f"task.data={tmp_path / 'own'}", "training.rounds=2")
    for share, known in ((0.9, True), (0.1, False)):
        scenario = own_metric(tmp_path, "Wary", *own, f"task.held_out={share}")
        done = simulate(scenario, tmp_path / str(share))
        assert done["reason"] == COMPLETE
        assert (done["metric"]["final"] is not None) is known


@needs_torchmetrics
def test_torchmetrics_are_named_in_a_scenario(tmp_path: Path) -> None:
    scenario = small_scenario(tmp_path, F1, "training.rounds=10")
    summary = simulate(scenario, tmp_path / "run")
    assert summary["metric"]["name"] == "MulticlassF1Score"
    assert summary["metric"]["better"] == "higher"
    assert 0.5 < final_score(summary) <= 1
    error = small_scenario(tmp_path, "task.metric={torchmetrics: MeanSquaredError}")
    assert better_of(task_of(error)) == "lower"


@needs_torchmetrics
@pytest.mark.parametrize(
    ("metric", "why"),
    [
        (
            "{torchmetrics: MulticlasF1Score}",
            "torchmetrics has no metric 'MulticlasF1Score'; did you mean 'Mul",
        ),
        ("{torchmetrics: Metric}", "Metric cannot be made: TypeError: "),
        ("{torchmetrics: MulticlassF1Score, classes: 4}", "MulticlassF1Score cannot be made: TypeError: "),
        (
            "{torchmetrics: MulticlassF1Score, num_classes: 4, average: null}",
            "the metric fails: TypeError: it gives shape (4,), it must give one number",
        ),
        (
            "{torchmetrics: R2Score}",
            "the metric, given shape (31, 4) and dtype float32 fails: Runtime",
        ),
    ],
)
def test_metrics_that_do_not_fit_are_refused_in_one_sentence(tmp_path: Path, metric: str, why: str) -> None:
    found = told(small_scenario(tmp_path, f"task.metric={metric}"))
    assert why in found
    assert "\n" not in found


@pytest.mark.parametrize(
    ("metric", "why"),
    [
        ("f1", r"task\.metric: must be loss or perplexity or a mapping"),
        ("{name: F1Score}", r"task\.metric: must name a metric: \{torchmetrics: MulticlassF1Score"),
        ("[loss]", r"task\.metric: must be"),
        ("{torchmetrics: F1Score, x: [1]}", r"task\.metric: x must be text, a number, true, false or null"),
    ],
)
def test_other_names_are_told(tmp_path: Path, metric: str, why: str) -> None:
    with pytest.raises(ScenarioError, match=why):
        small_scenario(tmp_path, f"task.metric={metric}")


def test_devices_do_without_torchmetrics_and_the_server_is_told_what_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent: Any = None
    monkeypatch.setitem(sys.modules, "torchmetrics", absent)
    scenario = small_scenario(tmp_path, F1)
    rehearse_devices(scenario, task_of(scenario), ["c0"])
    assert told(scenario) == (
        "task.metric: MulticlassF1Score is of torchmetrics, which is not installed: "
        "pip install 'fedlite-mqtt[torchmetrics]' brings it"
    )


@pytest.mark.parametrize("changes", ["score=None", "score=len, metric_of=len"])
def test_a_task_has_a_score_or_a_metric(tmp_path: Path, changes: str) -> None:
    (tmp_path / "own_task.py").write_text(
        f"{OWN.partition('def task')[0]}\ndef task():\n    return replace(small_task.task(), {changes})\n"
    )
    with pytest.raises(ScenarioError, match="ValueError: a task has either score or metric_of"):
        small_scenario(tmp_path, f"task.module={tmp_path / 'own_task.py'}")


def test_what_metric_of_makes_must_be_a_metric(tmp_path: Path) -> None:
    assert told(own_metric(tmp_path, "dict")).endswith(
        "given shape (31, 4) and dtype float32 fails: TypeError: update expected at most 1 argument, got 2"
    )
