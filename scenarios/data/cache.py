"""Where data sets are kept, and how: as npz files of plain arrays, whose reading runs no code."""

import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scenarios.errors import MissingDataError, ScenarioError

Arrays = dict[str, npt.NDArray[Any]]


def data_folder(name: str) -> Path:
    """Give the folder of a data set: below FEDLITE_DATA, or else below the user's cache (XDG)."""
    if own := os.environ.get("FEDLITE_DATA"):
        return Path(own).expanduser() / name
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "fedlite" / name


def needed_folder(path: Path | None, name: str, files: str) -> Path:
    """Give the folder of a data set that `fedlite data fetch` cannot get.

    Args:
        path: what the scenario names.
        name: of the data set.
        files: that the folder must hold.

    Raises:
        ScenarioError: the scenario names no folder.
    """
    if path is None:
        raise ScenarioError(f"{name} needs the folder with {files}", key="task.path")
    return path


def how_to_get(name: str) -> str:
    """Tell how to get a data set."""
    return f"run `fedlite data fetch {name}`"


def write_arrays(file: Path, arrays: Arrays) -> None:
    """Write the arrays of a data set."""
    np.savez_compressed(file, allow_pickle=False, **arrays)


def read_arrays(file: Path, name: str, forms: Mapping[str, tuple[str, int]]) -> Arrays:
    """Read the arrays of a data set.

    Args:
        file: an npz file.
        name: of the data set.
        forms: kind of dtype ("i", "f" or "U") and number of dimensions of each array.

    Raises:
        ScenarioError: there is no such file, or it holds something else.
    """
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in forms}
    except FileNotFoundError as error:
        raise MissingDataError(
            f"no {file.name} in {file.parent}: {how_to_get(name)}", key="task.path"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ScenarioError(f"{file}: cannot be read: {error}") from error
    for key, form in forms.items():
        if (arrays[key].dtype.kind, arrays[key].ndim) != form:
            raise ScenarioError(f"{file}: {key} is {arrays[key].dtype} in {arrays[key].ndim} dimensions")
    return arrays
