"""5,000 handwritten MNIST digits, which come with this package.

4,000 images are for training and 1,000 for testing, as many of each digit. The division is always the same.
"""

from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch

from scenarios.data.cache import read_arrays
from scenarios.errors import ScenarioError
from scenarios.models.femnist_cnn import image_task
from scenarios.seeds import generator
from scenarios.task import Dataset, Split, Task

CLASSES = 10
TEST_PER_CLASS = 100


def task(path: Path | None) -> Task:
    """Make the task; it has no folder of its own."""
    if path is not None:
        raise ScenarioError("digits28 has its data in this package, not in a folder", key="task.path")
    return image_task("digits28", CLASSES, load)


def load() -> Dataset:
    """Read the digits."""
    with as_file(files("scenarios.data") / "digits28.npz") as file:
        arrays = read_arrays(file, "digits28", {"images": ("u", 3), "labels": ("u", 1)})
    labels = arrays["labels"].astype(np.int64)
    test = _test_rows(labels)
    everything = Split(torch.from_numpy(arrays["images"])[:, None], torch.from_numpy(labels))
    train = np.delete(np.arange(len(labels)), test)
    return Dataset(train=everything.take(train), test=everything.take(test))


def _test_rows(
    labels: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    rng = generator(0, "digits28", "test")
    return np.sort(
        np.concatenate(
            [
                rng.choice(np.flatnonzero(labels == label), TEST_PER_CLASS, replace=False)
                for label in range(CLASSES)
            ]
        )
    )
