"""Encoding a batch with `pq`, against the k-means of faiss and scikit-learn.

    .venv/bin/python -m benchmarks.encode

Ours is all of `encode`: clustering, assignment, rounding and packing. Theirs is k-means, ten iterations from
one start, and the assignment: faiss as it comes, which learns from 256 points per centroid at most; faiss
with all points; scikit-learn, with k-means++. All have one thread and take turns on the same batches, once
to warm up and then ten times, of which the best counts. Times are medians over the batches, in milliseconds
of CPU; "faster" compares ours with the quickest of the three. Errors are our squared error over theirs,
averaged over the batches.

The batches are activations (20 x 9216, channels last) of the FEMNIST network on MNIST digits, as initialised
and after a hundred steps of training. Needs the `bench` dependency group.
"""

import statistics
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from threadpoolctl import threadpool_limits
from torch import nn

from broker.codecs import Pq
from scenarios.computing.optimizers import sgd_step
from scenarios.task import Dataset, Task
from scenarios.tasks.digits28 import task as digits28
from scenarios.training import BatchSampler, initial_model

try:
    import faiss
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
except ImportError as missing:
    sys.exit(f"{missing}; the bench group has it: pip install --group bench")

Matrix = npt.NDArray[np.float32]
Run = Callable[[int], Callable[[], float]]  # seed -> what has to be timed is done; the rest gives the error

SETTINGS = [(1152, 2), (288, 4), (288, 32)]  # subvectors, centroids
TRAINING_STEPS = [0, 100]
LEARNING_RATE = 0.03
BATCHES = 12
BATCH_SIZE = 20
REPEATS = 10
ITERATIONS = 10


def main() -> None:
    """Print a line for each network and setting."""
    torch.set_num_threads(1)
    task = digits28(None)
    data = task.load()
    print(f"{'steps':>5} {'q':>5} {'L':>3} {'ours':>6} {'faiss':>6} {'all':>6} {'sklearn':>8}", end="")
    print(f" {'faster':>7}   error over: {'faiss':>6} {'all':>6} {'sklearn':>8}")
    for steps in TRAINING_STEPS:
        batches = activations(task, data, steps)
        for subvectors, centroids in SETTINGS:
            with threadpool_limits(limits=1):
                times, errors = compare(batches, subvectors, centroids)
            ours, *others = (1e3 * statistics.median(column) for column in times)
            ratios = [np.mean(np.divide(errors[0], column)) for column in errors[1:]]
            print(
                f"{steps:5} {subvectors:5} {centroids:3} {ours:6.2f} {others[0]:6.2f} {others[1]:6.2f}",
                end="",
            )
            print(f" {others[2]:8.2f} {min(others) / ours:6.2f}x", end="")
            print(f" {ratios[0]:20.3f} {ratios[1]:6.3f} {ratios[2]:8.3f}", flush=True)


def activations(task: Task, data: Dataset, steps: int) -> list[Matrix]:
    """Train the network for some steps; give what its head then makes of further batches."""
    head, tail = initial_model(task, seed=0)
    sampler = BatchSampler(len(data.train.targets), BATCH_SIZE, seed=0, client="bench")
    for step in range(steps):
        inputs, targets = data.train.batch(sampler.rows(0, step))
        task.loss(tail(head(inputs)), targets).mean().backward()  # type: ignore[no-untyped-call]  # torch's stubs
        for part in (head, tail):
            sgd_step(part, LEARNING_RATE)
    return [forward(head, data.train.batch(sampler.rows(1, step))[0]) for step in range(BATCHES)]


def forward(head: nn.Module, inputs: torch.Tensor) -> Matrix:
    """Run the head as in training."""
    with torch.no_grad():
        z: Matrix = head(inputs).contiguous().numpy()
    return z


def compare(
    batches: list[Matrix], subvectors: int, centroids: int
) -> tuple[list[list[float]], list[list[float]]]:
    """Let all contestants take turns; give their times in seconds and squared errors, ours first."""
    times: list[list[float]] = [[], [], [], []]
    errors: list[list[float]] = [[], [], [], []]
    for seed, x in enumerate(batches):
        points = x.reshape(-1, x.shape[1] // subvectors)
        runs: list[Run] = [
            encode_run(x, Pq(subvectors=subvectors, centroids=centroids)),
            faiss_run(points, centroids, all_points=False),
            faiss_run(points, centroids, all_points=True),
            sklearn_run(points, centroids),
        ]
        for place in range(len(runs)):
            contestant = (place + seed) % len(runs)
            runs[contestant](seed)
            took_s = []
            for _ in range(REPEATS):
                started_s = time.process_time()
                error = runs[contestant](seed)
                took_s.append(time.process_time() - started_s)
            times[contestant].append(min(took_s))
            errors[contestant].append(error())
    return times, errors


def encode_run(x: Matrix, codec: Pq) -> Run:
    """Our contestant."""
    rng = np.random.default_rng(0)

    def run(_: int) -> Callable[[], float]:
        payload = codec.encode(x, rng)
        return lambda: squared(x - codec.decode(payload, *x.shape))

    return run


def faiss_run(points: Matrix, centroids: int, *, all_points: bool) -> Run:
    """The k-means of faiss and a search for the nearest centroids."""
    limit = {"max_points_per_centroid": len(points)} if all_points else {}

    def run(seed: int) -> Callable[[], float]:
        kmeans = faiss.Kmeans(
            points.shape[1], centroids, niter=ITERATIONS, seed=seed, min_points_per_centroid=1, **limit
        )
        kmeans.train(points)
        _, codes = kmeans.index.search(points, 1)
        found = np.asarray(kmeans.centroids)
        return lambda: squared(points - found[codes[:, 0]])

    return run


def sklearn_run(points: Matrix, centroids: int) -> Run:
    """The k-means of scikit-learn, which ends with the assignment."""

    def run(seed: int) -> Callable[[], float]:
        kmeans = KMeans(centroids, n_init=1, max_iter=ITERATIONS, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            kmeans.fit(points)
        return lambda: squared(points - kmeans.cluster_centers_[kmeans.labels_])

    return run


def squared(differences: Matrix) -> float:
    """Give the sum of squares."""
    return float((differences.astype(np.float64) ** 2).sum())


if __name__ == "__main__":
    main()
