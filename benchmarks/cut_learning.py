"""What codecs at the cut cost in accuracy, and which of its two flows costs it.

    .venv/bin/python -m benchmarks.cut_learning [--task watch_exercises] [--seeds 0,1,2,3,4] [--rounds 300]
    .venv/bin/python -m benchmarks.cut_learning --task fashion_mnist --seeds 0 --rounds 1500

A plain loop with the cohorts and batches of a run of watch-all-flows or all-flows. Heads travel exactly,
activations and their gradient in the codecs of each row. Gives the accuracy after the last round, and its
mean over the seeds.
"""

import argparse
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

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
from broker.codecs.base import Matrix
from scenarios.computing.optimizers import sgd_step
from scenarios.loading.load import load_scenario
from scenarios.schema.scenario import Scenario
from scenarios.task import Task
from scenarios.tasks import load_task
from scenarios.training import evaluate, initial_model

MOMENTS, PIXELS, WIDTH = 22, 144, 12


class Cut(NamedTuple):
    """The codecs at a cut.

    Attributes:
        up: of the activations.
        down: of their gradient.
        is_exact: whether the tail sees the activations as they are; codewords then count for `down` alone.
    """

    up: Codec
    down: GradientCodec
    is_exact: bool = False


OF_SERIES = CodedPq(subvectors=MOMENTS, centroids=128, rank=16)
FEW = CodedPq(subvectors=PIXELS, centroids=16, width=WIDTH)
MORE = CodedPq(subvectors=PIXELS, centroids=32, width=WIDTH, rank=8)
MANY = CodedPq(subvectors=PIXELS, centroids=128, width=WIDTH, rank=12)
SCENARIOS = {"watch_exercises": "watch-all-flows", "fashion_mnist": "all-flows"}
PICTURES = ["task.name=fashion_mnist", "task.partition.dirichlet_alpha=0.3"]
SETTINGS = {
    "watch_exercises": ["training.rounds=300"],
    "fashion_mnist": [*PICTURES, "training.rounds=1500"],
}
CUTS = {
    "watch_exercises": {
        "no codec": Cut(Float32(), Float32()),
        "activations": Cut(OF_SERIES, Float32()),
        "activations, gradients a mean for each codeword": Cut(OF_SERIES, CodewordMean(bits=8, rank=4)),
        "activations, gradients a mean for each sample": Cut(
            OF_SERIES, SampleMean(subvectors=MOMENTS, rank=4, bits=8)
        ),
    },
    "fashion_mnist": {
        "no codec": Cut(Float32(), Float32()),
        "activations, 16 codewords": Cut(FEW, Float32()),
        "gradients, means of 16 codewords in rank 4": Cut(FEW, CodewordMean(bits=8, rank=4), is_exact=True),
        "both, 16 codewords, means in rank 4": Cut(FEW, CodewordMean(bits=8, rank=4)),
        "activations, 32 codewords in rank 8": Cut(MORE, Float32()),
        "both, 32 codewords in rank 8, means in 8 bits": Cut(MORE, CodewordMean(bits=8)),
        "both, 32 codewords in rank 8, means in rank 8": Cut(MORE, CodewordMean(bits=4, rank=8)),
        "both, 32 codewords in rank 8, means in rank 12": Cut(MORE, CodewordMean(bits=4, rank=12)),
        "activations, 128 codewords in rank 12": Cut(MANY, Float32()),
    },
}


class Answer(NamedTuple):
    """What a batch gets back through its codecs.

    Attributes:
        gradient: of the batch's mean loss at the cut, shape (n, d).
        up: bytes of the activations.
        down: bytes of the gradient.
    """

    gradient: Matrix
    up: int
    down: int


def answer(
    task: Task, tail: nn.Module, cut: Cut, z: torch.Tensor, targets: torch.Tensor, rng: np.random.Generator
) -> Answer:
    """Send activations, shape (n, d), through the tail and back; its parameters add up their gradients."""
    own = z.detach().numpy().copy()
    sent, coded, codewords = encode_activations(cut.up, own, rng)
    arrived = torch.from_numpy(own if cut.is_exact else coded).requires_grad_()
    task.loss(tail(arrived), targets).mean().backward()  # type: ignore[no-untyped-call]
    assert arrived.grad is not None
    payload = encode_gradient(cut.down, arrived.grad.numpy(), codewords, rng)
    return Answer(decode_gradient(cut.down, payload, codewords, *coded.shape), len(sent), len(payload))


def accuracy(scenario: Scenario, cut: Cut) -> float:
    """Train with the codecs at the cut; gives the accuracy in the test."""
    task, training = load_task(scenario.task), scenario.training
    data, rng = task.load(), np.random.default_rng(scenario.seed)
    head, tail = initial_model(task, scenario.seed)
    torch.manual_seed(scenario.seed)
    for number, cohort in enumerate(cohorts(scenario, data, training.rounds), start=1):
        for inputs, targets in cohort:
            z = head(inputs)
            z.backward(torch.from_numpy(answer(task, tail, cut, z, targets, rng).gradient))
        for half in (head, tail):
            sgd_step(half, training.head_lr * training.lr_factor(number) / len(cohort))
    return evaluate(task, data.test, head, tail)


def main() -> None:
    """Print a row for each pair of codecs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=SCENARIOS, default="watch_exercises")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--rounds", type=int, help="default: those after which nothing more is learned")
    given = parser.parse_args()
    torch.set_num_threads(1)
    seeds = given.seeds.split(",")
    print("| coded | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean |")
    print("|---|" + "--:|" * (len(seeds) + 1))
    settings = [*SETTINGS[given.task], *([f"training.rounds={given.rounds}"] if given.rounds else [])]
    for name, cut in CUTS[given.task].items():
        found = [
            accuracy(load_scenario(SCENARIOS[given.task], [f"seed={seed}", *settings]), cut) for seed in seeds
        ]
        cells = [f"{each:.3f}" for each in [*found, fmean(found)]]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
