"""What one hostile client of ten does to a run, under each rule of `training.aggregation`.

    .venv/bin/python -m benchmarks.attacks [--method split] [--rounds 60] [--seeds 0 1 2]

digits28 in ten shares of their own class mixture (Dirichlet, 0.5), all ten clients in every round, one batch
of ten samples each, float32 on every flow, rates that fall to 0. The client c9 attacks in every round; the
numbers are accuracies after the last one. It keeps to the protocol and is refused only when the model breaks.

    none      it is honest
    absent    it takes no part: the run of the nine others, without the attacker and without its data
    flipped   it sends -1 times its head update
    reversed  it sends -10 times its head update
    huge      it sends 1024 times its head update
    labels    every label of its data is the next class
    mixed     huge and labels
    late      mixed, after two thirds of the rounds; honest before

It is simulated, with one torch thread, so that runs can share a machine. The table says nothing of time. It
has the mean over the seeds, and the lowest and the highest of them.
"""

import argparse
import logging
import math
import statistics
from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
import torch

from broker.stopping import Stop
from broker.wire.errors import WireError
from broker.wire.messages import HeadUpdate
from edge_client.jobs import BackwardStep, ClientJob, ClientResult, FirstBatch
from edge_client.training.device import Device
from scenarios.loading.load import load_scenario
from scenarios.partition import client_rows
from scenarios.schema.scenario import Scenario, client_names
from scenarios.task import Split, Task
from scenarios.tasks import task_of
from scenarios.training import initial_head
from server_node.vocabulary.ledger import Ledger
from server_node.vocabulary.reports import Fact, RoundReport
from sim.chrome_trace import Trace
from sim.network.clock import Clock
from sim.simulation import workers
from sim.simulation.recorder import Recorder
from sim.simulation.virtual_run import VirtualRun

CLIENTS = 10
RULES = ("mean", "clipped_mean", "filtered_mean", "trimmed_mean", "coordinate_median")
FACTORS = {"flipped": -1.0, "reversed": -10.0, "huge": 1024.0, "mixed": 1024.0, "late": 1024.0}
WRONG_LABELS = ("labels", "mixed", "late")
ATTACKS = ("none", "absent", "flipped", "reversed", "huge", "labels", "mixed", "late")
FLOWS = ("activations_up", "gradient_down", "head_update_up", "head_state_down")


def scenario_of(method: str, rule: str, rounds: int, seed: int) -> Scenario:
    """Give the run's scenario."""
    settings = [
        "name=attacks",
        f"seed={seed}",
        f"training.method={method}",
        f"training.aggregation={rule}",
        f"training.rounds={rounds}",
        f"training.evaluate_every={rounds}",
        f"training.cohort={CLIENTS}",
        "task.batch_size=10",
        f"fleet=[{{count: {CLIENTS}}}]",
        *(f"flows.{flow}={{codec: float32}}" for flow in FLOWS),
    ]
    return load_scenario("quickstart", settings)


def hostile(scenario: Scenario, task: Task, attack: str) -> Callable[[ClientJob], ClientResult]:
    """Give what does the jobs of the last client, the attacker."""
    train = task.load().train
    share = train.take(client_rows(scenario, task.load())[-1])
    wrong = Split(share.inputs, (share.targets + 1) % task.classes) if attack in WRONG_LABELS else share
    honest, attacker = (
        Device(
            task,
            initial_head(task, scenario.seed),
            data,
            client=client_names(scenario)[-1],
            seed=scenario.seed,
            batch_size=scenario.task.batch_size,
            training=scenario.training,
        )
        for data in (share, wrong)
    )
    factor = np.float32(FACTORS.get(attack, 1.0))
    honest_rounds = scenario.training.rounds * 2 // 3 if attack == "late" else 0

    def run(job: ClientJob) -> ClientResult:
        assert isinstance(job, FirstBatch | BackwardStep)
        number = job.assignment.round if isinstance(job, FirstBatch) else job.gradient.round
        if attack == "absent":
            return WireError("absent", f"takes no part in round {number}")
        if number <= honest_rounds:
            return honest.run(job)
        result = attacker.run(job)
        if not isinstance(result, HeadUpdate):
            return result
        payload = (factor * np.frombuffer(result.payload, "<f4")).tobytes()
        return msgspec.structs.replace(result, payload=payload)

    return run


def attacked(scenario: Scenario, attack: str) -> tuple[str, float, Ledger]:
    """Train with one hostile client, whose head updates are sent as float32.

    Returns:
        Why the run ended, the metric after its last round (NaN if it was not reached), and the ledger.
    """
    task, clock, ledger = task_of(scenario), Clock(), Ledger()
    scores: list[float] = []

    def report(fact: Fact) -> None:
        if isinstance(fact, RoundReport) and fact.metric is not None:
            scores.append(fact.metric)

    with workers.training(scenario, task, Recorder(), threads=1) as honest:
        who = replace(honest, devices=[*honest.devices[:-1], hostile(scenario, task, attack)])
        run = VirtualRun(
            scenario, who, clock=clock, ledger=ledger, trace=Trace(client_names(scenario)), report=report
        )
        reason = run.to_its_end(Stop())
    return reason, scores[-1] if reason == "complete" else math.nan, ledger


def _cell(scores: list[float]) -> str:
    return f"{statistics.mean(scores):.3f} ({min(scores):.3f} to {max(scores):.3f})"


def main() -> None:
    """Run everything, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", default="split", choices=("split", "fedavg"))
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rules", nargs="+", default=RULES, choices=RULES)
    parser.add_argument("--attacks", nargs="+", default=ATTACKS, choices=ATTACKS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.basicConfig(format="    %(message)s")
    logging.getLogger("edge_client").setLevel(logging.ERROR)  # one that is absent says so in each round
    scores: dict[tuple[str, str], list[float]] = {}
    for rule in options.rules:
        for attack in options.attacks:
            for seed in options.seeds:
                scenario = scenario_of(options.method, rule, options.rounds, seed)
                reason, score, ledger = attacked(scenario, attack)
                scores.setdefault((rule, attack), []).append(score)
                print(f"seed {seed}: {attack:9} {rule:18} {score:.3f}", flush=True)
                if (ledger.rejected and attack != "absent") or reason != "complete":
                    print(f"    {reason}; refused: {ledger.refused_of}")
    print(f"| rule | {' | '.join(options.attacks)} |")
    print(f"|---{'|---' * len(options.attacks)}|")
    for rule in options.rules:
        cells = [_cell(scores[rule, attack]) for attack in options.attacks]
        print(f"| `{rule}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
