"""Whole runs with every optimizer: training with torch.optim, live as simulated, going on to the byte."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, LRScheduler, StepLR

from broker.errors import CannotGoOnError
from broker.stopping import Stop
from broker.transports.memory import MemoryBroker
from edge_client.live import host
from scenarios.errors import ScenarioError
from scenarios.loading.load import load_scenario
from scenarios.partition import client_rows
from scenarios.schema.optimizers import Optimizer
from scenarios.schema.scenario import Scenario, client_names, scenario_digest
from scenarios.schema.training import Training
from scenarios.tasks import load_task
from scenarios.training import BatchSampler, initial_model
from server_node import checkpoint
from server_node.checkpoint import Progress
from server_node.live import serve
from server_node.progress import standing_of
from server_node.vocabulary.ledger import FLOWS, Ledger
from server_node.vocabulary.reports import Fact, RoundReport
from sim.simulation.run import simulate
from tests.helpers import final_score, small_scenario
from tests.live.test_live import run as run_live

TESTS = Path(__file__).parents[1]
PLAIN = f"task.module={TESTS / 'plain_task.py'}"
EXACT = tuple(f"flows.{flow}={{codec: float32}}" for flow in FLOWS if flow != "control")
ALONE = (PLAIN, "fleet=[{count: 1}]", "training.cohort=1", "training.local_steps=3", "training.rounds=4")

SETTINGS = {
    "momentum": (
        "training.head_optimizer={momentum: 0.9}",
        "training.tail_optimizer={momentum: 0.9, nesterov: true, weight_decay: 0.01}",
        "training.head_lr=0.03",
    ),
    "adam": (
        "training.head_optimizer={kind: adam}",
        "training.tail_optimizer={kind: adam, betas: [0.8, 0.9], weight_decay: 0.01}",
        "training.head_lr=0.01",
    ),
    "adamw, kept": (
        "training.head_optimizer={kind: adamw, clip_norm: 0.5}",
        "training.head_moments=keep",
        "training.tail_optimizer={kind: adamw, clip_norm: 0.5}",
        "training.head_lr=0.01",
    ),
    "warm-up, cosine": ("training.warmup_rounds=2", "training.lr_decay=cosine"),
    "steps": ("training.lr_decay={step_size: 2, gamma: 0.5}",),
    "FedProx": ("training.proximal_mu=1", "training.head_optimizer={clip_norm: 1}"),
    "FedAvgM": ("training.server_optimizer={momentum: 0.5}",),
    "FedAdam": ("training.server_optimizer={kind: adam, lr: 0.05}",),
    "FedYogi": ("training.server_optimizer={kind: yogi, lr: 0.05}",),
    "MU-SplitFed": ("training.tail_updates=3", "training.tail_optimizer={momentum: 0.5}"),
}
EVERYTHING = (
    "training.local_steps=3",
    "training.rounds=4",
    "training.tail_updates=2",
    "training.head_optimizer={kind: adam, clip_norm: 1}",
    "training.tail_optimizer={kind: adamw}",
    "training.server_optimizer={kind: yogi, lr: 0.1}",
    "training.head_lr=0.01",
)
named = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)


def model_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def of_torch(rule: Optimizer, module: nn.Module, lr: float) -> torch.optim.Optimizer:
    said = rule.model_dump(exclude={"kind", "clip_norm"})
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "sgd": torch.optim.SGD,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
    }
    return kinds[rule.kind](module.parameters(), lr=lr, foreach=False, **said)


class PlainLoop:
    """Trains head and tail of one client with torch.optim, as a scenario says; nothing is sent."""

    def __init__(self, scenario: Scenario) -> None:
        self.training = training = scenario.training
        self.task = load_task(scenario.task)
        self.head, self.tail = initial_model(self.task, scenario.seed)
        data = self.task.load()
        self.data = data.train.take(client_rows(scenario, data)[0])
        self.sampler = BatchSampler(
            len(self.data.targets), scenario.task.batch_size, seed=scenario.seed, client="c0"
        )
        self.of_head = of_torch(training.head_optimizer, self.head, training.head_lr)
        self.of_tail = of_torch(training.tail_optimizer, self.tail, training.tail_lr)

    def step(self, optimizer: torch.optim.Optimizer, module: nn.Module, rule: Optimizer, lr: float) -> None:
        if rule.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(module.parameters(), rule.clip_norm)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        optimizer.zero_grad()

    def round(self, number: int) -> None:
        training, factor = self.training, self.training.lr_factor(number)
        if training.head_moments == "reset":
            self.of_head = of_torch(training.head_optimizer, self.head, training.head_lr)
        received = [parameter.detach().clone() for parameter in self.head.parameters()]
        for local in range(training.local_steps):
            inputs, targets = self.data.batch(self.sampler.rows(number, local))
            z = self.head(inputs)
            self.task.loss(self.tail(z), targets).mean().backward()  # type: ignore[no-untyped-call]
            for parameter, origin in zip(self.head.parameters(), received, strict=True):
                assert parameter.grad is not None
                parameter.grad += training.proximal_mu * (parameter.detach() - origin)
            self.step(self.of_tail, self.tail, training.tail_optimizer, training.tail_lr * factor)
            for _ in range(1, training.tail_updates):
                self.task.loss(self.tail(z.detach()), targets).mean().backward()  # type: ignore[no-untyped-call]
                self.step(self.of_tail, self.tail, training.tail_optimizer, training.tail_lr * factor)
            self.step(self.of_head, self.head, training.head_optimizer, training.head_lr * factor)


@pytest.mark.parametrize(
    "settings", [each for name, each in SETTINGS.items() if not name.startswith("Fed") or name == "FedProx"]
)
def test_a_run_of_one_client_is_training_with_torch(tmp_path: Path, settings: Sequence[str]) -> None:
    scenario = small_scenario(tmp_path, *ALONE, *EXACT, *settings)
    simulate(scenario, tmp_path / "run")
    loop = PlainLoop(scenario)
    for number in range(1, scenario.training.rounds + 1):
        loop.round(number)
    expected = {
        f"{part}.{name}": value
        for part, module in (("head", loop.head), ("tail", loop.tail))
        for name, value in module.state_dict().items()
    }
    found = model_of(tmp_path / "run")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


@named
async def test_it_learns_the_same_live_as_simulated(tmp_path: Path, settings: Sequence[str]) -> None:
    scenario = small_scenario(tmp_path, *ALONE, *settings)
    live = await run_live(scenario, MemoryBroker().transport, tmp_path / "live")
    simulated = simulate(scenario, tmp_path / "simulated")
    assert {flow: live["bytes"][flow] for flow in FLOWS} == {flow: simulated["bytes"][flow] for flow in FLOWS}
    one, other = model_of(tmp_path / "live"), model_of(tmp_path / "simulated")
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ["momentum", "adamw, kept", "FedAdam", "FedYogi"])
def test_it_learns_the_task_with_many_clients(tmp_path: Path, name: str) -> None:
    scenario = small_scenario(tmp_path, "training.local_steps=2", *SETTINGS[name])
    assert final_score(simulate(scenario, tmp_path / "run")) > 0.9


async def test_digits_are_learned_with_the_bytes_of_a_simulated_run(tmp_path: Path) -> None:
    """The quickstart's model and codecs, for two clients."""
    little = ("fleet=[{count: 2}]", "training.cohort=2", "training.evaluate_every=2")
    scenario = load_scenario("quickstart", [*little, *EVERYTHING, "training.rounds=2"])
    live = await run_live(scenario, MemoryBroker().transport, tmp_path / "live")
    simulated = simulate(scenario, tmp_path / "simulated")
    assert {flow: live["bytes"][flow] for flow in FLOWS} == {flow: simulated["bytes"][flow] for flow in FLOWS}
    assert final_score(live) == pytest.approx(final_score(simulated), abs=0.05)


