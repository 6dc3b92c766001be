"""Tail and heads compute where the scenario says, and what they learn is the same to the byte."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from broker.cli.commands import app
from broker.exits import Exit
from broker.transports.memory import MemoryBroker
from scenarios import seeded
from scenarios.computing import placing
from scenarios.computing.optimizers import step
from scenarios.computing.placing import place_named, place_of
from scenarios.errors import ScenarioError
from scenarios.loading.published import publish_scenario, read_published
from scenarios.loading.trial import at_server
from scenarios.loading.trial.at_server import server_place
from scenarios.schema.optimizers import Adam
from scenarios.schema.scenario import scenario_digest
from scenarios.tasks import task_of
from scenarios.training import head_vector, initial_model, load_head_vector
from server_node.checkpoint import tensors_of, tensors_of_optimizers
from server_node.live import serve
from server_node.progress import settings_of
from server_node.tail import Tail
from sim.simulation import workers
from sim.simulation.run import simulate
from tests.elsewhere import PLACE, ElsewhereTensor, elsewhere
from tests.helpers import plan_of, small_file, small_scenario
from tests.simulation.test_going_on import FOLDER, KEPT, own_data
from tests.training.test_optimized_runs import EVERYTHING, After

KINDS = {
    "plain": (),
    "optimizers": EVERYTHING,
    "each by itself": ("training.aggregation=trimmed_mean", "training.tail_updates=2"),
    "filtered, heads on the CPU": ("training.aggregation=filtered_mean", "simulation.device=cpu"),
    "fedavg": ("training.method=fedavg", "training.proximal_mu=0.1"),
    "u_shape": ("training.method=u_shape", f"task.module={FOLDER / 'u_task.py'}", "training.proximal_mu=1"),
    "held out": KEPT,
    "error feedback": ("flows.head_update_up={codec: topk, fraction: 0.2}", "flows.error_feedback=true"),
}


@contextmanager
def on_gpu(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let scenarios that ask for CUDA compute elsewhere, in this thread and in those of simulations."""

    @contextmanager
    def pool(threads: int) -> Iterator[ThreadPoolExecutor]:
        def begin() -> None:
            torch.set_num_threads(1)
            elsewhere().__enter__()  # type: ignore[no-untyped-call]

        with ThreadPoolExecutor(threads, initializer=begin) as made:
            yield made

    with patch.context() as during, elsewhere():
        during.setattr(workers, "_pool", pool)
        for module in (workers, at_server):
            during.setattr(module, "place_named", lambda name, _key: PLACE if name == "cuda" else placing.CPU)
        during.setattr(seeded, "generator_at", lambda _place: torch.Generator())
        during.setattr(seeded, "process_generator", lambda _place: torch)
        yield


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_a_run_on_a_gpu_is_that_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...]
) -> None:
    own = [own_data(tmp_path / "own")] if settings == KEPT else []
    settings = (*settings, *own, "training.rounds=3", "training.local_steps=2", "training.evaluate_every=2")
    simulate(small_scenario(tmp_path, *settings), tmp_path / "cpu")
    scenario = small_scenario(tmp_path, "server.device=cuda", "simulation.device=cuda", *settings)
    with on_gpu(monkeypatch):
        while simulate(scenario, tmp_path / "gpu", stop=After(60))["reason"] == "stopped":
            pass  # also saved and gone on with on the way
    for file in ("model.safetensors", "metrics.parquet", "trace.json"):
        assert (tmp_path / "cpu" / file).read_bytes() == (tmp_path / "gpu" / file).read_bytes()


