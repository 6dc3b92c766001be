"""Files from which a stopped or killed server goes on: the newest checkpoint, and the one before it.

That of a live run holds head, tail, what the server's optimizers remember of them, the rows of the rounds so
far, the byte ledger, and what the rule filtered_mean remembers of clients. Nothing else is needed: every
random choice is made from the seed and the round, and clients greet a new incarnation. What that of a
simulated run holds is in sim.simulation.moment.

A checkpoint is a safetensors file. Its header has a checksum of the whole file, computed with zeros in the
checksum's place: a file in which any bit is another one is not loaded. It is on the disk, not only with the
system, before it replaces the one before, which is kept under another name.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from broker.errors import CannotGoOnError, RunError
from broker.files import atomic_write, part_of, writing
from scenarios.computing.optimizers import Moments, moments_named, named_moments
from scenarios.heads.masters import masters
from server_node.learning.aggregation import LabelFilter
from server_node.vocabulary.ledger import Ledger

FILE = "checkpoint.safetensors"
PREVIOUS = "checkpoint.previous.safetensors"

TAIL_OPTIMIZER = "tail_optimizer"
SERVER_OPTIMIZER = "server_optimizer"

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
    filter: LabelFilter = msgspec.field(default_factory=LabelFilter)


Header = TypeVar("Header", bound=msgspec.Struct)
"""What a checkpoint says beside its tensors; its class tells live runs (Progress) and others apart."""


class DamagedError(Exception):
    """A file that is no checkpoint, or not the one that was written."""


def tensors_of(head: nn.Module, tail: nn.Module) -> dict[str, Tensor]:
    """Copy parameters and buffers of both parts to the CPU; names get `head.` and `tail.` in front.

    A parameter of 16 bits is copied as its float32 master, if it has one.
    """
    return {
        f"{part}.{name}": value.detach().to("cpu", copy=True).contiguous()
        for part, module in (("head", head), ("tail", tail))
        for name, value in (module.state_dict() | masters(module)).items()
    }


def tensors_of_optimizers(tail: Moments, head: Moments) -> dict[str, Tensor]:
    """Copy what the optimizers of the tail and of the averaged head remember; nothing with plain SGD."""
    return named_moments(TAIL_OPTIMIZER, tail) | named_moments(SERVER_OPTIMIZER, head)


def optimizers_in(tensors: Mapping[str, Tensor]) -> tuple[Moments, Moments]:
    """Find in a checkpoint what `tensors_of_optimizers` gave; the inverse."""
    return moments_named(TAIL_OPTIMIZER, tensors), moments_named(SERVER_OPTIMIZER, tensors)


def save(
    folder: Path,
    header: msgspec.Struct,
    tensors: Mapping[str, Tensor],
    still_ours: Callable[[], None] = lambda: None,
) -> None:
    """Write the checkpoint of a run folder, and keep the one before; wait until the disk has it.

    Args:
        folder: the run folder.
        header: goes into the file's header, as JSON.
        tensors: by name.
        still_ours: is called before the new file replaces the old one, and raises what ends that.

    Raises:
        RunError: it cannot be written. The ones before are as they were.
    """
    file = folder / FILE
    metadata = {_key(type(header)): msgspec.json.encode(header).decode(), "checksum": _ZEROS.decode()}
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


def load(file: Path, kind: type[Header]) -> tuple[Header, dict[str, Tensor]]:
    """Read a checkpoint whose header is of a kind.

    Raises:
        DamagedError: it is not what was written.
        CannotGoOnError: it is of another kind of run.
        OSError: it cannot be read.
    """
    at, checksum = _checksum(file)
    with file.open("rb") as opened:
        opened.seek(at)
        if opened.read(_DIGITS) != checksum:
            raise DamagedError("its checksum is wrong")
    try:
        with safe_open(file, framework="pt") as saved:
            said = saved.metadata().get(_key(kind))
            if said is None:
                other = "live" if _key(Progress) in saved.metadata() else "simulated"
                raise CannotGoOnError(
                    f"{file.parent} has a checkpoint of a {other} run; "
                    "--fresh begins anew over it, --out names another folder"
                )
            header = msgspec.json.decode(said, type=kind)
            return header, {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118  no dict
    except (SafetensorError, msgspec.MsgspecError) as error:
        raise DamagedError(str(error)) from error


def newest(folder: Path, kind: type[Header]) -> tuple[Header, dict[str, Tensor], Sequence[str]] | None:
    """Read the newest checkpoint of a run folder that is not damaged.

    Args:
        folder: the run folder.
        kind: of its header.

    Returns:
        The checkpoint and what was wrong with a newer one, a line each; None when there is no checkpoint.

    Raises:
        CannotGoOnError: there are checkpoints, and none is good, or they are of another kind of run.
    """
    damaged: list[str] = []
    for file in (folder / FILE, folder / PREVIOUS):
        try:
            header, tensors = load(file, kind)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            continue
        except (DamagedError, OSError) as error:
            damaged.append(f"{file} is damaged: {error}")
        else:
            return header, tensors, damaged
    if damaged:
        raise CannotGoOnError(
            "\n".join(damaged) + "\nno good checkpoint is left; --fresh begins the run anew"
        )
    return None


def remove(folder: Path) -> None:
    """Remove all checkpoints of a run folder.

    Raises:
        RunError: they cannot be removed.
    """
    for file in (folder / FILE, folder / PREVIOUS, part_of(folder / FILE)):
        with writing(file):
            file.unlink(missing_ok=True)


def _key(kind: type[msgspec.Struct]) -> str:
    return kind.__name__.lower()


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
