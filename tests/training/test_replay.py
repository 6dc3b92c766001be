"""The tail learns once more from batches of earlier rounds, which the server keeps as they were sent."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.wire.errors import WireError
from broker.wire.messages import Activations
from scenarios.errors import ScenarioError
from scenarios.loading.trial.memory import replay_bytes
from scenarios.schema.training import Replay
from scenarios.tasks import task_of
from server_node.learning.gradients import Batch
from server_node.learning.replay import ReplayMemory, kept_in, tensor_of
from server_node.vocabulary.jobs import TailStep, TailUpdate
from server_node.vocabulary.ledger import FLOWS
from sim.simulation.run import simulate
from tests.helpers import final_score, small_scenario

EARLY = "fleet=[{count: 3, cut: '1'}]"


def sent(number: int, client: str) -> Activations:
    return Activations(1, number, 0, 1, 1, f"{number} {client}".encode(), b"")


def as_it_was(message: tuple[str, Activations, float], rung: int) -> Batch | WireError:
    client, batch, weight = message
    z = np.full((1, 1), batch.round, np.float32)
    return Batch(client, batch.round, batch.step, weight, z, None, None, rung)


def memory(rounds: int, batches: int, *, seed: int = 1) -> ReplayMemory:
    return ReplayMemory(Replay(rounds=rounds, batches=batches), seed, as_it_was, map)


def learn(replay: ReplayMemory, number: int, passed: Mapping[str, bool]) -> None:
    batches = tuple((client, sent(number, client), 0.5) for client in passed)
    job = TailStep(number, 0, batches, rungs={"b": 1})
    replay.keep(job, {client for client, good in passed.items() if good})


rounds_of_clients = st.lists(st.dictionaries(st.sampled_from("abcd"), st.booleans()), min_size=1, max_size=9)


@given(rounds_of_clients, st.integers(1, 4), st.integers(1, 6), st.sets(st.just("a")))
def test_it_draws_of_what_the_tail_could_take_in_the_last_rounds(
    history: list[dict[str, bool]], rounds: int, batches: int, out: set[str]
) -> None:
    replay = memory(rounds, batches)
    for number, passed in enumerate(history, start=1):
        learn(replay, number, passed)
        of_round = {
            (client, each)
            for each, past in enumerate(history[: number - 1], start=1)
            for client, good in past.items()
            if good and each >= number - rounds and client not in out
        }
        drawn = replay.draw(TailUpdate(number, 0), out)
        assert {(batch.client, batch.round) for batch in drawn} <= of_round
        assert len(drawn) == min(batches, len(of_round)) == len({(each.client, each.round) for each in drawn})
        assert all(batch.rung == (batch.client == "b") and batch.weight == 1.0 for batch in drawn)
        assert all(each.round >= number - rounds for each in replay.kept), "older rounds cost memory"


def test_what_is_drawn_follows_from_seed_round_and_step() -> None:
    def drawn(seed: int, number: int, step: int) -> list[tuple[str, int]]:
        replay = memory(9, 3, seed=seed)
        for each in range(1, 9):
            learn(replay, each, dict.fromkeys("abcd", True))
        return [(batch.client, batch.round) for batch in replay.draw(TailUpdate(number, step), ())]

    assert drawn(1, 9, 0) == drawn(1, 9, 0)
    assert len({tuple(drawn(*where)) for where in ((1, 9, 0), (2, 9, 0), (1, 9, 1))}) == 3


def test_a_checkpoint_has_what_is_kept() -> None:
    replay = memory(2, 3)
    assert tensor_of(replay.kept) == {}
    learn(replay, 1, dict.fromkeys("ab", True))
    assert kept_in(tensor_of(replay.kept)) == replay.kept
    assert kept_in({}) == []


def replaying(folder: Path, *settings: str) -> Any:
    return small_scenario(folder, "training.replay={rounds: 3, batches: 4}", *settings)


@pytest.mark.parametrize(
    "setting",
    [
        "training.gradients_every=never",
        "training.gradients_every=2",
        "training.aggregation=coordinate_median",
        "training.aggregation=filtered_mean",
        "training.tail_updates=2",
        "stragglers={policy: buffered, buffer: 2, max_staleness: 2}",
    ],
)
def test_the_tail_learns_with_it_and_no_byte_more_is_sent(tmp_path: Path, setting: str) -> None:
    spare = "training.rounds=25"
    on = simulate(replaying(tmp_path, setting, spare), tmp_path / "on")
    off = simulate(small_scenario(tmp_path, setting, spare), tmp_path / "off")
    assert final_score(on) > 0.9
    assert [on["bytes"][flow] for flow in FLOWS] == [off["bytes"][flow] for flow in FLOWS]
    assert (tmp_path / "on" / "model.safetensors").read_bytes() != (
        tmp_path / "off" / "model.safetensors"
    ).read_bytes()


def test_a_further_step_takes_the_server_a_pass_and_an_update(tmp_path: Path) -> None:
    model = "network.server={tail_batch_s: 1, tail_sample_s: 0.1, update_s: 5, close_s: 0}"
    three = ("training.rounds=3", "training.cohort=1", "fleet=[{count: 1}]", model)
    on, off = (
        simulate(make(tmp_path, *three), tmp_path / make.__name__, timing_only=True)["virtual_seconds"] or 0.0
        for make in (replaying, small_scenario)
    )
    # in the second round there is one batch of 10 to replay, in the third there are two
    assert on == pytest.approx(off + (1 + 1 + 5) + (1 + 2 + 5))


def test_its_memory_is_that_of_the_bytes_that_were_sent(tmp_path: Path) -> None:
    scenario = replaying(tmp_path, "training.local_steps=2", "flows.activations_up={codec: float32}")
    assert replay_bytes(scenario, task_of(scenario)) == 4 * 3 * 2 * (10 * 16 * 4 + 3)
    assert replay_bytes(small_scenario(tmp_path), task_of(scenario)) == 0


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("training.method=fedavg", "training.replay: goes with method: split"),
        (EARLY, "training.replay: goes with whole heads"),
        ("training.replay.rounds=0", "training.replay.rounds"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, setting: str, problem: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        replaying(tmp_path, setting)
    assert problem in str(caught.value)
