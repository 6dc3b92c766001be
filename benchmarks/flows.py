"""What codecs keep of activations, gradients and head updates, and what the gradient correction can mend.

    .venv/bin/python -m benchmarks.flows --task fashion_mnist --rounds 60

Trains without compression for some rounds, then takes one cohort's batches. For each codec: bytes a client
and squared relative error of what it encodes; and the cosine between the sum over the cohort of what the head
learns and the same without a codec, which is what training feels.

The last table is about g(z), the gradient that the server would give had it seen z, and g(z~), which it does:
their squared distance over ||g(z~)||^2; the lambda for which g(z~) + lambda (z - z~) is nearest to g(z); the
same as lambda ||z~|| / ||g(z~)||; and how much of the squared distance that takes away.
"""

import argparse
import bz2
import lzma
import time
import timeit
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import repeat
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from broker.codecs import (
    Codec,
    CodedPq,
    CodewordMean,
    GradientCodec,
    Int2,
    Int4,
    Int8,
    LowRank,
    Pq,
    RandomTopK,
    TopK,
    decode_gradient,
    encode_activations,
    encode_gradient,
)
from broker.codecs.base import Matrix
from broker.codecs.coded_pq import SEED_BYTES
from broker.codecs.coding.neighbour_coder import decode_codes, encode_codes
from broker.codecs.foretold.coder import decode_foretold, encode_foretold
from broker.codecs.heads.matrices import Matrices
from broker.codecs.kmeans import Points, cluster, nearest
from broker.wire.bits import bits_for, pack
from scenarios.computing.optimizers import sgd_step
from scenarios.heads.parts import form_of
from scenarios.loading.load import load_scenario
from scenarios.partition import client_rows
from scenarios.schema.scenario import Scenario, client_names
from scenarios.task import Dataset, Task
from scenarios.tasks import load_task
from scenarios.training import BatchSampler, initial_model
from server_node.protocol.presence import draw_cohort

PIXELS = 144  # sub-vectors of the FEMNIST CNN's feature map, one a pixel
LINE = 12
RNG = np.random.default_rng(0)


BatchOf = Callable[[int, int, int], tuple[torch.Tensor, torch.Tensor]]
"""Client, round and local step -> inputs and targets."""


class Batch(NamedTuple):
    """A client's batch at the cut."""

    inputs: torch.Tensor
    targets: torch.Tensor
    z: Matrix  # (n, d)
    gradient: Matrix  # (n, d), of the mean loss


def cohorts(
    scenario: Scenario, data: Dataset, rounds: int
) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Give the batches of each round's cohort, as a run of one local step has them."""
    batch_of = batches(scenario, data)
    for number in range(1, rounds + 1):
        yield [batch_of(client, number, 0) for client in chosen(scenario, number)]


def chosen(scenario: Scenario, number: int) -> list[int]:
    """Give the cohort that a run has in a round, as places in the fleet."""
    names = tuple(client_names(scenario))
    cohort = draw_cohort(names, set(names), (), scenario.training.cohort, seed=scenario.seed, number=number)
    return [names.index(name) for name in cohort]


def batches(scenario: Scenario, data: Dataset) -> BatchOf:
    """Give what gives the batch of a client, by its place in the fleet, of a round and a local step."""
    shares = [data.train.take(rows) for rows in client_rows(scenario, data)]
    samplers = [
        BatchSampler(len(share.targets), scenario.task.batch_size, seed=scenario.seed, client=name)
        for name, share in zip(client_names(scenario), shares, strict=True)
    ]
    return lambda client, number, step: shares[client].batch(samplers[client].rows(number, step))


def trained(task: Task, scenario: Scenario) -> tuple[nn.Module, nn.Module, list[Batch]]:
    """Train without compression; gives head, tail and the next cohort's batches."""
    training = scenario.training
    head, tail = initial_model(task, scenario.seed)
    torch.manual_seed(scenario.seed)
    for number, cohort in enumerate(cohorts(scenario, task.load(), training.rounds + 1), start=1):
        batches = []
        for inputs, targets in cohort:
            z = head(inputs)
            z.retain_grad()
            task.loss(tail(z), targets).mean().backward()  # type: ignore[no-untyped-call]
            assert z.grad is not None
            batches.append(Batch(inputs, targets, z.detach().numpy().copy(), z.grad.numpy().copy()))
        for half in (head, tail):
            sgd_step(half, training.head_lr * training.lr_factor(min(number, training.rounds)) / len(cohort))
    return head, tail, batches