class After(Stop):
    """Asks to stop after so many events."""

    def __init__(self, events: int) -> None:
        self._left = events
        super().__init__()

    @property
    def asked(self) -> bool:
        self._left -= 1
        return self._left < 0

    @asked.setter
    def asked(self, _value: bool) -> None:
        pass


@pytest.mark.parametrize(("moments", "rule"), [("keep", "mean"), ("reset", "filtered_mean")])
def test_a_simulated_run_goes_on_to_the_byte(tmp_path: Path, moments: str, rule: str) -> None:
    settings = (f"training.head_moments={moments}", f"training.aggregation={rule}")
    scenario = small_scenario(tmp_path, *EVERYTHING, *settings)
    simulate(scenario, tmp_path / "whole")
    while (summary := simulate(scenario, tmp_path / "parts", stop=After(40)))["reason"] == "stopped":
        pass
    assert summary["rounds"] == 4
    for file in ("model.safetensors", "metrics.parquet", "trace.json"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes()


async def until(scenario: Scenario, folder: Path, rounds: int) -> None:
    """Run server and clients live, and pause the server after so many rounds, or at the end."""
    connect, stop = MemoryBroker().transport, asyncio.Event()

    def watch(fact: Fact, _ledger: Ledger) -> None:
        if isinstance(fact, RoundReport) and fact.round == rounds:
            stop.set()

    names = client_names(scenario)
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(scenario, connect, run="small", folder=folder, stop=stop, watch=watch))
        group.create_task(host(scenario, connect, run="small", names=names, stop=stop))


