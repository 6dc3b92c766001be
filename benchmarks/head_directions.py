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

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.cut_learning import FEW, MANY, PICTURES, PIXELS, WIDTH, Cut, answer
from benchmarks.flows import cohorts, of_head, trained
from broker.codecs import CodedPq, CodewordMean, Float32
from scenarios.loading.load import load_scenario
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
    settings = [f"seed={given.seed}", f"training.rounds={given.rounds}", *PICTURES]
    scenario = load_scenario("all-flows", settings)
    task, rng = load_task(scenario.task), np.random.default_rng(given.seed)
    head, tail, _ = trained(task, scenario)
    cuts = {"": Cut(Float32(), Float32()), **CUTS}
    sums, sizes = defaultdict(list), defaultdict(list)
    for number, cohort in enumerate(cohorts(scenario, task.load(), given.rounds + COHORTS)):
        if number < given.rounds:
            continue
        for name, cut in cuts.items():
            total = 0.0
            for client, (inputs, targets) in enumerate(cohort, start=number * len(cohort)):
                torch.manual_seed(client)  # the same dropout with all codecs
                with torch.no_grad():
                    z = head(inputs)
                gradient, *sent = answer(task, tail, cut, z, targets, rng)
                total = total + of_head(head, inputs, gradient)[0].astype(float)
                sizes[name].append(sent)
            sums[name].append(total)
    exact = np.array(sums[""])
    print("| at the cut | bytes up | down | " + " | ".join(f"without {n}" for n in TAKEN_OUT) + " |")
    print("|---|" + "--:|" * (2 + len(TAKEN_OUT)))
    for name in CUTS:
        up, down = np.mean(sizes[name], axis=0)
        cells = [
            f"{up:,.0f}",
            f"{down:,.0f}",
            *(f"{each:.3f}" for each in errors(np.array(sums[name]), exact)),
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
