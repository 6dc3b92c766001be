"""Measures the server's computation on the machine it runs on: its jobs, done for batches made up here."""

import copy
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from broker.wire.messages import Activations, HeadUpdate
from scenarios.computing.placing import place_named
from scenarios.heads.parts import form_of
from scenarios.schema.network import ServerModel
from scenarios.schema.scenario import Scenario
from scenarios.seeds import generator
from scenarios.tasks import load_task, test_of
from scenarios.training import initial_model
from server_node.tail import Tail
from server_node.vocabulary.jobs import CloseRound, TailStep, TailUpdate
from server_node.vocabulary.plan import Plan, make_plan

NAME = "calibrate"
ONE, ALL, UPDATE, CLOSE, HEAD = "tail, one batch", "tail, cohort", "update", "close", "head, one batch"


def cohort_of(scenario: Scenario) -> int:
    """Give the batches of the larger of the two passes that are timed."""
    return max(2, scenario.training.cohort)


def timed_rounds(scenario: Scenario, pause_s: float) -> Iterator[dict[str, float]]:
    """Do rounds without end: one batch through the tail, then a cohort's at once, update, and average.

    Of a scenario with early cuts a batch also goes through the whole head and back: of that the server does a
    share for each device with such a cut.

    Args:
        scenario: gives task, codecs, batch size and cohort.
        pause_s: before each job but the update, as the server waits for its clients; caches cool meanwhile.

    Yields:
        Seconds of each job.

    Raises:
        ScenarioError: the task's data cannot be found, a GPU is not there.
    """
    if scenario.training.method == "u_shape":  # the last layers are counted, too: they are few
        at_server = scenario.training.model_copy(update={"method": "split"})
        scenario = scenario.model_copy(update={"training": at_server})
    has_early_cuts = any(group.cut is not None for group in scenario.fleet)
    whole = tuple(group.model_copy(update={"cut": None}) for group in scenario.fleet)
    scenario = scenario.model_copy(update={"fleet": whole})
    task = load_task(scenario.task)
    head, tail = initial_model(task, scenario.seed)
    plan = make_plan(scenario, task, run=NAME, head=form_of(head))
    plan = replace(plan, by_link={})
    test = test_of(scenario, task)
    # for what it sees is made up; that further updates take longer is a matter of the scenario
    teaches_nothing = scenario.training.model_copy(update={"tail_lr": 0.0, "tail_updates": 1})
    place = place_named(scenario.server.device, "server.device")
    seen = test.inputs[: scenario.task.batch_size].to(place) if has_early_cuts and test else None
    whole_head = copy.deepcopy(head).to(place)
    worker = Tail(
        task,
        test,
        head=head,
        tail=tail,
        plan=plan,
        training=teaches_nothing,
        place=place,
    )
    jobs = _jobs(plan, cohort_of(scenario))
    while True:
        seconds = {}
        for name, job in jobs.items():
            time.sleep(0.0 if name == UPDATE else pause_s)
            begun_s = time.perf_counter()
            worker.run(job)
            seconds[name] = time.perf_counter() - begun_s
        if seen is not None:
            time.sleep(pause_s)
            begun_s = time.perf_counter()
            z = whole_head(seen)
            z.backward(torch.zeros_like(z))
            seconds[HEAD] = (time.perf_counter() - begun_s) * scenario.task.batch_size / len(seen)
        yield seconds


def _jobs(plan: Plan, cohort: int) -> dict[str, TailStep | TailUpdate | CloseRound]:
    """Make up a round: activations as after a ReLU, random targets, heads that have not changed."""
    rng = generator(plan.seed, NAME)
    n = plan.batch_size
    z = np.maximum(rng.standard_normal((n, plan.cut_size), np.float32), 0)
    packed = plan.targets.encode(plan.targets.example(n, rng))
    batch = Activations(1, 1, 0, 1, n, plan.codecs.activations_up.encode(z, rng), packed)
    codec = plan.whole_head.head_codec(plan.codecs.head_update_up)
    change = codec.encode(np.zeros(plan.head_size + plan.statistics, np.float32), rng)
    update = HeadUpdate(1, 1, 1, n, 0.0, change)
    clients = [f"c{number}" for number in range(cohort)]
    return {
        ONE: TailStep(1, 0, (("c0", batch, 1.0),)),
        ALL: TailStep(1, 0, tuple((client, batch, 1.0) for client in clients)),
        UPDATE: TailUpdate(1, 0),
        CLOSE: CloseRound(1, tuple((client, update, 1.0) for client in clients), evaluate=False),
    }


def server_model(scenario: Scenario, seconds: dict[str, float], source: str) -> ServerModel:
    """Give the model of a server that takes so long for its jobs; a straight line through both passes."""
    n, batches = scenario.task.batch_size, cohort_of(scenario)
    batch_s = (seconds[ALL] - seconds[ONE]) / (batches - 1)
    return ServerModel(
        tail_batch_s=max(0.0, seconds[ONE] - batch_s),
        tail_sample_s=max(0.0, batch_s / n),
        update_s=seconds[UPDATE],
        close_s=seconds[CLOSE],
        head_sample_s=seconds.get(HEAD, 0.0) / n,
        source=source,
    )