@pytest.mark.parametrize("moments", ["tail_optimizer", "server_optimizer"])
async def test_a_live_server_goes_on_with_what_its_optimizers_remember(tmp_path: Path, moments: str) -> None:
    """One client: its steps come in the same order, so that the runs are alike to the bit."""
    scenario = small_scenario(tmp_path, *ALONE, *EVERYTHING, "training.evaluate_every=1")
    await until(scenario, tmp_path / "whole", 4)
    await until(scenario, tmp_path / "parts", 2)
    saved = checkpoint.newest(tmp_path / "parts", Progress)
    assert saved is not None
    assert (
        int(saved[1][f"{moments}.0.steps"]) == {"tail_optimizer": 2 * 3 * 2, "server_optimizer": 2}[moments]
    )
    await until(scenario, tmp_path / "parts", 4)
    whole, parts = model_of(tmp_path / "whole"), model_of(tmp_path / "parts")
    assert whole.keys() == {"head.0.weight", "head.0.bias", "tail.weight", "tail.bias"}
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


async def test_a_run_does_not_go_on_with_another_optimizer(tmp_path: Path) -> None:
    await until(small_scenario(tmp_path, *ALONE), tmp_path / "run", 2)
    other = small_scenario(tmp_path, *ALONE, "training.tail_optimizer={kind: adam}")
    with pytest.raises(CannotGoOnError, match=r"training.tail_optimizer was its default and is .*adam"):
        standing_of(other, tmp_path / "run")


def test_further_updates_of_the_tail_take_their_time(tmp_path: Path) -> None:
    """A step of three clients: 30 samples, and each further update is a pass and a step more."""
    server = "network.server={tail_batch_s: 8, tail_sample_s: 0.5, update_s: 2}"
    one, three = (
        simulate(
            small_scenario(tmp_path, server, "training.rounds=1", f"training.tail_updates={updates}"),
            tmp_path / str(updates),
        )["virtual_seconds"]
        for updates in (1, 3)
    )
    assert one is not None
    assert three == pytest.approx(one + 2 * (8 + 30 * 0.5 + 2))


def test_a_device_keeps_its_moments_only_if_the_scenario_says_so(tmp_path: Path) -> None:
    adam = ("training.head_optimizer={kind: adam}", "training.local_steps=2", "fleet=[{count: 1}]")
    runs = {}
    for moments in ("reset", "keep"):
        scenario = small_scenario(tmp_path, *adam, "training.cohort=1", f"training.head_moments={moments}")
        simulate(scenario, tmp_path / moments)
        runs[moments] = model_of(tmp_path / moments)["head.0.weight"]
    assert not torch.equal(runs["reset"], runs["keep"])


