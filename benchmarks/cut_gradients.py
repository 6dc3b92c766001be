"""How well codecs of gradients serve a head, wherever its model is cut.

    .venv/bin/python -m benchmarks.cut_gradients SCENARIO RUN [KEY.PATH=VALUE ...]

RUN is the folder of a run that has trained the same model, cut anywhere. A line is about 60 samples in the
scenario's batches: bytes a sample, and the squared relative error at the parameters of the head.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from broker.codecs import Codec, CodedPq, CodewordMean, Float32, GradientCodec, Int2, Int4, TopK
from scenarios.loading.load import load_scenario
from scenarios.tasks import load_task
from sim.advice.batches import first_batches
from sim.advice.measure import measure_gradients

ROWS = 60


def codecs(cut_shape: tuple[int, ...]) -> Iterator[tuple[str, Codec, GradientCodec]]:
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


def main() -> None:
    """Print a table as Markdown."""
    file, run, *settings = sys.argv[1:]
    torch.set_num_threads(1)
    scenario = load_scenario(file, settings)
    task = load_task(scenario.task)
    batches = list(first_batches(scenario, task, ROWS, Path(run)))
    print(f"{task.cut_shape} at the cut\n")
    print("| gradients | bytes a sample | fewer | error at the head |\n|---|--:|--:|--:|")
    for name, up, down in codecs(task.cut_shape):
        found = measure_gradients(down, up, batches, scenario.seed)
        print(
            f"| {name} | {found.sample_bytes:,.1f} | {found.ratio:,.0f}x | {found.head_error:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
