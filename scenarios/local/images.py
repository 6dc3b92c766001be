"""Reads folders of images: a folder for each class, as cameras and people leave them."""

import functools
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import torch

from scenarios.errors import ScenarioError, suggestion
from scenarios.local.places import KEY, files_of
from scenarios.task import Split

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")


def read_images(path: Path, *, classes: Sequence[str], size: tuple[int, int], gray: bool = False) -> Split:
    """Read the images of a folder that has a folder for each class; needs Pillow.

    A device may have some of the classes only. Files that are no images by their names are left out.

    Args:
        path: the folder. One without folders has no images.
        classes: names of all folders, on all devices; the targets are their places in this list.
        size: height and width, to which images are resized.
        gray: one channel instead of red, green and blue.

    Returns:
        Inputs of shape (N, channels, height, width), uint8, and targets of shape (N,), int64.

    Raises:
        ScenarioError: Pillow is missing, a folder has no class's name, or an image cannot be read.
    """
    if not path.is_dir():
        raise ScenarioError(f"{path}: images need a folder, with a folder for each class", key=KEY)
    if stray := next(files_of(path, SUFFIXES), None):
        raise ScenarioError(f"{stray}: images must lie in a folder of their class: {', '.join(classes)}")
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    for folder in folders:
        if folder.name not in classes:
            hint = suggestion(folder.name, classes, label="the classes are")
            raise ScenarioError(f"{folder}: '{folder.name}' is no class{hint}")
    files = [(file, classes.index(folder.name)) for folder in folders for file in files_of(folder, SUFFIXES)]
    shape = (1 if gray else 3, *size)
    pixels = np.empty((len(files), *shape), np.uint8)
    for number, (file, _) in enumerate(files):
        pixels[number] = _pixels(file, size, "L" if gray else "RGB").reshape(*size, -1).transpose(2, 0, 1)
    targets = np.array([label for _, label in files], np.int64)
    return Split(torch.from_numpy(pixels), torch.from_numpy(targets))


@functools.cache
def _pillow() -> tuple[ModuleType, ModuleType]:
    """Import Pillow, which only tasks with images need."""
    try:
        from PIL import Image, ImageOps  # noqa: PLC0415 - not every device has it
    except ImportError as error:
        raise ScenarioError("images need Pillow: pip install 'fedlite-mqtt[images]'") from error
    return Image, ImageOps


def _pixels(file: Path, size: tuple[int, int], mode: str) -> npt.NDArray[np.uint8]:
    image_module, operations = _pillow()
    try:
        with image_module.open(file) as opened:
            image = operations.exif_transpose(opened)  # cameras note how they were held
            if image.mode.startswith("I;16"):  # Pillow would cut 16 bits off at 255
                image = image_module.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            small = image.convert(mode).resize((size[1], size[0]), image_module.Resampling.BILINEAR)
            return np.asarray(small, np.uint8)
    except Exception as error:  # Pillow has a kind of error for every kind of broken file
        raise ScenarioError(f"{file}: cannot be read as an image: {error}") from error
