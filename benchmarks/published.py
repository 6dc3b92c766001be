"""What other people's codecs keep of activations and gradients, over a grid of their settings, beside ours.

    .venv/bin/python -m benchmarks.published --task fashion_mnist --rounds 60

Trains without compression for some rounds, then takes one cohort's batches, as benchmarks/flows.py does. Of
each family it prints the settings that no other one of the family beats in both bytes and error: of
activations the squared relative error, of gradients one less the cosine between the sum over the cohort of
what the head learns and the same without a codec.
"""

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from torch import nn

from benchmarks.flows import RNG, Batch, cosine, of_head, off, trained
from broker.codecs import (
    C3,
    Codec,
    CodedPq,
    CodewordMean,
    GradientCodec,
    Int2,
    Int4,
    Nsc,
    RandomTopK,
    SlFac,
    SplitFc,
    codec_to_wire,
    decode_gradient,
    encode_activations,
    encode_gradient,
)
from scenarios.loading.load import load_scenario
from scenarios.tasks import load_task

BASES = {
    "fashion_mnist": ("splitfed", ["task.name=fashion_mnist", "task.partition={dirichlet_alpha: 0.3}"]),
    "digits28": ("splitfed", ["task.partition={dirichlet_alpha: 0.3}"]),
    "watch_exercises": ("watch-exercises", ["task.batch_size=100", "training.local_steps=1"]),
}


class Grid(NamedTuple):
    """Settings that are tried, each of a family with all others of it; `parts` are of a batch, for c3."""

    parts: tuple[int, ...]
    ratio_bits: tuple[int, ...]
    keep: tuple[float, ...]
    value_bits: tuple[float, ...]
    energy: tuple[float, ...]
    most_bits: tuple[int, ...]
    rank: tuple[int, ...]
    fraction: tuple[float, ...]
    pieces: tuple[int, ...]
    centroids: tuple[int, ...]


WHOLE = Grid(
    parts=(1, 2, 4),
    ratio_bits=(4, 8, 16),
    keep=(0.01, 0.03, 0.1, 0.3, 1.0),
    value_bits=(0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 1.0),
    energy=(0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99),
    most_bits=(2, 3, 4, 5, 6, 8),
    rank=(1, 2, 4, 8),
    fraction=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
    pieces=(1, 2, 4),
    centroids=(2, 3, 4, 6, 8, 16, 32, 64),
)
FEW = Grid(
    parts=(1, 4),
    ratio_bits=(4, 8),
    keep=(0.02, 0.1, 0.3, 1.0),
    value_bits=(0.02, 0.05, 0.1, 0.2, 0.5),
    energy=(0.5, 0.7, 0.9, 0.97),
    most_bits=(3, 4, 5, 6),
    rank=(1, 2, 4),
    fraction=(0.0005, 0.002, 0.01, 0.03),
    pieces=(1, 2),
    centroids=(2, 4, 8, 16, 32, 64),
)


