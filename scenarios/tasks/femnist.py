"""FEMNIST (Caldas et al. 2018, arXiv 1812.01097): handwritten digits and letters by writer, 62 classes.

Read from files you have, of one of two forms:

    LEAF            all_data_*_train_*.json and all_data_*_test_*.json, in the folder or its train/ and test/
    Hugging Face    *.parquet with the columns image, writer_id, character (flwrlabs/femnist); files with
                    "test" in their names are for testing, and without any a tenth of each writer is

Classes are 0-9, A-Z, a-z in this order. Pixels are as in LEAF and TensorFlow Federated: ink is dark and the
paper is 1.0, unlike in MNIST. All of it as bytes takes 0.6 GB.
"""

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from scenarios.errors import ScenarioError
from scenarios.task import Dataset, Split, Task
from scenarios.tasks.femnist_cnn import image_task
from scenarios.tasks.held_out import random_tenth

CLASSES = 62
PIXELS = 28 * 28
COLUMNS = ("image", "writer_id", "character")
WHERE = (
    "the LEAF JSON files (all_data_*_train_*.json, ..._test_*.json) or the parquet files of flwrlabs/femnist"
)


class Table(NamedTuple):
    """Images of shape (N, 784) uint8, labels of shape (N,) int64, and the writer's name of each row."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    writers: npt.NDArray[np.str_]

    def take(self, mask: npt.NDArray[np.bool_]) -> "Table":
        """Copy the rows of a mask, shape (N,)."""
        return Table(self.images[mask], self.labels[mask], self.writers[mask])


def task(path: Path | None) -> Task:
    """Make the task.

    Raises:
        ScenarioError: no folder is given.
    """
    if path is None:
        raise ScenarioError(f"femnist needs the folder with {WHERE}", key="task.path")
    return image_task("femnist", CLASSES, partial(load, path))


def load(folder: Path) -> Dataset:
    """Read FEMNIST; the writers are the owners.

    Raises:
        ScenarioError: no such files, or they hold something else.
    """
    train_files = sorted({*folder.glob("*_train_*.json"), *folder.glob("train/*_train_*.json")})
    test_files = sorted({*folder.glob("*_test_*.json"), *folder.glob("test/*_test_*.json")})
    parquet_files = sorted(folder.rglob("*.parquet"))
    if train_files and test_files:
        train, test = _join(map(_read_leaf, train_files)), _join(map(_read_leaf, test_files))
    elif parquet_files:
        train, test = _read_parquet_files(parquet_files)
    else:
        raise ScenarioError(f"{folder} must hold {WHERE}", key="task.path")
    owners = np.unique(train.writers, return_inverse=True)[1].astype(np.int64)
    return Dataset(train=_split(train), test=_split(test), owners=owners)


def _split(table: Table) -> Split:
    return Split(torch.from_numpy(table.images).reshape(-1, 1, 28, 28), torch.from_numpy(table.labels))


def _join(tables: Iterable[Table]) -> Table:
    return Table(*(np.concatenate(parts) for parts in zip(*tables, strict=True)))


def _table(file: Path, images: npt.NDArray[np.uint8], labels: Sequence[Any], writers: Sequence[str]) -> Table:
    """Check one file's rows."""
    numbers = np.asarray(labels)
    if images.shape != (len(numbers), PIXELS) or numbers.dtype.kind not in "iu":
        raise ScenarioError(
            f"{file}: images of shape {images.shape} and {len(numbers)} labels of {numbers.dtype}"
        )
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < CLASSES:
        raise ScenarioError(f"{file}: labels must be 0 to {CLASSES - 1}")
    return Table(images, numbers.astype(np.int64), np.asarray(writers, dtype=np.str_))


def _read_leaf(file: Path) -> Table:
    """Read {"users": [name], "user_data": {name: {"x": [[784 floats in 0..1]], "y": [class]}}}."""
    images, labels, writers = [], [], []
    try:
        content = json.loads(file.read_bytes())
        for user in content["users"]:
            rows = content["user_data"][user]
            values = np.asarray(rows["x"], np.float32).reshape(-1, PIXELS)
            images.append(np.rint(values * 255).astype(np.uint8))
            labels.extend(rows["y"])
            writers.extend([user] * len(rows["y"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ScenarioError(f"{file}: not LEAF's FEMNIST: {type(error).__name__}: {error}") from error
    return _table(file, np.concatenate(images), labels, writers)


def _read_parquet_files(files: list[Path]) -> tuple[Table, Table]:
    test_files = [file for file in files if "test" in file.name]
    train = _join(table for file in files if file not in test_files for table in _read_parquet(file))
    if test_files:
        return train, _join(table for file in test_files for table in _read_parquet(file))
    held_out = random_tenth(train.writers, "femnist")
    return train.take(~held_out), train.take(held_out)


def _read_parquet(file: Path) -> Iterator[Table]:
    import pyarrow as pa  # noqa: PLC0415 - 40 MB that a device with another task does without
    from pyarrow import parquet  # noqa: PLC0415 - as above

    try:
        for batch in parquet.ParquetFile(file).iter_batches(batch_size=4096, columns=list(COLUMNS)):
            rows = batch.to_pydict()
            images, writers, labels = (rows[name] for name in COLUMNS)
            yield _table(file, np.stack([_pixels(file, image) for image in images]), labels, writers)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ScenarioError(f"{file}: not a table of {', '.join(COLUMNS)}: {error}") from error


def _pixels(file: Path, image: object) -> npt.NDArray[np.uint8]:
    """Give one image's 784 bytes, from a PNG, or as they are when there are 784 of them."""
    data = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(data, bytes):
        raise ScenarioError(f"{file}: image must hold the bytes of a PNG or {PIXELS} grey values")
    if len(data) != PIXELS:
        data = _decode_png(file, data)
    return np.frombuffer(data, np.uint8)


def _decode_png(file: Path, data: bytes) -> bytes:
    try:
        from PIL import Image  # noqa: PLC0415 - needed for this form of this task only
    except ImportError as error:
        raise ScenarioError(
            "the PNG images of FEMNIST's parquet files need Pillow: pip install pillow"
        ) from error
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            if picture.size != (28, 28):
                raise ScenarioError(
                    f"{file}: an image of {picture.size[0]}x{picture.size[1]} pixels, not 28x28"
                )
            return picture.convert("L").tobytes()
    except OSError as error:
        raise ScenarioError(f"{file}: an image is no PNG: {error}") from error
