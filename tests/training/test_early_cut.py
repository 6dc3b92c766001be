"""Slow devices have the first part of the head, and the server does the rest: nothing else changes."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from server_node.summary import Summary
from sim.simulation.run import simulate
from tests.helpers import small_scenario

LADDER = f"task.module={Path(__file__).parents[1] / 'ladder_task.py'}"
FLOAT = tuple(
    f"flows.{flow}={{codec: float32}}"
    for flow in ("activations_up", "gradient_down", "head_update_up", "head_state_down")
)
LAYERS = 7  # before the last one of the ladder's head
POLICIES = (
    "{policy: wait_all}",
    "{policy: over_select, extra: 1}",
    "{policy: buffered, buffer: 2, max_staleness: 2}",
)
RULES: tuple[tuple[str, ...], ...] = (
    (),
    ("training.head_optimizer={momentum: 0.9, nesterov: true, weight_decay: 0.01}",),
    ("training.head_optimizer={kind: adamw}", "training.head_lr=0.01"),
    ("training.proximal_mu=1.0", "training.tail_updates=2"),
    ("training.aggregation=trimmed_mean",),
    ("training.aggregation=filtered_mean", "training.server_optimizer={kind: adam, lr: 0.1}"),
    ("training.lr_decay=linear", "training.warmup_rounds=2"),
)


def fleet_of(cuts: Sequence[int | None]) -> str:
    """Write a fleet of one client for each cut; None: it has the whole head."""
    groups = ["{count: 1}" if cut is None else f"{{count: 1, cut: {cut}}}" for cut in cuts]
    return f"fleet=[{', '.join(groups)}]"


def learned(folder: Path, *given: str) -> tuple[dict[str, torch.Tensor], Summary]:
    """Simulate a few rounds of the ladder; gives the model and the summary."""
    scenario = small_scenario(folder, LADDER, "training.rounds=3", *given)
    summary = simulate(scenario, folder / "run", threads=1)
    return load_file(folder / "run/model.safetensors"), summary


def both(whole: Sequence[str], early: Sequence[str]) -> tuple[Any, Any]:
    """Simulate with whole heads and with early cuts."""
    with TemporaryDirectory() as one, TemporaryDirectory() as other:
        return learned(Path(one), *whole), learned(Path(other), *early)


@settings(max_examples=6, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.sampled_from([None, *range(LAYERS)]), min_size=4, max_size=4),
    st.integers(1, 3),
    st.sampled_from(POLICIES),
    st.sampled_from(RULES),
)
def test_the_model_is_that_of_whole_heads(
    cuts: list[int | None], steps: int, policy: str, rules: tuple[str, ...]
) -> None:
    given = [*FLOAT, f"training.local_steps={steps}", f"stragglers={policy}", *rules]
    (whole, of_whole), (parted, of_parted) = both([*given, fleet_of([None] * 4)], [*given, fleet_of(cuts)])
    assert whole.keys() == parted.keys()
    wrong = [name for name, tensor in whole.items() if not torch.equal(tensor, parted[name])]
    assert wrong == []
    assert of_whole["metric"] == of_parted["metric"]
    assert of_whole["client_steps"] == of_parted["client_steps"]