def families(cut_shape: tuple[int, ...], n: int, grid: Grid) -> Iterator[tuple[str, Codec]]:
    """Give name of the family and codec, for batches of n maps of this shape, channels last."""
    channels, d, width = cut_shape[-1], math.prod(cut_shape), width_of(cut_shape)
    for ratio, bits in product(sorted({4, *(n // part for part in grid.parts)}), grid.ratio_bits):
        yield "c3", C3(ratio=ratio, bits=bits)
    for random, keep, value_bits in product((0, 1), grid.keep, grid.value_bits):
        yield f"splitfc, random {random}", SplitFc(keep=keep, value_bits=value_bits, random=random)
    for energy, most in product(grid.energy, grid.most_bits):
        yield "sl_fac", SlFac(channels=channels, width=width, energy=energy, most_bits=most)
    for columns, rank, bits in product((0, channels, d // channels), grid.rank, (4, 8)):
        yield "nsc", Nsc(columns=columns, rank=rank, energy=1.0, bits=bits)
    for fraction in grid.fraction:
        yield "random_topk", RandomTopK(fraction=fraction, randomness=0.1)


def ours(cut_shape: tuple[int, ...], grid: Grid) -> Iterator[CodedPq]:
    """Give `coded_pq` with one or several sub-vectors for all channels of a place."""
    places = math.prod(cut_shape[:-1])
    for pieces, count in product(grid.pieces, grid.centroids):
        yield CodedPq(subvectors=places * pieces, centroids=count, width=width_of(cut_shape) * pieces)


def width_of(cut_shape: tuple[int, ...]) -> int:
    """Give the places in a line of the map; 1 of a series."""
    return cut_shape[-2] if len(cut_shape) > 2 else 1


def in_stages(cut_shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[Codec, ...]]]:
    """Give ways in which a codec has what the one before has left."""
    ours_of = {each.centroids: each for each in ours(cut_shape, FEW._replace(pieces=(1,)))}
    for count, rank in product((16, 64), (2, 4, 8)):
        yield (
            "coded_pq, then nsc",
            (ours_of[count], Nsc(columns=cut_shape[-1], rank=rank, energy=1.0, bits=4)),
        )
    for count, stages in product((16, 64), (2, 3)):
        yield "coded_pq in stages", (ours_of[count],) * stages


def activations(
    cut_shape: tuple[int, ...], batches: Sequence[Batch], grid: Grid
) -> Iterator[tuple[str, Sequence[GradientCodec], float, float]]:
    """Give family, codecs of the stages, bytes a batch and error."""
    single = (
        *families(cut_shape, len(batches[0].z), grid),
        *(("coded_pq", each) for each in ours(cut_shape, grid)),
    )
    for family, codecs in (*((name, (codec,)) for name, codec in single), *in_stages(cut_shape)):
        sizes, errors = [], []
        for batch in batches:
            y, size = np.zeros_like(batch.z), 0
            for codec in codecs:
                payload = codec.encode(batch.z - y, RNG)
                y, size = y + codec.decode(payload, *batch.z.shape), size + len(payload)
            sizes.append(size)
            errors.append(off(y, batch.z))
        yield family, codecs, float(np.mean(sizes)), float(np.mean(errors))


def gradients(
    cut_shape: tuple[int, ...], head: nn.Module, batches: Sequence[Batch], grid: Grid
) -> Iterator[tuple[str, Sequence[GradientCodec], float, float]]:
    """Give family, codec, bytes a batch and one less the cosine at the head."""
    true = sum(of_head(head, batch.inputs, batch.gradient) for batch in batches)
    tried: list[tuple[str, GradientCodec, Codec | None]] = [
        *((family, codec, None) for family, codec in families(cut_shape, len(batches[0].z), grid)),
        ("int", Int4(), None),
        ("int", Int2(), None),
        *(("codeword_mean", CodewordMean(bits=bits), up) for up in ours(cut_shape, grid) for bits in (4, 8)),
    ]
    for family, codec, up in tried:
        sizes, learned = [], np.zeros_like(true)
        for batch in batches:
            codewords = encode_activations(up, batch.z, RNG)[2] if up else None
            payload = encode_gradient(codec, batch.gradient, codewords, RNG)
            sizes.append(len(payload))
            learned += of_head(head, batch.inputs, decode_gradient(codec, payload, codewords, *batch.z.shape))
        named = codec if up is None else up
        yield family, (named,), float(np.mean(sizes)), 1 - cosine(learned, true)


def told(rows: Iterator[tuple[str, Sequence[GradientCodec], float, float]], measure: str) -> None:
    """Print the front of each family."""
    found: defaultdict[str, list[tuple[float, float, str]]] = defaultdict(list)
    for family, codecs, size, error in rows:
        setting = " + ".join(json.dumps(codec_to_wire(codec)) for codec in codecs)
        found[family].append((size, error, setting))
    for name, settings in found.items():
        print(f"\n{name:<40} {'bytes':>10} {measure:>10}")
        best = np.inf
        for size, error, setting in sorted(settings):
            if error < best:
                best = error
                print(f"{setting:<40} {size:>10,.0f} {error:>10.4f}", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="fashion_mnist", choices=list(BASES))
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--clients", type=int, default=4, help="Of the cohort, whose batches are measured.")
    parser.add_argument("--few", action="store_true", help="Try about half of the settings.")
    given = parser.parse_args()
    grid = FEW if given.few else WHOLE
    base, changes = BASES[given.task]
    scenario = load_scenario(base, [*changes, f"training.rounds={given.rounds}"])
    task = load_task(scenario.task)
    head, _, batches = trained(task, scenario)
    batches = batches[: given.clients]
    print("# activations_up")
    told(activations(task.cut_shape, batches, grid), "error")
    print("\n# gradient_down")
    told(gradients(task.cut_shape, head, batches, grid), "1 - cosine")


if __name__ == "__main__":
    main()