# schedules


@given(
    rounds=st.integers(1, 60),
    share=st.floats(0, 1),
    kind=st.sampled_from(["none", "linear", "cosine", "step"]),
    step_size=st.integers(1, 20),
    gamma=st.floats(0.1, 1),
)
def test_a_schedule_is_one_of_torch_after_a_warm_up(
    rounds: int, share: float, kind: str, step_size: int, gamma: float
) -> None:
    warmup = int(share * (rounds - 1))
    decay = {"step_size": step_size, "gamma": gamma} if kind == "step" else kind
    said = {"rounds": rounds, "cohort": 1, "head_lr": 0.1, "lr_decay": decay, "warmup_rounds": warmup}
    training = Training.model_validate(said)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    falls = rounds - warmup
    schedules: dict[str, Callable[[], LRScheduler]] = {
        "none": lambda: LambdaLR(optimizer, lambda _over: 1.0),
        "linear": lambda: LinearLR(optimizer, 1.0, end_factor=0.0, total_iters=falls),
        "cosine": lambda: CosineAnnealingLR(optimizer, T_max=falls),
        "step": lambda: StepLR(optimizer, step_size, gamma),
    }
    schedule = schedules[kind]()
    for number in range(1, rounds + 1):
        if number <= warmup:
            assert training.lr_factor(number) == pytest.approx(number / (warmup + 1))
            continue
        assert training.lr_factor(number) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        schedule.step()


# what can be wrong


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("head_optimizer={nesterov: true}", "nesterov needs a momentum above 0, such as 0.9"),
        ("head_optimizer={kind: adma}", "did you mean 'adam'?"),
        ("head_optimizer={kind: adam, momentum: 0.9}", "momentum: unknown key; .*it goes with kind sgd"),
        (
            "head_optimizer={betas: [0.9, 0.99]}",
            "unknown key of kind sgd, the default.* name it: adam or adamw",
        ),
        ("tail_optimizer={kind: adam, betas: [0.9]}", "must be a list of 2, not a list"),
        ("tail_optimizer={kind: adam, betas: [0.9, 1.0]}", "must be a number >= 0 and < 1"),
        (
            "tail_optimizer={kind: adam, lr: 0.1}",
            "unknown key; did you mean 'training.head_lr' or 'training.tail_lr'",
        ),
        ("tail_optimizer=adam", "write {kind: adam}"),
        ("server_optimizer={kind: yogi, momentum: 0.9}", "it goes with kind sgd"),
        ("warmup_rounds=20", "must be below the run's 20 rounds, not 20"),
        ("lr_decay={gamma: 0.5}", "training.lr_decay.step_size: required but missing"),
        ("lr_decay=cosin", "did you mean 'cosine'?"),
        ("tail_updates=0", "must be a whole number >= 1 and <= 64, not 0"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(tmp_path: Path, setting: str, sentence: str) -> None:
    with pytest.raises(ScenarioError, match=sentence.replace("{", r"\{")) as error:
        small_scenario(tmp_path, f"training.{setting}")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "setting", ["head_optimizer={kind: adam}", "head_moments=keep", "proximal_mu=1", "warmup_rounds=1"]
)
def test_a_device_that_would_learn_otherwise_has_another_digest(tmp_path: Path, setting: str) -> None:
    other = small_scenario(tmp_path, f"training.{setting}")
    assert scenario_digest(other) != scenario_digest(small_scenario(tmp_path))


@pytest.mark.parametrize(
    "setting", ["tail_optimizer={kind: adam}", "server_optimizer={kind: adam}", "tail_updates=2"]
)
def test_what_the_server_does_by_itself_is_no_matter_of_devices(tmp_path: Path, setting: str) -> None:
    other = small_scenario(tmp_path, f"training.{setting}")
    assert scenario_digest(other) == scenario_digest(small_scenario(tmp_path))
