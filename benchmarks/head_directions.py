"""How true codecs at the cut leave the head's gradient: as a whole, and beside its greatest directions.

    .venv/bin/python -m benchmarks.head_directions [--rounds 750] [--seed 0]

Trains all-flows' model on fashion_mnist without compression. Then, with these weights, the head's gradient is
summed over each of 40 further cohorts, exactly and with the codecs of each row. A few directions hold most of
its length: they are found as the singular vectors of every other cohort's exact gradient, and taken out of
those of the cohorts between. Gives bytes a client and the squared relative error of the coded gradients, with
no, five and fifteen directions taken out.
"""

import argparse
from collections import defaultdict
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from benchmarks.cut_learning import FEW, MANY, PIXELS, WIDTH, Cut
from benchmarks.flows import cohorts, of_head, trained
from broker.codecs import (
    CodedPq,
    CodewordMean,
    Float32,
    decode_gradient,
    encode_activations,
    encode_gradient,
)
from scenarios.loading.load import load_scenario
from scenarios.task import Task
from scenarios.tasks import load_task

COHORTS = 40
TAKEN_OUT = (0, 5, 15)
THIRTY_TWO = CodedPq(subvectors=PIXELS, centroids=32, width=WIDTH, rank=6)
CUTS = {
    "16 codewords, exact gradient": Cut(FEW, Float32()),
    "16 codewords, means in rank 6 of 4 bits": Cut(FEW, CodewordMean(bits=4, rank=6)),
    "16 codewords, means in 8 bits": Cut(FEW, CodewordMean(bits=8)),
    "32 codewords of rank 6, exact gradient": Cut(THIRTY_TWO, Float32()),
    "32 codewords of rank 6, means in rank 6 of 4 bits": Cut(THIRTY_TWO, CodewordMean(bits=4, rank=6)),
    "32 codewords of rank 6, means in rank 12 of 4 bits": Cut(THIRTY_TWO, CodewordMean(bits=4, rank=12)),
    "32 codewords of rank 6, means in 8 bits": Cut(THIRTY_TWO, CodewordMean(bits=8)),
    "128 codewords of rank 12, exact gradient": Cut(MANY, Float32()),
    "128 codewords of rank 12, means in rank 12 of 4 bits": Cut(MANY, CodewordMean(bits=4, rank=12)),
    "128 codewords of rank 12, means in 8 bits": Cut(MANY, CodewordMean(bits=8)),
}

Gradients = npt.NDArray[np.float64]


class Coded(NamedTuple):
    """A client's gradient of the head, and the bytes that it took.

    Attributes:
        gradient: shape (P,).
        up: bytes of the activations.
        down: bytes of their gradient.
    """

    gradient: npt.NDArray[np.float32]
    up: int
    down: int


class Halves(NamedTuple):
    """A model that does not learn any more, cut in two."""

    task: Task
    head: nn.Module
    tail: nn.Module

    def coded(
        self, cut: Cut, batch: tuple[torch.Tensor, torch.Tensor], seed: int, rng: np.random.Generator
    ) -> Coded:
        """Send a batch through the model and back, with codecs at the cut; the seed decides dropout."""
        inputs, targets = batch
        with torch.no_grad():
            z = self.head(inputs).numpy().copy()
        sent, arrived, codewords = encode_activations(cut.up, z, rng)
        at_tail = torch.from_numpy(arrived).requires_grad_()
        torch.manual_seed(seed)
        self.task.loss(self.tail(at_tail), targets).mean().backward()  # type: ignore[no-untyped-call]
        self.tail.zero_grad()
        assert at_tail.grad is not None
        answer = encode_gradient(cut.down, at_tail.grad.numpy(), codewords, rng)
        gradient = decode_gradient(cut.down, answer, codewords, *z.shape)
        return Coded(of_head(self.head, inputs, gradient)[0], len(sent), len(answer))


def errors(coded: Gradients, exact: Gradients) -> list[float]:
    """Give the squared relative errors of gradients, a row each, with ever more directions taken out."""
    directions = np.linalg.svd(exact[1::2], full_matrices=False)[2]
    found = []
    for count in TAKEN_OUT:
        taken = directions[:count]
        left, off = (rows - (rows @ taken.T) @ taken for rows in (exact[::2], coded[::2] - exact[::2]))
        found.append(float(np.square(off).sum() / np.square(left).sum()))
    return found


def main() -> None:
    """Print a row for each pair of codecs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=750)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    settings = ["task.name=fashion_mnist", "task.partition.dirichlet_alpha=0.3"]
    scenario = load_scenario(
        "all-flows", [f"seed={given.seed}", f"training.rounds={given.rounds}", *settings]
    )
    task, rng = load_task(scenario.task), np.random.default_rng(given.seed)
    head, tail, _ = trained(task, scenario)
    model = Halves(task, head, tail)
    cuts = {"": Cut(Float32(), Float32()), **CUTS}
    of_clients: dict[str, list[list[Coded]]] = defaultdict(list)
    for number, cohort in enumerate(cohorts(scenario, task.load(), given.rounds + COHORTS)):
        if number < given.rounds:
            continue
        for name, cut in cuts.items():
            seeds = range(number * len(cohort), (number + 1) * len(cohort))
            found = [model.coded(cut, batch, seed, rng) for batch, seed in zip(cohort, seeds, strict=True)]
            of_clients[name].append(found)
    sums = {
        name: np.array([np.sum([each.gradient for each in cohort], axis=0, dtype=float) for cohort in rows])
        for name, rows in of_clients.items()
    }
    print("| at the cut | bytes up | down | " + " | ".join(f"without {n}" for n in TAKEN_OUT) + " |")
    print("|---|" + "--:|" * (2 + len(TAKEN_OUT)))
    for name in CUTS:
        clients = [each for cohort in of_clients[name] for each in cohort]
        up, down = (np.mean([getattr(each, way) for each in clients]) for way in ("up", "down"))
        cells = [f"{up:,.0f}", f"{down:,.0f}", *(f"{each:.3f}" for each in errors(sums[name], sums[""]))]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
