"""What the gradient correction does to activations in training: their size, error, rank, and what is learned.

    .venv/bin/python -m benchmarks.correction --task digits28 --correction 1e-4 --rounds 300

FedLite's codec at its 490x (q = 1152, L = 2) in a plain loop, with the cohorts and batches of a run.
"""

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.flows import PIXELS, RNG, cohorts, off, pq
from broker.codecs import encode_activations
from broker.codecs.base import Matrix
from edge_client.training.cut import corrected
from scenarios.computing.optimizers import sgd_step
from scenarios.loading.load import load_scenario
from scenarios.partition import client_rows
from scenarios.schema.scenario import Scenario
from scenarios.task import Split, Task
from scenarios.tasks import load_task
from scenarios.training import initial_model

CODEC = pq(8 * PIXELS, 2)
REPORT_AT = (25, 50, 100, 150, 200, 300, 400, 500)
MEASURED = 1000


def train(task: Task, scenario: Scenario, correction: float) -> None:
    """Train with the codec and a constant lambda; print a row for each of some rounds."""
    data, training = task.load(), scenario.training
    shares = [data.train.take(rows) for rows in client_rows(scenario, data)]
    head, tail = initial_model(task, scenario.seed)
    torch.manual_seed(scenario.seed)
    seen = [share.batch(np.arange(min(len(share.targets), scenario.task.batch_size))) for share in shares]
    for number, cohort in enumerate(cohorts(scenario, data, training.rounds), start=1):
        for inputs, targets in cohort:
            z = head(inputs)
            exact = z.detach().numpy()
            coded = encode_activations(CODEC, exact, RNG)[1]
            arrived = torch.from_numpy(coded).requires_grad_()
            task.loss(tail(arrived), targets).mean().backward()  # type: ignore[no-untyped-call]
            assert arrived.grad is not None
            z.backward(torch.from_numpy(corrected(arrived.grad.numpy(), exact - coded, correction)))
        for half in (head, tail):
            sgd_step(half, training.head_lr * training.lr_factor(number) / len(cohort))
        if number in REPORT_AT:
            row(number, head, tail, seen, data.test)


def row(
    number: int, head: nn.Module, tail: nn.Module, seen: Sequence[tuple[Tensor, Tensor]], test: Split
) -> None:
    """Print what activations are like after a round, and what is learned."""
    head.eval()
    tail.eval()
    with torch.no_grad():
        inputs, targets = test.batch(np.arange(MEASURED))
        z = head(inputs)
        tested = right(tail(z), targets)
        trained = float(np.mean([right(tail(head(x)), y) for x, y in seen]))
    head.train()
    tail.train()
    values: Matrix = z.numpy()
    coded = encode_activations(CODEC, values[:20], RNG)[1]
    energy = float(np.square(values).sum(axis=1).mean())
    print(
        f"| {number} | {energy:,.0f} | {off(coded, values[:20]):.3f} | {rank(values[:300]):.1f} | "
        f"{trained:.3f} | {tested:.3f} |",
        flush=True,
    )


def right(outputs: Tensor, targets: Tensor) -> float:
    """Give the share of samples whose class is right."""
    return float((outputs.argmax(1) == targets).float().mean())


def rank(values: Matrix) -> float:
    """Give how many directions are used: the exponential of the entropy of the squared singular values."""
    squares = np.linalg.svd(values - values.mean(axis=0), compute_uv=False) ** 2
    shares = squares / squares.sum()
    return float(np.exp(-shares @ np.log(shares + 1e-12)))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="digits28", choices=["digits28", "fashion_mnist"])
    parser.add_argument("--correction", type=float, default=0.0, metavar="LAMBDA")
    parser.add_argument("--rounds", type=int, default=300)
    given = parser.parse_args()
    torch.set_num_threads(1)
    scenario = load_scenario(
        "splitfed-300",
        [
            f"task.name={given.task}",
            "task.partition={dirichlet_alpha: 0.3}",
            f"training.rounds={given.rounds}",
        ],
    )
    print("| round | energy of z | error | rank | accuracy in training | in the test |")
    print("|--:|--:|--:|--:|--:|--:|")
    train(load_task(scenario.task), scenario, given.correction)


if __name__ == "__main__":
    main()
