"""What codecs at the cut of a sensor series cost in accuracy: watch_exercises, in a plain loop.

    .venv/bin/python -m benchmarks.series_learning [--seeds 0,1,2,3,4] [--rounds 300]

A plain loop with the cohorts and batches of a run of watch-all-flows. Heads travel exactly, activations and
their gradient in the codecs of each row. Gives the accuracy after the last round, and its mean over the
seeds.
"""

import argparse
from statistics import fmean

import numpy as np
import torch

from benchmarks.correction import right
from benchmarks.flows import cohorts
from broker.codecs import (
    Codec,
    CodedPq,
    CodewordMean,
    Float32,
    GradientCodec,
    SampleMean,
    decode_gradient,
    encode_activations,
    encode_gradient,
)
from scenarios.computing.optimizers import sgd_step
from scenarios.loading.load import load_scenario
from scenarios.schema.scenario import Scenario
from scenarios.tasks import load_task
from scenarios.training import initial_model

MOMENTS = 22
CODED = CodedPq(subvectors=MOMENTS, centroids=128, rank=16)
CODECS: dict[str, tuple[Codec, GradientCodec]] = {
    "no codec": (Float32(), Float32()),
    "activations": (CODED, Float32()),
    "activations, gradients a mean for each codeword": (CODED, CodewordMean(bits=8, rank=4)),
    "activations, gradients a mean for each sample": (CODED, SampleMean(subvectors=MOMENTS, rank=4, bits=8)),
}


def accuracy(scenario: Scenario, up: Codec, down: GradientCodec) -> float:
    """Train with two codecs at the cut; gives the accuracy in the test."""
    task, training = load_task(scenario.task), scenario.training
    data, rng = task.load(), np.random.default_rng(scenario.seed)
    head, tail = initial_model(task, scenario.seed)
    torch.manual_seed(scenario.seed)
    for number, cohort in enumerate(cohorts(scenario, data, training.rounds), start=1):
        for inputs, targets in cohort:
            z = head(inputs)
            _, coded, codewords = encode_activations(up, z.detach().numpy().copy(), rng)
            arrived = torch.from_numpy(coded).requires_grad_()
            task.loss(tail(arrived), targets).mean().backward()  # type: ignore[no-untyped-call]
            assert arrived.grad is not None
            payload = encode_gradient(down, arrived.grad.numpy(), codewords, rng)
            z.backward(torch.from_numpy(decode_gradient(down, payload, codewords, *coded.shape)))
        for half in (head, tail):
            sgd_step(half, training.head_lr * training.lr_factor(number) / len(cohort))
    with torch.no_grad():
        inputs, targets = data.test.batch(np.arange(len(data.test.targets)))
        return right(tail.eval()(head.eval()(inputs)), targets)


def main() -> None:
    """Print a row for each pair of codecs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--rounds", type=int, default=300)
    given = parser.parse_args()
    torch.set_num_threads(1)
    seeds = given.seeds.split(",")
    print("| coded | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean |")
    print("|---|" + "--:|" * (len(seeds) + 1))
    for name, (up, down) in CODECS.items():
        found = [
            accuracy(
                load_scenario("watch-all-flows", [f"seed={seed}", f"training.rounds={given.rounds}"]),
                up,
                down,
            )
            for seed in seeds
        ]
        cells = [f"{each:.3f}" for each in [*found, fmean(found)]]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