def test_what_is_kept_of_a_run_is_on_the_cpu(tmp_path: Path) -> None:
    """So a checkpoint of a server with a GPU can be gone on from without one."""
    scenario = small_scenario(tmp_path, *EVERYTHING)
    task = task_of(scenario)
    with elsewhere():
        head, tail = initial_model(task, scenario.seed)
        worker = Tail(
            task,
            None,
            head=head,
            tail=tail,
            plan=plan_of(scenario, task),
            training=scenario.training,
            place=PLACE,
        )
        assert place_of(worker.head) == place_of(worker.tail) == PLACE
        for parameter in tail.parameters():
            parameter.grad = torch.ones_like(parameter)
        step(list(tail.parameters()), Adam(), worker.moments[0], 0.1)
        kept = tensors_of(worker.head, worker.tail) | tensors_of_optimizers(*worker.moments)
        assert {value.device for value in kept.values()} == {torch.device("cpu")}
        assert not any(isinstance(value, ElsewhereTensor) for value in kept.values())
        assert "tail_optimizer.0.1" in kept
        vector = head_vector(worker.head)
        load_head_vector(worker.head, vector + 1)
        assert np.array_equal(head_vector(worker.head), vector + 1)
        assert place_of(worker.head) == PLACE


@pytest.mark.parametrize("method", ["split", "u_shape", "fedavg"])
def test_a_task_that_computes_there_is_let_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    module = f"task.module={FOLDER / 'u_task.py'}"
    scenario = small_scenario(tmp_path, module, f"training.method={method}", "server.device=cuda")
    task = task_of(scenario)
    with on_gpu(monkeypatch):
        assert server_place(scenario, task) == PLACE


def weighted(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, targets, weight=torch.ones(4), reduction="none")


class Shifted(nn.Linear):
    shift = torch.ones(4)

    def forward(self, z: Tensor) -> Tensor:
        outputs: Tensor = super().forward(z) + self.shift
        return outputs


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"loss": weighted},
            "loss, on lazy, fails: RuntimeError: Expected all .* be moved: weights.to",
        ),
        ({"tail": lambda: Shifted(16, 4)}, "the tail, on lazy, fails: RuntimeError: Expected all tensors"),
    ],
)
def test_a_task_with_a_tensor_that_stays_on_the_cpu_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], sentence: str
) -> None:
    scenario = small_scenario(tmp_path, "server.device=cuda")
    task = replace(task_of(scenario), **changes)
    with on_gpu(monkeypatch), pytest.raises(ScenarioError, match=sentence):
        server_place(scenario, task)


def test_a_module_without_numbers_is_on_the_cpu() -> None:
    assert place_of(nn.Identity(), nn.ReLU()) == torch.device("cpu")


@pytest.mark.parametrize(
    ("there", "found"), [({"cuda", "mps"}, "cuda"), ({"mps"}, "mps"), (set[str](), "cpu")]
)
def test_auto_is_the_gpu_that_is_there(monkeypatch: pytest.MonkeyPatch, there: set[str], found: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in there)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in there)
    assert place_named("auto", "server.device").type == found
    assert place_named("cpu", "server.device").type == "cpu"


@pytest.mark.parametrize("key", ["server.device", "simulation.device"])
@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_a_gpu_that_is_not_there_is_told_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, kind: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    file, folder = str(small_file(tmp_path)), str(tmp_path / "run")
    sentence = f"{key}: {kind} is asked for, but torch {torch.__version__} finds none on this machine"
    for words in (["scenarios", "validate", file], ["simulate", file, "--out", folder]):
        said = CliRunner().invoke(app, [*words, "--set", f"{key}={kind}"])
        assert said.exit_code == Exit.CONFIGURATION
        assert sentence in " ".join(said.output.split())
    assert not (tmp_path / "run/metrics.parquet").exists()
    simulate(
        small_scenario(tmp_path, f"{key}={kind}"), tmp_path / "timed", timing_only=True
    )  # nothing is computed


async def test_a_live_server_without_its_gpu_tells_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    scenario = small_scenario(tmp_path, "server.device=cuda")
    with pytest.raises(ScenarioError, match="write cpu, or auto"):
        await serve(
            scenario, MemoryBroker().transport, run="r", folder=tmp_path / "run", stop=asyncio.Event()
        )


def test_the_gpu_of_the_server_is_no_matter_of_devices(tmp_path: Path) -> None:
    here = small_scenario(tmp_path, "server.device=cuda", "simulation.device=auto")
    assert read_published(publish_scenario(here), module=here.task.module or "").server.device == "cpu"
    assert scenario_digest(here) == scenario_digest(small_scenario(tmp_path))
    assert settings_of(here) == settings_of(small_scenario(tmp_path))
