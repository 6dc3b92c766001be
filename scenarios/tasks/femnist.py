"""FEMNIST (Caldas et al. 2018, arXiv 1812.01097): handwritten digits and letters by writer, 62 classes.

The data are files of yours, in one of two forms (`scenarios.data.leaf`): LEAF's JSON files, or the parquet
files of flwrlabs/femnist. Without test files a tenth of each writer's rows is for testing.

Classes are 0-9, A-Z, a-z in this order. Pixels are as in LEAF and TensorFlow Federated: ink is dark and the
paper is 1.0, unlike in MNIST. In memory, as bytes, the images take 0.6 GB.
"""

import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scenarios.data.cache import needed_folder
from scenarios.data.leaf import LeafSchema, Mask, load_leaf
from scenarios.models.femnist_cnn import image_task
from scenarios.task import Dataset, Task
from scenarios.tasks.test_split import random_tenth

CLASSES = 62
PIXELS = 28 * 28
WHITE = 255


def task(path: Path | None) -> Task:
    """Make the task.

    Raises:
        ScenarioError: no folder is given.
    """
    folder = needed_folder(path, "femnist", FORM.files)
    return image_task("femnist", CLASSES, partial(load, folder))


def load(folder: Path) -> Dataset:
    """Read FEMNIST; the writers are the owners.

    Raises:
        ScenarioError: no such files, or they hold something else.
    """
    return load_leaf(folder, FORM)


Rows = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]
"""Images of shape (n, 1, 28, 28) and labels of shape (n,)."""


def _checked(images: npt.NDArray[np.uint8], labels: Sequence[Any]) -> Rows:
    numbers = np.asarray(labels)
    if images.shape != (len(numbers), PIXELS) or (numbers.size and numbers.dtype.kind not in "iu"):
        raise ValueError(f"images of shape {images.shape} and {len(numbers)} labels of {numbers.dtype}")
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < CLASSES:
        raise ValueError(f"labels must be 0 to {CLASSES - 1}")
    return images.reshape(-1, 1, 28, 28), numbers.astype(np.int64)


def _of_json(images: Sequence[Any], labels: Sequence[Any]) -> Rows:
    """Read 784 floats in [0, 1] an image."""
    values = np.asarray(images, np.float32).reshape(-1, PIXELS)
    if values.size and not 0 <= values.min() <= values.max() <= 1:  # also false for a pixel that is no number
        scaled = "; divide them by 255" if 1 < values.max() <= WHITE else ""
        raise ValueError(f"pixels must be 0.0 to 1.0, not {values.min():g} to {values.max():g}{scaled}")
    return _checked(np.rint(values * 255).astype(np.uint8), labels)


def _of_parquet(images: Sequence[Any], labels: Sequence[Any]) -> Rows:
    return _checked(np.stack([_pixels(image) for image in images]), labels)


def _hold_out(writers: npt.NDArray[np.int64]) -> tuple[Mask, Mask]:
    tested = random_tenth(writers, "femnist")
    return ~tested, tested


def _pixels(image: object) -> npt.NDArray[np.uint8]:
    """Give one image's 784 bytes, from a PNG, or as they are when there are 784 of them."""
    data = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(data, bytes):
        raise TypeError(f"image must hold the bytes of a PNG or {PIXELS} grey values")
    if len(data) != PIXELS:
        data = _decode_png(data)
    return np.frombuffer(data, np.uint8)


def _decode_png(data: bytes) -> bytes:
    try:
        from PIL import Image  # noqa: PLC0415 - needed for this form of this task only
    except ImportError as error:
        raise ValueError(
            "the PNG images of FEMNIST's parquet files need Pillow: pip install pillow"
        ) from error
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            if picture.size != (28, 28):
                raise ValueError(f"an image of {picture.size[0]}x{picture.size[1]} pixels, not 28x28")
            return picture.convert("L").tobytes()
    except OSError as error:
        raise ValueError(f"an image is no PNG: {error}") from error


FORM = LeafSchema(
    name="FEMNIST",
    published="flwrlabs/femnist",
    columns=("image", "writer_id", "character"),
    of_json=_of_json,
    of_parquet=_of_parquet,
    hold_out=_hold_out,
)