def of_head(head: nn.Module, inputs: torch.Tensor, gradient: Matrix) -> Matrix:
    """Give the head's gradient, shape (1, P), for a gradient of its outputs, shape (n, d)."""
    torch.dot(head(inputs).flatten(), torch.from_numpy(gradient).flatten()).backward()  # type: ignore[no-untyped-call]
    found = [parameter.grad for parameter in head.parameters()]
    assert all(each is not None for each in found)
    vector = torch.cat([each.flatten() for each in found if each is not None]).numpy()[None].copy()
    head.zero_grad()
    return vector


def residual(codec: Codec, stages: int) -> Callable[[Matrix], tuple[Matrix, int]]:
    """Give a coder in stages, each of which has a codebook for what the stages before have left."""

    def code(x: Matrix) -> tuple[Matrix, int]:
        y, size = np.zeros_like(x), 0
        for _ in range(stages):
            payload = codec.encode(x - y, RNG)
            y, size = y + codec.decode(payload, *x.shape), size + len(payload)
        return y, size

    return code


def activations(batches: Sequence[Batch]) -> Iterator[tuple[str, float, float, None]]:
    """Give name, bytes and error of codecs for activations."""
    coders = {
        **{f"pq q=144 L={n}": residual(pq(PIXELS, n), 1) for n in (2, 4, 16)},
        "pq q=288 L=4": residual(pq(2 * PIXELS, 4), 1),
        "pq q=1152 L=2": residual(pq(8 * PIXELS, 2), 1),
        **{f"coded_pq q=144 L={n}": residual(coded(n), 1) for n in (2, 3, 4, 6, 8, 16, 32, 64)},
        "coded_pq q=288 L=8": residual(CodedPq(subvectors=2 * PIXELS, centroids=8, width=2 * LINE), 1),
        **{f"coded_pq L={n}, 2 stages": residual(coded(n), 2) for n in (2, 4, 8)},
        "int2": residual(Int2(), 1),
        "topk 0.002": residual(TopK(fraction=0.002), 1),
        "topk 0.02": residual(TopK(fraction=0.02), 1),
        "random_topk 0.02": residual(RandomTopK(fraction=0.02), 1),
    }
    for name, coder in coders.items():
        coded_batches = [coder(batch.z) for batch in batches]
        error = np.mean([off(y, batch.z) for (y, _), batch in zip(coded_batches, batches, strict=True)])
        yield name, float(np.mean([size for _, size in coded_batches])), float(error), None
    for count in (16, 64):
        yield f"codebook L={count} of other clients", *shared(batches, count), None


