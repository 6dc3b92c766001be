"""Decoding and encoding on several threads: when it is done, and that nothing of the results shows it."""

import asyncio
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import RunError
from broker.transports.memory import MemoryBroker
from broker.wire.messages import Activations, HeadUpdate
from scenarios.training import initial_model
from server_node import live
from server_node.learning import spreading as module
from server_node.learning.spreading import WORTH_VALUES, Map, spreading
from server_node.tail import Tail
from server_node.vocabulary.jobs import CloseRound, RoundClosed, TailStep, TailStepped, TailUpdate
from tests import plain_task
from tests.helpers import plan_of, small_scenario

FLOWS = (
    "{codec: float32}",
    "{codec: float16}",
    "{codec: int4}",
    "{codec: topk, fraction: 0.3}",
)


def names(mapping: Map, count: int) -> set[str]:
    """Give the threads that do `count` pieces of work."""
    return set(mapping(lambda _number: threading.current_thread().name, range(count)))


def test_large_messages_are_spread_on_as_many_threads_as_there_may_be() -> None:
    together = threading.Barrier(3, timeout=10)
    at_once = threading.Semaphore(3)

    def work(number: int) -> int:
        assert at_once.acquire(blocking=False)  # never a fourth one
        together.wait()
        at_once.release()
        return number

    with spreading(3) as mapping:
        assert list(mapping(WORTH_VALUES)(work, range(12))) == list(range(12))


@pytest.mark.parametrize(
    ("threads", "values", "count"), [(1, WORTH_VALUES, 9), (4, WORTH_VALUES - 1, 9), (4, WORTH_VALUES, 1)]
)
def test_one_thread_does_what_is_not_worth_more(threads: int, values: int, count: int) -> None:
    with spreading(threads) as mapping:
        assert names(mapping(values), count) == {"MainThread"}


def test_what_a_message_raises_is_raised() -> None:
    with spreading(2) as mapping, pytest.raises(ZeroDivisionError):
        list(mapping(WORTH_VALUES)(lambda number: 1 // number, range(5)))


def train(folder: Path, flow: str, clients: int, seed: int, mapping: Map) -> tuple[list[object], list[bytes]]:
    """Take two steps and close the round; give all answers and the tail's parameters."""
    chosen = [f"flows.{name}={flow}" for name in ("activations_up", "gradient_down", "head_update_up")]
    scenario = small_scenario(
        folder, f"seed={seed}", *chosen, f"fleet=[{{count: {clients}}}]", f"training.cohort={clients}"
    )
    task = plain_task.task()
    head, tail = initial_model(task, seed)
    plan = plan_of(scenario, task)
    server = Tail(
        task, None, head=head, tail=tail, plan=plan, training=scenario.training,
        map_batches=mapping, map_updates=mapping,
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    codecs, answers = plan.codecs, list[object]()
    for step in range(2):
        batches = []
        for number in range(clients):
            payload = codecs.activations_up.encode(rng.normal(size=(4, 16)).astype(np.float32), rng)
            batches.append((f"c{number}", Activations(1, 1, step, 1, 4, payload, bytes(1)), 1.0))
        stepped = server.run(TailStep(1, step, tuple(batches)))
        assert isinstance(stepped, TailStepped)
        assert stepped.samples == 4 * clients
        answers.append(stepped)
        assert server.run(TailUpdate(1, step)) is None
    size = plan.head_size
    updates = []
    for number in range(clients):
        payload = codecs.head_update_up.encode(rng.normal(size=(1, size)).astype(np.float32), rng)
        updates.append((f"c{number}", HeadUpdate(1, 1, 1, 8, 0.0, payload), 1.0))
    closed = server.run(CloseRound(1, tuple(updates), evaluate=False))
    assert isinstance(closed, RoundClosed)
    assert not closed.refused
    return [*answers, closed], [value.detach().numpy().tobytes() for value in server.tail.parameters()]


@settings(max_examples=8, deadline=None)
@given(
    flow=st.sampled_from(FLOWS),
    clients=st.integers(1, 9),
    seed=st.integers(0, 99),
    threads=st.integers(2, 4),
)
def test_results_are_the_same_to_the_byte(
    tmp_path_factory: pytest.TempPathFactory, flow: str, clients: int, seed: int, threads: int
) -> None:
    folder = tmp_path_factory.mktemp("run")
    with spreading(threads) as mapping:
        spread = train(folder, flow, clients, seed, mapping(WORTH_VALUES))
    assert spread == train(folder, flow, clients, seed, map)


@pytest.mark.parametrize(("worth", "threads"), [(1, 2), (161, 2), (1, 1)])
async def test_a_live_server_spreads_what_is_worth_it_over_the_threads_of_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worth: int, threads: int
) -> None:
    """The small scenario has batches of 10 x 16 values, and a head of 8 x 16 + 16 parameters."""
    given_maps = dict[str, Map]()

    def no_tail(*_arguments: object, **options: Map) -> None:
        given_maps.update(options)
        raise RunError("enough is known")

    monkeypatch.setattr(module, "WORTH_VALUES", worth)
    monkeypatch.setattr(live, "Tail", no_tail)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    scenario, broker = small_scenario(tmp_path), MemoryBroker()
    with pytest.raises(RunError, match="enough"):
        await live.serve(
            scenario, broker.transport, run="small", folder=tmp_path / "run", stop=asyncio.Event()
        )
    spreads = worth == 1 and threads > 1
    assert [(given_maps[f"map_{what}"] is not map) for what in ("batches", "updates")] == [spreads, spreads]
