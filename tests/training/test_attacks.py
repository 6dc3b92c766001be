"""A hostile device in a whole run: whatever it sends and whenever it begins, the others finish."""

import math
from pathlib import Path

import pytest

from benchmarks.attacks import ATTACKS, RULES, WRONG_LABELS, attacked
from tests.helpers import small_scenario

FOUR = ("training.cohort=4", "flows.head_update_up={codec: float32}")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_device_never_ends_the_run(tmp_path: Path, attack: str, rule: str) -> None:
    """It may ruin the model under the plain mean; the run still reaches its last round."""
    scenario = small_scenario(tmp_path, *FOUR, f"training.aggregation={rule}", "training.rounds=10")
    reason, score, _ = attacked(scenario, attack)
    assert reason == "complete"
    assert not math.isnan(score)


@pytest.mark.parametrize("attack", ATTACKS)
def test_wrong_labels_are_left_out_and_nothing_else_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, attack: str
) -> None:
    scenario = small_scenario(tmp_path, *FOUR, "training.aggregation=filtered_mean", "training.rounds=30")
    reason, score, ledger = attacked(scenario, attack)
    assert reason == "complete"
    assert score > 0.9
    assert list(ledger.refused_of) == (["c3"] if attack == "absent" else [])
    told = [record.message for record in caplog.records if "is left out" in record.message]
    assert len(told) == (attack in WRONG_LABELS)
    assert all("c3 is left out" in line for line in told)


@pytest.mark.parametrize("attack", ["reversed", "mixed"])
def test_a_hostile_client_of_fedavg_never_ends_the_run(tmp_path: Path, attack: str) -> None:
    settings = (*FOUR, "training.method=fedavg", "training.aggregation=clipped_mean", "training.rounds=10")
    reason, _, _ = attacked(small_scenario(tmp_path, *settings), attack)
    assert reason == "complete"