def shared(batches: Sequence[Batch], count: int) -> tuple[float, float]:
    """Give bytes and error of codes into a codebook that the other half of the cohort has made."""
    half = len(batches) // 2
    rows = [np.ascontiguousarray(batch.z.reshape(1, -1, batch.z.shape[1] // PIXELS)) for batch in batches]
    book = cluster(Points(np.concatenate(rows[half:], axis=1)), count, RNG)
    codes = [nearest(Points(each), book)[0] for each in rows[:half]]
    errors = [off(book[0][numbers], each[0]) for numbers, each in zip(codes, rows, strict=False)]
    return float(
        np.mean([len(encode_codes(each.reshape(-1, PIXELS), count, LINE)) for each in codes])
    ), float(np.mean(errors))


def coders(batches: Sequence[Batch], count: int) -> Iterator[tuple[str, float]]:
    """Give name and bytes of ways to code the codes of `coded_pq` with L = count."""
    clustered = [coded(count).cluster(batch.z, RNG)[1] for batch in batches]
    codes = [each.codes.astype(np.uint8) for each in clustered]
    lzma_filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 4, "lp": 0, "pb": 0}]
    ways: dict[str, Callable[[npt.NDArray[np.uint8]], float]] = {
        "packed": lambda each: len(pack(each, bits_for(count))),
        "entropy of single codes": entropy_bytes,
        "zlib": lambda each: len(zlib.compress(each.tobytes(), 9)),
        "bz2": lambda each: len(bz2.compress(each.tobytes())),
        "LZMA without headers": lambda each: len(
            lzma.compress(each.tobytes(), lzma.FORMAT_RAW, filters=lzma_filters)
        ),
        "entropy coded": lambda each: len(encode_codes(each, count, LINE)),
    }
    for name, way in ways.items():
        yield name, float(np.mean([way(each) for each in codes]))
    books = [each.book for each in clustered]
    foretold = [encode_foretold(each, LINE, book) for each, book in zip(codes, books, strict=True)]
    yield "foretold", float(np.mean([*map(len, foretold)]))


def coder_times(batches: Sequence[Batch]) -> Iterator[tuple[int, list[float]]]:
    """Give L, and milliseconds to code and to read the codes of a batch: foretold, then entropy coded."""
    for count in (2, 6, 16, 32, 64):
        codebook = coded(count).size_bytes(1, batches[0].z.shape[1]) - len(
            pack(np.zeros(PIXELS, np.uint8), bits_for(count))
        )
        seed = bytes(min(codebook, SEED_BYTES))
        clustered = [coded(count).cluster(batch.z, RNG)[1] for batch in batches]
        codes, books = [each.codes.astype(np.uint8) for each in clustered], [each.book for each in clustered]
        shape = codes[0].shape
        foretell = [partial(encode_foretold, *each) for each in zip(codes, repeat(LINE), books)]
        follow = [partial(decode_foretold, each(), shape, LINE, each.args[2]) for each in foretell]
        write = [partial(encode_codes, each, count, LINE, seed) for each in codes]
        read = [partial(decode_codes, each(), shape, count, LINE, len(seed)) for each in write]
        yield count, [mean_ms(calls) for calls in (foretell, follow, write, read)]


def mean_ms(calls: Sequence[Callable[[], object]]) -> float:
    """Give the mean over calls of the best of ten times."""
    best = [min(timeit.repeat(call, timer=time.process_time, number=1, repeat=10)) for call in calls]
    return 1e3 * float(np.mean(best))


def entropy_bytes(codes: npt.NDArray[np.uint8]) -> float:
    """Give what an ideal coder needs that knows how often each code comes, and nothing of neighbours."""
    shares = np.unique(codes, return_counts=True)[1] / codes.size
    return float(-(shares * np.log2(shares)).sum()) * codes.size / 8


def gradients(head: nn.Module, batches: Sequence[Batch]) -> Iterator[tuple[str, float, float, float]]:
    """Give name, bytes, error and cosine of codecs for gradients."""
    codecs: dict[str, tuple[GradientCodec, Codec]] = {
        "int4": (Int4(), coded(16)),
        "int2": (Int2(), coded(16)),
        "topk 0.02": (TopK(fraction=0.02), coded(16)),
        **{f"coded_pq q=144 L={n}": (coded(n), coded(16)) for n in (16, 64)},
        "coded_pq q=1152 L=16": (CodedPq(subvectors=8 * PIXELS, centroids=16), coded(16)),
        **{
            f"codeword_mean, {b} bits, L={n}": (CodewordMean(bits=b), coded(n))
            for n in (2, 6, 16, 64)
            for b in (8, 4)
        },
    }
    true = sum(of_head(head, batch.inputs, batch.gradient) for batch in batches)
    for name, (codec, up) in codecs.items():
        sizes, errors, learned = [], [], np.zeros_like(true)
        for batch in batches:
            codewords = encode_activations(up, batch.z, RNG)[2]
            payload = encode_gradient(codec, batch.gradient, codewords, RNG)
            arrived = decode_gradient(codec, payload, codewords, *batch.z.shape)
            sizes.append(len(payload))
            errors.append(off(arrived, batch.gradient))
            learned += of_head(head, batch.inputs, arrived)
        yield name, float(np.mean(sizes)), float(np.mean(errors)), cosine(learned, true)


def updates(head: nn.Module, batches: Sequence[Batch]) -> Iterator[tuple[str, float, float, float]]:
    """Give name, bytes, error and cosine of codecs for the head's update."""
    single = [of_head(head, batch.inputs, batch.gradient) for batch in batches]
    size = single[0].size
    codecs: dict[str, Codec] = {
        "int8": Int8(),
        "int4": Int4(),
        "int2": Int2(),
        "topk 0.01": TopK(fraction=0.01),
        "topk 0.03": TopK(fraction=0.03),
        "random_topk 0.01": RandomTopK(fraction=0.01),
        **{
            f"low_rank {r}, {b} bits": shaped(LowRank(rank=r, bits=b), head)
            for r, b in ((1, 4), (2, 4), (4, 4), (2, 8))
        },
        **{
            f"coded_pq, {values} values, L={n}": CodedPq(subvectors=size // values, centroids=n)
            for values, n in ((4, 16), (4, 4), (8, 32), (8, 16), (2, 16))
        },
    }
    for name, codec in codecs.items():
        payloads = [codec.encode(each, RNG) for each in single]
        arrived = [codec.decode(payload, *single[0].shape) for payload in payloads]
        error = np.mean([off(y, x) for y, x in zip(arrived, single, strict=True)])
        yield name, float(np.mean([*map(len, payloads)])), float(error), cosine(sum(arrived), sum(single))


def corrections(task: Task, tail: nn.Module, batches: Sequence[Batch]) -> Iterator[tuple[str, Matrix]]:
    """Give name and means of best lambda, the same relative, error of the gradient, what of it is mended."""
    tail.eval()  # the same function of z each time

    def gradient(z: Matrix, targets: torch.Tensor) -> Matrix:
        leaf = torch.from_numpy(z).requires_grad_()
        (found,) = torch.autograd.grad(task.loss(tail(leaf), targets).mean(), leaf)
        vector: Matrix = found.numpy().astype(np.float64)
        return vector

    for name, codec in (
        ("q=144 L=2", pq(PIXELS, 2)),
        ("q=1152 L=2", pq(8 * PIXELS, 2)),
        ("q=144 L=16", pq(PIXELS, 16)),
    ):
        rows = []
        for batch in batches:
            _, seen, _ = encode_activations(codec, batch.z, RNG)
            missed = gradient(batch.z, batch.targets) - (given := gradient(seen, batch.targets))
            residual_energy = float(np.vdot(batch.z - seen, batch.z - seen))
            best = float(np.vdot(missed, batch.z - seen)) / residual_energy
            relative = best * np.linalg.norm(seen) / np.linalg.norm(given)
            energy = np.vdot(missed, missed)
            rows.append([best, relative, energy / np.vdot(given, given), best**2 * residual_energy / energy])
        yield name, np.mean(rows, axis=0)


def pq(subvectors: int, centroids: int) -> Pq:
    """Make FedLite's codec."""
    return Pq(subvectors=subvectors, groups=1, centroids=centroids)


def coded(centroids: int) -> CodedPq:
    """Make the coded one of whole pixels."""
    return CodedPq(subvectors=PIXELS, centroids=centroids, width=LINE)


def shaped(codec: Codec, head: nn.Module) -> Codec:
    """Make a codec of the head's vector of one that sees shapes."""
    return Matrices(codec, form_of(head).shapes)


def off(y: Matrix, x: Matrix) -> float:
    """Give the squared relative error."""
    return float(np.square(y - x, dtype=np.float64).sum() / np.square(x, dtype=np.float64).sum())


def cosine(x: Matrix | int, y: Matrix | int) -> float:
    """Give the cosine between two vectors."""
    a, b = np.ravel(x), np.ravel(y)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="digits28", choices=["digits28", "fashion_mnist"])
    parser.add_argument("--rounds", type=int, default=60)
    given = parser.parse_args()
    scenario = load_scenario(
        "splitfed-300",
        [
            f"task.name={given.task}",
            "task.partition={dirichlet_alpha: 0.3}",
            f"training.rounds={given.rounds}",
        ],
    )
    task = load_task(scenario.task)
    head, tail, batches = trained(task, scenario)
    for title, rows in (
        ("activations up", activations(batches)),
        ("gradient down", gradients(head, batches)),
        ("head update up", updates(head, batches)),
    ):
        print(f"\n{title}: {given.task} after {given.rounds} rounds, means of {len(batches)} clients")
        print("| codec | bytes | relative error | cosine |\n|---|--:|--:|--:|")
        for name, size, error, alike in rows:
            print(f"| {name} | {size:,.0f} | {error:.4f} | {'' if alike is None else f'{alike:.4f}'} |")
    for count in (6, 16):
        print(f"\ncodes of coded_pq L={count}: {given.task} after {given.rounds} rounds")
        print("| coder | bytes |\n|---|--:|")
        for name, size in coders(batches, count):
            print(f"| {name} | {size:,.0f} |")
    print(f"\nCPU for the codes of a batch: {given.task} after {given.rounds} rounds")
    print("| L | foretold: ms to code | to read | entropy coded: ms to code | to read |")
    print("|--:|--:|--:|--:|--:|")
    for count, times_ms in coder_times(batches):
        print(f"| {count} | " + " | ".join(f"{each_ms:.2f}" for each_ms in times_ms) + " |")
    print(f"\ngradient correction: {given.task} after {given.rounds} rounds, means of {len(batches)} clients")
    print("| codec | best lambda | relative | error of the gradient | mended of it |")
    print("|---|--:|--:|--:|--:|")
    for name, (best, relative, error, mended) in corrections(task, tail, batches):
        print(f"| {name} | {best:.1e} | {relative:.3f} | {error:.3f} | {mended:.1%} |")


if __name__ == "__main__":
    main()
