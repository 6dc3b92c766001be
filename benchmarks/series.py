"""What codecs keep of each flow of a sensor series: watch_exercises.

    .venv/bin/python -m benchmarks.series --rounds 120

Trains without compression for some rounds, then takes one cohort's batches. For each codec: bytes a client,
and squared relative errors: of what it encodes; of the sum over the cohort of what the tail learns, and of
what the head learns, against the same without codecs. Dropout is off.
"""

import argparse
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.flows import RNG, Batch, of_head, off, shaped, trained, updates
from broker.codecs import (
    Codec,
    CodedPq,
    CodewordMean,
    GradientCodec,
    Int2,
    Int4,
    LowRank,
    Pq,
    SampleMean,
    decode_gradient,
    encode_activations,
    encode_gradient,
)
from broker.codecs.base import Matrix
from scenarios.loading.load import load_scenario
from scenarios.task import Task
from scenarios.tasks import load_task
from scenarios.training import head_vector, initial_model, load_head_vector

MOMENTS = 22

ACTIVATIONS: dict[str, Codec] = {
    **{
        f"{kind} q={q}, L={n}": CodedPq(subvectors=q, centroids=n)
        for kind, q, n in (
            ("coded_pq", 22, 16),
            ("coded_pq", 22, 64),
            ("coded_pq", 22, 128),
            ("coded_pq", 22, 256),
            ("coded_pq", 44, 64),
            ("coded_pq", 88, 64),
            ("coded_pq", 11, 64),
        )
    },
    **{
        f"coded_pq q={MOMENTS}, L={n}, rank {r}": CodedPq(subvectors=MOMENTS, centroids=n, rank=r)
        for n, r in ((64, 8), (64, 16), (128, 8), (128, 12), (128, 16), (256, 12), (256, 16))
    },
    "pq q=22, R=1, L=256": Pq(subvectors=MOMENTS, groups=1, centroids=256),
    "int2": Int2(),
    "int4": Int4(),
}
GRADIENTS: dict[str, GradientCodec] = {
    "codeword_mean 8 bits": CodewordMean(bits=8),
    "codeword_mean 4 bits": CodewordMean(bits=4),
    **{
        f"codeword_mean {b} bits, rank {r}": CodewordMean(bits=b, rank=r)
        for r, b in ((2, 8), (4, 8), (8, 8), (4, 4), (8, 4))
    },
    **{
        f"sample_mean {b} bits, rank {r}": SampleMean(subvectors=MOMENTS, rank=r, bits=b)
        for r, b in ((4, 8), (8, 8), (8, 4), (64, 8))
    },
}
STATES: dict[str, Codec] = {
    "int4": Int4(),
    **{
        f"coded_pq, {values} values, L={n}": CodedPq(subvectors=11_296 // values, centroids=n)
        for values, n in ((2, 64), (2, 16), (4, 64), (4, 16))
    },
    **{f"low_rank {r}, {b} bits": LowRank(rank=r, bits=b) for r, b in ((4, 4), (8, 4), (16, 4), (8, 8))},
}


class Learned:
    """What tail and head learn of a cohort's batches.

    Args:
        task: gives the loss.
        head, tail: as trained.
        batches: of the cohort.
    """

    def __init__(self, task: Task, head: nn.Module, tail: nn.Module, batches: Sequence[Batch]) -> None:
        self._task, self._head, self._tail = task, head, tail.eval()
        self.batches = batches
        exact = [self.of_tail(batch, batch.z) for batch in batches]
        self._tail_exact = total(of_tail for of_tail, _ in exact)
        self._head_exact = total(
            of_head(head, batch.inputs, back) for batch, (_, back) in zip(batches, exact, strict=True)
        )

    def of_tail(self, batch: Batch, z: Matrix) -> tuple[Matrix, Matrix]:
        """Give the gradients of the batch's mean loss in the tail, as a vector, and at z."""
        leaf = torch.from_numpy(z).requires_grad_()
        loss = self._task.loss(self._tail(leaf), batch.targets).mean()
        at_z, *in_tail = torch.autograd.grad(loss, [leaf, *self._tail.parameters()])
        return torch.cat([each.flatten() for each in in_tail]).numpy(), at_z.numpy()

    def errors(self, seen: Sequence[Matrix], back: Sequence[Matrix]) -> tuple[float, float]:
        """Give the errors in tail and head if the tail saw `seen` and the heads got `back`."""
        of_tail = total(self.of_tail(batch, z)[0] for batch, z in zip(self.batches, seen, strict=True))
        learned = total(
            of_head(self._head, batch.inputs, g) for batch, g in zip(self.batches, back, strict=True)
        )
        return off(of_tail, self._tail_exact), off(learned, self._head_exact)


def total(vectors: Iterable[Matrix]) -> Matrix:
    """Give the sum of vectors."""
    found: Matrix = np.sum([*vectors], axis=0)
    return found


def activations(learned: Learned) -> Iterator[tuple[str, float, float, float, float]]:
    """Give name, bytes, error, and the errors in tail and head with exact gradients at z~."""
    for name, codec in ACTIVATIONS.items():
        coded = [encode_activations(codec, batch.z, RNG) for batch in learned.batches]
        seen = [z for _, z, _ in coded]
        back = [learned.of_tail(batch, z)[1] for batch, z in zip(learned.batches, seen, strict=True)]
        error = np.mean([off(z, batch.z) for batch, z in zip(learned.batches, seen, strict=True)])
        size = float(np.mean([len(payload) for payload, _, _ in coded]))
        yield name, size, float(error), *learned.errors(seen, back)


def gradients(learned: Learned, up: Codec) -> Iterator[tuple[str, float, float]]:
    """Give name, bytes and error in the head, with activations in another codec."""
    coded = [encode_activations(up, batch.z, RNG) for batch in learned.batches]
    seen = [z for _, z, _ in coded]
    for name, codec in GRADIENTS.items():
        payloads, back = [], []
        for batch, (_, z, codewords) in zip(learned.batches, coded, strict=True):
            payloads.append(encode_gradient(codec, learned.of_tail(batch, z)[1], codewords, RNG))
            back.append(decode_gradient(codec, payloads[-1], codewords, *z.shape))
        yield name, float(np.mean([*map(len, payloads)])), learned.errors(seen, back)[1]


def states(head: nn.Module, initial: Matrix, inputs: Tensor) -> Iterator[tuple[str, float, float, float]]:
    """Give name, bytes, error of the head's change since it was `initial`, and what that is at the cut."""
    vector = head_vector(head)
    with torch.no_grad():
        exact = head(inputs).numpy()
        for name, codec in STATES.items():
            of_head_codec = shaped(codec, head) if codec.sees_shapes else codec
            change = (vector - initial)[None]
            payload = of_head_codec.encode(change, RNG)
            arrived = of_head_codec.decode(payload, *change.shape)
            load_head_vector(head, initial + arrived[0])
            yield name, len(payload), off(arrived, change), off(head(inputs).numpy(), exact)
    load_head_vector(head, vector)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=120)
    given = parser.parse_args()
    torch.set_num_threads(1)
    scenario = load_scenario("watch-exercises", ["task.batch_size=100", f"training.rounds={given.rounds}"])
    task = load_task(scenario.task)
    initial = head_vector(initial_model(task, scenario.seed)[0])
    head, tail, batches = trained(task, scenario)
    learned = Learned(task, head, tail, batches)
    when = f"after {given.rounds} rounds, means of {len(batches)} clients"
    print(f"\nactivations up, {when}")
    print("| codec | bytes | error | in the tail | in the head |\n|---|--:|--:|--:|--:|")
    for name, size, *errors in activations(learned):
        print(
            f"| {name} | {size:,.0f} | " + " | ".join(f"{error:.4f}" for error in errors) + " |", flush=True
        )
    for count in (64, 128):
        up = CodedPq(subvectors=MOMENTS, centroids=count, rank=16)
        print(f"\ngradient down, with {up}\n| codec | bytes | in the head |\n|---|--:|--:|")
        for name, size, error in gradients(learned, up):
            print(f"| {name} | {size:,.0f} | {error:.4f} |", flush=True)
    print("\nhead down\n| codec | bytes | error of the change | at the cut |\n|---|--:|--:|--:|")
    for name, size, *errors in states(head, initial, batches[0].inputs):
        print(f"| {name} | {size:,.0f} | " + " | ".join(f"{error:.4f}" for error in errors) + " |")
    print("\nhead update up\n| codec | bytes | error | cosine |\n|---|--:|--:|--:|")
    for name, size, error, alike in updates(head, batches):
        print(f"| {name} | {size:,.0f} | {error:.4f} | {alike:.4f} |", flush=True)


if __name__ == "__main__":
    main()
