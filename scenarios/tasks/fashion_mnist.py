"""Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747): 60,000 + 10,000 pictures of clothes, 10 classes, MIT.

They are read from the four IDX files of Debian's package dataset-fashion-mnist, or of a folder of yours.
MNIST's own files have the same form and names, so a folder with those works too.
"""

import gzip
import struct
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from scenarios.data.cache import data_folder, how_to_get
from scenarios.errors import MissingDataError, ScenarioError
from scenarios.models.femnist_cnn import image_task
from scenarios.task import Dataset, Split, Task

CLASSES = 10
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package puts its files when it is installed."""
MAX_VALUES = 10**9
PIECE_BYTES = 2**20


def task(path: Path | None) -> Task:
    """Make the task; the folder is Debian's, or where `fedlite data fetch` puts them, unless one is given."""
    usual = DEBIAN_FOLDER if DEBIAN_FOLDER.is_dir() else data_folder("fashion_mnist")
    return image_task("fashion_mnist", CLASSES, partial(load, path or usual))


def load(folder: Path) -> Dataset:
    """Read the four files.

    Raises:
        ScenarioError: a file is missing or is not what its name says.
    """
    return Dataset(train=_split(folder, "train"), test=_split(folder, "t10k"))


def read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """Read a gzipped IDX file of unsigned bytes.

    The header is two zero bytes, the type (8: unsigned byte), the number of dimensions, and each
    dimension's size as a big-endian 32-bit integer.

    Raises:
        ScenarioError: no such file, another header, or fewer or more bytes than the header says.
    """
    try:
        with gzip.open(path) as file:
            magic = file.read(4)
            sizes = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
            if magic != bytes([0, 0, 8, dimensions]) or np.prod(sizes, dtype=np.float64) > MAX_VALUES:
                raise ScenarioError(f"{path}: not an IDX file of bytes in {dimensions} dimensions")
            values = np.empty(sizes, np.uint8)
            if not _fill(values.reshape(-1), file) or file.read(1):
                raise ScenarioError(f"{path}: its data are not of the size {sizes} in its header")
    except FileNotFoundError as error:
        raise MissingDataError(
            f"no {path.name} in {path.parent}: {how_to_get('fashion_mnist')}", key="task.path"
        ) from error
    except (OSError, EOFError, struct.error) as error:
        raise ScenarioError(f"{path}: cannot be read: {error}") from error
    return values


def _fill(values: npt.NDArray[np.uint8], file: gzip.GzipFile) -> bool:
    """Read in pieces, because gzip's own readinto would hold all bytes twice; False if there are too few."""
    filled = 0
    while filled < values.size and (piece := file.read(min(PIECE_BYTES, values.size - filled))):
        values[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
        filled += len(piece)
    return filled == values.size


def _split(folder: Path, name: str) -> Split:
    images = read_idx(folder / f"{name}-images-idx3-ubyte.gz", 3)
    labels = read_idx(folder / f"{name}-labels-idx1-ubyte.gz", 1)
    if images.shape != (len(labels), 28, 28) or labels.max(initial=0) >= CLASSES:
        raise ScenarioError(
            f"{folder}: {name} has images of shape {images.shape} and {len(labels)} labels up to "
            f"{labels.max(initial=0)}; expected as many 28x28 images as labels, and {CLASSES} classes"
        )
    return Split(torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels.astype(np.int64)))
