"""Targets that a task cannot have never reach its loss, and only their sender is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from broker.codecs import Float32
from broker.wire.errors import WireError
from broker.wire.messages import Activations
from scenarios.outputs import arrays, of_each, outputs_of
from scenarios.training import initial_model
from server_node.tail import Tail
from server_node.vocabulary.jobs import TailStep, TailStepped
from tests.cases.target_kinds import GOOD
from tests.helpers import plan_of, small_scenario
from tests.scenarios.test_target_kinds import settings_of

N = 4
FLOAT32 = ["flows.activations_up={codec: float32}", "flows.gradient_down={codec: float32}"]


def batch(targets: bytes) -> Activations:
    z = np.random.default_rng(0).standard_normal((N, 16)).astype(np.float32)
    return Activations(1, 1, 0, 1, N, Float32().encode(z, np.random.default_rng(0)), targets)


def step(folder: Path, name: str, hostile: bytes) -> tuple[TailStepped, list[Any]]:
    """Send an honest and a hostile batch through the tail; gives also the targets that the loss was given."""
    scenario = small_scenario(folder, *settings_of(folder, "GOOD", name), *FLOAT32)
    made, seen = GOOD[name](), list[Any]()

    def loss(outputs: Any, targets: Any) -> Tensor:
        seen.append(targets)
        return made.loss(outputs, targets)

    task = replace(made, loss=loss)
    head, tail = initial_model(task, 0)
    server = Tail(task, None, head=head, tail=tail, plan=plan_of(scenario, task), training=scenario.training)
    honest = made.kind.encode(made.kind.example(N, np.random.default_rng(1)))
    result = server.run(TailStep(1, 0, (("a", batch(honest), 1.0), ("b", batch(hostile), 1.0))))
    assert isinstance(result, TailStepped)
    return result, seen


HOSTILE = {
    "one number": (np.array([1, 2, np.nan, 4], "<f4").tobytes(), "not-finite"),
    "numbers": (np.full(2 * N, np.inf, "<f4").tobytes(), "not-finite"),
    "tags": (b"\xff" * 10, "malformed"),
    "soft labels": (np.full(4 * N, 0.5, "<f4").tobytes(), "range"),
    "some labels are ignored": (b"\xff\x0f", "range"),
    "two outputs": (b"\x01\x1b" + np.array([np.nan] * N, "<f4").tobytes(), "not-finite"),
}


@pytest.mark.parametrize("name", GOOD)
def test_the_sender_is_refused_and_the_others_go_on(tmp_path: Path, name: str) -> None:
    data, reason = HOSTILE[name]
    result, seen = step(tmp_path, name, data)
    refusal = result.gradients["b"]
    assert isinstance(refusal, WireError)
    assert refusal.reason == reason
    assert isinstance(result.gradients["a"], tuple)
    assert result.samples == N
    assert len(seen) == 1


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(list(GOOD)), st.binary(max_size=130), st.booleans())
def test_whatever_bytes_come_the_loss_gets_what_the_task_says(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: bytes, whole: bool
) -> None:
    kind = GOOD[name]().kind
    plain = kind.size_bytes(N)
    data = data.ljust(plain, b"\0")[:plain] if whole else data
    result, seen = step(tmp_path_factory.getbasetemp(), name, data)
    assert isinstance(result.gradients["a"], tuple)
    for targets in seen:
        n = len(next(iter(outputs_of(targets).values())))
        of_each(lambda values: bool(torch.isfinite(values).all()) or pytest.fail("not finite"), targets)
        again = kind.decode(kind.encode(arrays(targets)), n)
        of_each(np.testing.assert_array_equal, arrays(targets), again)
