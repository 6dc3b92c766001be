"""Which rows of its embeddings a device's own samples need: others are never read, and have no gradient."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from broker.codecs.coding.row_set import encode_rows
from broker.codecs.heads.matrices import matrix_shape
from scenarios.heads.parts import embeddings, sent_parameters
from scenarios.outputs import outputs_of

Rows = npt.NDArray[np.int64]
_BATCH = 250


def rows_read(head: nn.Module, inputs: Sequence[Tensor]) -> bytes:
    """Give the rows of a head's parameter tensors that samples need, as Hello.rows; empty: all rows.

    An embedding has rows that are needed, and others; of all other tensors every row is. Whether that is all
    is tried: with NaN in the other rows the head must give the same numbers.

    Args:
        head: in any state; it is in the mode for evaluation afterwards.
        inputs: of all samples, each tensor of shape (n, ...).
    """
    sent = [parameter for parameter in sent_parameters(head) if parameter.numel()]
    layers = embeddings(head, sent)
    if not layers:
        return b""
    head.eval()
    read: dict[int, set[int]] = {number: set() for number in layers}
    hooks = [
        layer.register_forward_pre_hook(_reader(read[number]), with_kwargs=True)
        for number, layer in layers.items()
    ]
    try:
        before = [_finite(head, batch) for batch in _batches(inputs)]
    finally:
        for hook in hooks:
            hook.remove()
    rows = {number: np.array(sorted(found), np.int64) for number, found in read.items()}
    if not all(before) or not _needs_no_others(head, inputs, {n: (sent[n], rows[n]) for n in rows}):
        return b""
    totals = [matrix_shape(parameter.shape)[0] for parameter in sent]
    return b"".join(
        encode_rows(rows.get(number, np.arange(total)), total) for number, total in enumerate(totals)
    )


def _reader(found: set[int]) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
    def note(_layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        numbers: Tensor = args[0] if args else kwargs["input"]
        found.update(torch.unique(numbers).tolist())

    return note


def _batches(inputs: Sequence[Tensor]) -> Iterable[Tensor]:
    return (batch for each in inputs if len(each) for batch in torch.split(each, _BATCH))


@torch.no_grad()
def _finite(head: nn.Module, batch: Tensor) -> bool:
    """Say whether all that a head gives is finite."""
    place = next(head.parameters()).device
    return all(bool(torch.isfinite(each).all()) for each in outputs_of(head(batch.to(place))).values())


@torch.no_grad()
def _needs_no_others(
    head: nn.Module, inputs: Sequence[Tensor], tables: dict[int, tuple[nn.Parameter, Rows]]
) -> bool:
    """Say whether a head gives finite numbers with NaN in all rows but these."""
    kept = [(parameter, parameter.detach().clone()) for parameter, _ in tables.values()]
    for parameter, rows in tables.values():
        others = torch.ones(len(parameter), dtype=torch.bool, device=parameter.device)
        others[torch.from_numpy(rows)] = False
        parameter[others] = torch.nan
    try:
        return all(_finite(head, batch) for batch in _batches(inputs))
    finally:
        for parameter, values in kept:
            parameter.copy_(values)
