"""Files from which a stopped or killed server goes on: the newest checkpoint, and the one before it.

One holds head, tail, the rows of the rounds so far, the byte ledger, and what the rule filtered_mean
remembers of clients. Nothing else is needed: plain SGD keeps no state, every random choice is made from the
seed and the round, and clients greet a new incarnation.

A checkpoint is a safetensors file. Its header has a checksum of the whole file, computed with zeros in the
checksum's place: a file in which any bit is another one is not loaded. It is on the disk, not only with the
system, before it replaces the one before, which is kept under another name.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from broker.errors import RunError
from broker.files import atomic_write, writing
from server_node.aggregation import LossFilter
from server_node.vocabulary.ledger import Ledger

FILE = "checkpoint.safetensors"
PREVIOUS = "checkpoint.previous.safetensors"

_DIGITS = 32
_ZEROS = b"0" * _DIGITS
_CHECKSUM = re.compile(rb'"checksum":"([0-9a-f]{%d})"' % _DIGITS)


class Progress(msgspec.Struct, frozen=True):
    """How far a run has come.

    Attributes:
        settings: of its scenario, see server_node.progress.settings_of.
        rows: one a round, as in metrics.parquet.
        ledger: all bytes and messages so far.
        filter: of the rule filtered_mean; as it begins with every other rule.
    """

    settings: dict[str, Any]
    rows: list[dict[str, Any]]
    ledger: Ledger
    filter: LossFilter = msgspec.field(default_factory=LossFilter)


class DamagedError(Exception):
    """A file that is no checkpoint, or not the one that was written."""


def tensors_of(head: nn.Module, tail: nn.Module) -> dict[str, Tensor]:
    """Copy parameters and buffers of both parts; names get `head.` and `tail.` in front."""
    return {
        f"{part}.{name}": value.detach().clone().contiguous()
        for part, module in (("head", head), ("tail", tail))
        for name, value in module.state_dict().items()
    }


def save(
    folder: Path,
    progress: Progress,
    tensors: Mapping[str, Tensor],
    still_ours: Callable[[], None] = lambda: None,
) -> None:
    """Write the checkpoint of a run folder, and keep the one before; wait until the disk has it.

    Args:
        folder: the run folder.
        progress: goes into the file's header.
        tensors: head and tail.
        still_ours: is called before the new file replaces the old one, and raises what ends that.

    Raises:
        RunError: it cannot be written. The ones before are as they were.
    """
    file = folder / FILE
    metadata = {"progress": msgspec.json.encode(progress).decode(), "checksum": _ZEROS.decode()}
    try:
        with writing(file), atomic_write(file, durable=True, previous=folder / PREVIOUS) as part:
            save_file(dict(tensors), part, metadata=metadata)
            at, checksum = _checksum(part)
            with part.open("r+b") as opened:
                opened.seek(at)
                opened.write(checksum)
            still_ours()
    except SafetensorError as error:  # a full disk, for one
        raise RunError(f"cannot write {file}: {error}") from error


def save_model(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the tensors of both parts in safetensors format, whole or not at all.

    Raises:
        RunError: the file cannot be written.
    """
    try:
        with writing(file), atomic_write(file) as part:
            save_file(dict(tensors), part)
    except SafetensorError as error:
        raise RunError(f"cannot write {file}: {error}") from error


def load(file: Path) -> tuple[Progress, dict[str, Tensor]]:
    """Read a checkpoint.

    Raises:
        DamagedError: it is not what was written.
        OSError: it cannot be read.
    """
    at, checksum = _checksum(file)
    with file.open("rb") as opened:
        opened.seek(at)
        if opened.read(_DIGITS) != checksum:
            raise DamagedError("its checksum is wrong")
    try:
        with safe_open(file, framework="pt") as saved:
            progress = msgspec.json.decode(saved.metadata()["progress"], type=Progress)
            return progress, {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118  no dict
    except (SafetensorError, msgspec.MsgspecError, KeyError) as error:
        raise DamagedError(str(error)) from error


def newest(folder: Path) -> tuple[Progress, dict[str, Tensor], Sequence[str]] | None:
    """Read the newest checkpoint of a run folder that is not damaged.

    Returns:
        The checkpoint and what was wrong with a newer one, a line each; None when there is no checkpoint.

    Raises:
        RunError: there are checkpoints, and none is good.
    """
    damaged: list[str] = []
    for file in (folder / FILE, folder / PREVIOUS):
        try:
            progress, tensors = load(file)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            continue
        except (DamagedError, OSError) as error:
            damaged.append(f"{file} is damaged: {error}")
        else:
            return progress, tensors, damaged
    if damaged:
        raise RunError("\n".join(damaged) + "\nno good checkpoint is left; --fresh begins the run anew")
    return None


def remove(folder: Path) -> None:
    """Remove all checkpoints of a run folder.

    Raises:
        RunError: they cannot be removed.
    """
    for file in (folder / FILE, folder / PREVIOUS):
        with writing(file):
            file.unlink(missing_ok=True)


def _checksum(file: Path) -> tuple[int, bytes]:
    """Compute a file's checksum with zeros in the checksum's place.

    Returns:
        Where it belongs, and its hexadecimal digits.

    Raises:
        DamagedError: the file has no place for one.
    """
    with file.open("rb") as opened:
        header_bytes = int.from_bytes(opened.read(8), "little")
        opened.seek(0)
        start = opened.read(8 + header_bytes if header_bytes < file.stat().st_size else 8)
        place = _CHECKSUM.search(start)
        if place is None:
            raise DamagedError("it is no whole checkpoint")
        hashed = hashlib.blake2b(start[: place.start(1)] + _ZEROS, digest_size=_DIGITS // 2)
        hashed.update(start[place.end(1) :])
        while block := opened.read(1 << 20):
            hashed.update(block)
    return place.start(1), hashed.hexdigest().encode()
