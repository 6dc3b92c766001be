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
from scenarios.outputs import arrays, outputs_of
from scenarios.task import Split

FILE = "share.npz"
_BROKEN = (
    OSError, ValueError, TypeError, AttributeError, EOFError, SyntaxError, NotImplementedError, RuntimeError,
    MemoryError, TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
NUMBERS = "uifb"
Stored = dict[str, npt.NDArray[np.generic]]
"""The arrays of a file by their names."""


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
    targets = arrays(outputs_of(split.targets))
    named = {f"targets.{output}" if output else "targets": each for output, each in targets.items()}
    np.savez_compressed(folder / FILE, inputs=split.inputs.numpy(), **named)


def read_share(path: Path, _client: str = "") -> Split:
    """Read an npz file, or all files *.npz of a folder by name, one after the other.

    Each has two arrays, inputs and targets, as Split has them; of several outputs, targets.NAME of each. A
    folder without such files has no samples.

    Raises:
        ScenarioError: a file cannot be read, has other arrays, or does not go with the file before it.
    """
    parts: list[Stored] = []
    for file in files_of(path, [".npz"]):
        parts.append(_stored(file))
        _refuse_unlike(file, parts[-1], parts[0])
    if not parts:
        return Split(torch.empty(0), torch.empty(0, dtype=torch.int64))
    whole = {name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in parts[0]}
    inputs, single = whole.pop("inputs"), whole.get("targets")
    outputs = {name.partition(".")[2]: values for name, values in whole.items()}
    return Split(inputs, outputs if single is None else single)


def _refuse_unlike(file: Path, stored: Stored, first: Stored) -> None:
    if stored.keys() != first.keys():
        raise ScenarioError(f"{file}: has {', '.join(stored)}, but the files before have {', '.join(first)}")
    for name, values in stored.items():
        before = first[name]
        if values.shape[1:] != before.shape[1:] or (name == "inputs" and values.dtype != before.dtype):
            raise ScenarioError(
                f"{file}: {name} of shape {values.shape[1:]} and dtype {values.dtype}, but those of the "
                f"files before have {before.shape[1:]} and {before.dtype}"
            )


def _stored(file: Path) -> Stored:
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
            names = ["inputs", *([name for name in archive if name.startswith("targets.")] or ["targets"])]
            stored = {name: archive[name] for name in names}
    except KeyError as error:
        raise ScenarioError(f"{file}: needs the arrays inputs and targets: {error.args[0]}") from error
    except _BROKEN as error:
        raise ScenarioError(f"{file}: cannot be read as an npz file: {error}") from error
    for name, values in stored.items():
        if values.ndim == 0 or values.dtype.kind not in NUMBERS:
            raise ScenarioError(f"{file}: {name} must be numbers, a row for each sample, not {values.dtype}")
        if len(values) != len(stored["inputs"]):
            raise ScenarioError(f"{file}: {len(stored['inputs'])} inputs but {len(values)} {name}")
    return {name: each.astype(each.dtype.newbyteorder("="), copy=False) for name, each in stored.items()}
