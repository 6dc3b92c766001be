"""Clients' data as files of plain arrays: what `fedlite data export` writes, and tasks read by default."""

import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from tokenize import TokenError

import numpy as np
import numpy.typing as npt
import torch

from scenarios.errors import ScenarioError
from scenarios.local.places import files_of
from scenarios.task import Split

FILE = "share.npz"
_BROKEN = (
    OSError, ValueError, TypeError, AttributeError, EOFError, SyntaxError, NotImplementedError, RuntimeError,
    MemoryError, TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
KINDS = {"inputs": "uifb", "targets": "ui"}


def write_shares(to: Path, shares: Iterable[tuple[str, Split]]) -> None:
    """Write each client's samples into a folder of its name.

    Args:
        to: the folder of these folders, made if missing.
        shares: of each client its name and its samples.

    Raises:
        ScenarioError: a client's folder is there already and not empty: data may be somebody's.
        OSError: the disk is full, or the place may not be written to.
    """
    for client, split in shares:
        folder = to / client
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ScenarioError(f"{folder} is there already; remove it, or name another folder with --to")
        write_share(folder, split)


def write_share(folder: Path, split: Split) -> None:
    """Write samples as share.npz into a folder, which is made if missing.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / FILE, inputs=split.inputs.numpy(), targets=split.targets.numpy())


def read_share(path: Path, _client: str = "") -> Split:
    """Read an npz file, or all files *.npz of a folder by name, one after the other.

    Each has two arrays, inputs and targets, as Split has them. A folder without such files has no samples.

    Raises:
        ScenarioError: a file cannot be read, has other arrays, or does not go with the file before it.
    """
    inputs, targets = list[npt.NDArray[np.generic]](), list[npt.NDArray[np.generic]]()
    for file in files_of(path, [".npz"]):
        one, other = _arrays(file)
        if inputs and (one.shape[1:], one.dtype) != (inputs[0].shape[1:], inputs[0].dtype):
            raise ScenarioError(
                f"{file}: inputs of shape {one.shape[1:]} and dtype {one.dtype}, but those of the files "
                f"before have {inputs[0].shape[1:]} and {inputs[0].dtype}"
            )
        inputs.append(one)
        targets.append(other)
    if not inputs:
        return Split(torch.empty(0), torch.empty(0, dtype=torch.int64))
    return Split(torch.from_numpy(np.concatenate(inputs)), torch.from_numpy(np.concatenate(targets)))


def _arrays(file: Path) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]]:
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in KINDS}
    except KeyError as error:
        raise ScenarioError(f"{file}: needs the arrays inputs and targets: {error.args[0]}") from error
    except _BROKEN as error:
        raise ScenarioError(f"{file}: cannot be read as an npz file: {error}") from error
    for name, values in arrays.items():
        if values.ndim == 0 or values.dtype.kind not in KINDS[name]:
            kind = "numbers" if name == "inputs" else "integers"
            raise ScenarioError(f"{file}: {name} must be {kind}, a row for each sample, not {values.dtype}")
    inputs, targets = (each.astype(each.dtype.newbyteorder("="), copy=False) for each in arrays.values())
    if len(inputs) != len(targets):
        raise ScenarioError(f"{file}: {len(inputs)} inputs but {len(targets)} targets")
    return inputs, targets
