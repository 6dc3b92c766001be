"""One file from which a killed server goes on, written whole or not at all.

It holds head, tail, the rows of the rounds so far and the byte ledger. Nothing else is needed: plain SGD
keeps no state, every random choice is made from the seed and the round, and clients greet a new incarnation.
"""

from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from broker.errors import RunError
from broker.files import atomic_write, writing
from server_node.protocol.ledger import Ledger

FILE = "checkpoint.safetensors"


class Progress(msgspec.Struct, frozen=True):
    """How far a run has come.

    Attributes:
        digest: of its scenario.
        rows: one a round, as in metrics.parquet.
        ledger: all bytes and messages so far.
    """

    digest: str
    rows: list[dict[str, Any]]
    ledger: Ledger


def save(folder: Path, progress: Progress, head: nn.Module, tail: nn.Module) -> None:
    """Write the checkpoint of a run folder; the one before stays whole until this one is.

    Raises:
        RunError: it cannot be written.
    """
    save_model(folder / FILE, head, tail, {"progress": msgspec.json.encode(progress).decode()})


def save_model(file: Path, head: nn.Module, tail: nn.Module, metadata: dict[str, str] | None = None) -> None:
    """Write the tensors of both parts, whole or not at all; names get `head.` and `tail.` in front.

    Args:
        file: in safetensors format.
        head: its parameters and buffers are written.
        tail: the same.
        metadata: texts by name that go into the file's header.

    Raises:
        RunError: the file cannot be written.
    """
    tensors: dict[str, Tensor] = {
        f"{part}.{name}": value.contiguous()
        for part, module in (("head", head), ("tail", tail))
        for name, value in module.state_dict().items()
    }
    seen: set[int] = set()
    # the format has no tensor under two names, as layers that share a weight have
    for name, value in tensors.items():
        if value.data_ptr() in seen:
            tensors[name] = value.clone()
        seen.add(value.data_ptr())
    try:
        with writing(file), atomic_write(file) as part:
            save_file(tensors, part, metadata=metadata)
    except SafetensorError as error:  # a full disk, for one
        raise RunError(f"cannot write {file}: {error}") from error


def restore(folder: Path, digest: str, head: nn.Module, tail: nn.Module) -> Progress:
    """Load a run folder's checkpoint into head and tail.

    Raises:
        RunError: there is none, it cannot be read, or it is another scenario's.
    """
    file = folder / FILE
    if not file.is_file():
        raise RunError(f"no {FILE} in {folder} to resume from: start the run without --resume")
    try:
        with safe_open(file, framework="pt") as saved:
            progress = msgspec.json.decode(saved.metadata()["progress"], type=Progress)
            if progress.digest != digest:
                raise RunError(f"{file} belongs to another scenario ({progress.digest}, not {digest})")
            for part, module in (("head", head), ("tail", tail)):
                module.load_state_dict(
                    {name: saved.get_tensor(f"{part}.{name}") for name in module.state_dict()}
                )
    except (OSError, SafetensorError, msgspec.MsgspecError) as error:
        raise RunError(f"{file} cannot be read ({error}): start the run without --resume") from error
    return progress
