"""What codecs keep of gradients and heads, wherever a model is cut.

    .venv/bin/python -m benchmarks.cut_codecs SCENARIO RUN [KEY.PATH=VALUE ...]

RUN is the folder of a run that has trained the same model, cut anywhere; its weights are used. Gradients: 60
samples in the scenario's batches, bytes a sample, and the squared relative error at the parameters of the
head. Updates: 200 samples, bytes of a batch's update, and the cosine between the sum of all updates and what
arrives of it. States: what the run has changed in the head, bytes, and the squared relative error, also of
norms and biases alone.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from broker.codecs import (
    Codec,
    CodedPq,
    CodewordMean,
    Float32,
    GradientCodec,
    Int2,
    Int4,
    Int8,
    LowRank,
    TopK,
)
from broker.codecs.base import Matrix
from broker.codecs.heads.matrices import Matrices, Shape
from scenarios.heads.parts import form_of
from scenarios.loading.load import load_scenario
from scenarios.schema.scenario import Scenario
from scenarios.task import Task
from scenarios.tasks import load_task
from scenarios.training import head_vector, initial_model
from server_node.checkpoint import save_model, tensors_of
from sim.advice.batches import first_batches
from sim.advice.measure import measure_gradients
from sim.advice.weights import load_weights

GRADIENT_ROWS, UPDATE_ROWS = 60, 200


def gradient_codecs(cut_shape: tuple[int, ...]) -> Iterator[tuple[str, Codec, GradientCodec]]:
    """Give what a line is called, the codec of the activations and that of the gradients.

    Args:
        cut_shape: height, width and channels.
    """
    height, width, channels = cut_shape

    def coded(values: int, centroids: int) -> CodedPq:
        parts = channels // values
        return CodedPq(subvectors=height * width * parts, centroids=centroids, width=width * parts)

    for values in (channels, channels // 2, channels // 4):
        for centroids in (16, 64):
            name = f"codeword_mean 8 bits, {values} values, L={centroids}"
            yield name, coded(values, centroids), CodewordMean(bits=8)
    for values, centroids in ((channels, 16), (channels, 64), (channels // 4, 16), (2, 16)):
        yield f"coded_pq, {values} values, L={centroids}", Float32(), coded(values, centroids)
    for fraction in (0.01, 0.05, 0.2):
        yield f"topk {fraction}", Float32(), TopK(fraction=fraction)
    for codec in (Int2(), Int4()):
        yield codec.codec, Float32(), codec


def gradients(scenario: Scenario, task: Task, run: Path) -> None:
    """Print how well the head is served by what arrives of its gradients."""
    batches = list(first_batches(scenario, task, GRADIENT_ROWS, run))
    print("| gradients | bytes a sample | fewer | error at the head |\n|---|--:|--:|--:|")
    for name, up, down in gradient_codecs(task.cut_shape):
        found = measure_gradients(down, up, batches, scenario.seed)
        print(
            f"| {name} | {found.sample_bytes:,.1f} | {found.ratio:,.0f}x | {found.head_error:.3f} |",
            flush=True,
        )


def updates(scenario: Scenario, task: Task, run: Path, shapes: Sequence[Shape]) -> None:
    """Print what is kept of a cohort's updates."""
    single = [batch.gradient[None] for batch in first_batches(scenario, task, UPDATE_ROWS, run)]
    exact, rng = np.sum(single, axis=0), np.random.default_rng(0)
    print("\n| updates | bytes | cosine |\n|---|--:|--:|")
    codecs: dict[str, Codec] = {
        f"low_rank {r}, {b} bits": low_rank(r, b, shapes) for r, b in ((2, 4), (4, 4), (8, 8))
    }
    for name, codec in (codecs | {"int4": Int4(), "int8": Int8()}).items():
        payloads = [codec.encode(each, rng) for each in single]
        arrives = np.sum([codec.decode(payload, *exact.shape) for payload in payloads], axis=0)
        cosine = np.vdot(arrives, exact) / np.linalg.norm(arrives) / np.linalg.norm(exact)
        print(f"| {name} | {np.mean([*map(len, payloads)]):,.0f} | {cosine:.3f} |", flush=True)


def states(scenario: Scenario, task: Task, run: Path, shapes: Sequence[Shape]) -> None:
    """Print what is kept of the head's change since the first round."""
    head, tail = initial_model(task, scenario.seed)
    origin = load_scenario(str(run / "scenario.yaml"))
    with TemporaryDirectory() as first:  # by name, for the run may have been cut elsewhere
        start = initial_model(load_task(origin.task), origin.seed)
        save_model(Path(first, "model.safetensors"), tensors_of(*start))
        load_weights(Path(first), head, tail)
    before = head_vector(head)
    load_weights(run, head, tail)
    x, rng = (head_vector(head) - before)[None], np.random.default_rng(0)
    norms = np.repeat([shape.rows == 1 for shape in shapes], [shape.values for shape in shapes])
    print("\n| states | bytes | error | of norms and biases |\n|---|--:|--:|--:|")
    codecs: dict[str, Codec] = {
        f"coded_pq, 2 values, L={centroids}": CodedPq(subvectors=x.size // 2, centroids=centroids)
        for centroids in (16, 64)
    }
    for name, codec in (
        codecs | {"int4": Int4(), "int8": Int8(), "low_rank 8, 8 bits": low_rank(8, 8, shapes)}
    ).items():
        payload = codec.encode(x, rng)
        y = codec.decode(payload, *x.shape)
        print(
            f"| {name} | {len(payload):,} | {off(y, x):.4f} | {off(y[:, norms], x[:, norms]):.3f} |",
            flush=True,
        )


def low_rank(rank: int, bits: int, shapes: Sequence[Shape]) -> Matrices:
    """Make low_rank for a head's vector."""
    return Matrices(LowRank(rank=rank, bits=bits), tuple(shapes))


def off(y: Matrix, x: Matrix) -> float:
    """Give the squared relative error."""
    return float(np.square(y - x).sum() / np.square(x).sum())


def main() -> None:
    """Print three tables as Markdown."""
    file, run, *settings = sys.argv[1:]
    torch.set_num_threads(1)
    scenario = load_scenario(file, settings)
    task = load_task(scenario.task)
    shapes = form_of(task.head()).shapes
    print(f"{task.cut_shape} at the cut\n")
    gradients(scenario, task, Path(run))
    updates(scenario, task, Path(run), shapes)
    states(scenario, task, Path(run), shapes)


if __name__ == "__main__":
    main()
