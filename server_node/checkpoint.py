"""One file from which a killed server goes on, written whole or not at all.

It holds head, tail, the rows of the rounds so far and the byte ledger. Nothing else is needed: plain SGD
keeps no state, every random choice hangs on the seed and the round, and clients greet a new incarnation.
"""

from pathlib import Path
from typing import Any

import msgspec
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from broker.errors import RunError
from broker.files import atomic_write
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


def model_tensors(head: nn.Module, tail: nn.Module) -> dict[str, Tensor]:
    """Name the tensors of both parts, `head.` and `tail.` before their own names."""
    return {
        f"{part}.{name}": value.contiguous()
        for part, module in (("head", head), ("tail", tail))
        for name, value in module.state_dict().items()
    }


def save(folder: Path, progress: Progress, head: nn.Module, tail: nn.Module) -> None:
    """Write the checkpoint of a run folder; the one before stays whole until this one is."""
    with atomic_write(folder / FILE) as part:
        save_file(
            model_tensors(head, tail), part, metadata={"progress": msgspec.json.encode(progress).decode()}
        )


def restore(folder: Path, digest: str, head: nn.Module, tail: nn.Module) -> Progress:
    """Load a run folder's checkpoint into head and tail.

    Raises:
        RunError: there is none, or it is another scenario's.
    """
    file = folder / FILE
    if not file.is_file():
        raise RunError(f"no {FILE} in {folder} to resume from: start the run without --resume")
    with safe_open(file, framework="pt") as saved:
        progress = msgspec.json.decode(saved.metadata()["progress"], type=Progress)
        if progress.digest != digest:
            raise RunError(f"{file} belongs to another scenario ({progress.digest}, not {digest})")
        for part, module in (("head", head), ("tail", tail)):
            module.load_state_dict({name: saved.get_tensor(f"{part}.{name}") for name in module.state_dict()})
    return progress
