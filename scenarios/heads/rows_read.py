"""Which rows of its embeddings a device's own samples need: others are never read, and have no gradient."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from broker.codecs.coding.row_set import encode_rows
from broker.codecs.heads.matrices import matrix_shape
from scenarios.heads.parts import embeddings, sent_parameters
from scenarios.outputs import outputs_of

_BATCH = 250


def rows_read(head: nn.Module, inputs: Sequence[Tensor]) -> bytes:
    """Give the rows of a head's parameter tensors that samples need, as Hello.rows; empty: all rows.

    An embedding has rows that are needed, and others; of all other tensors every row is. Whether that is all
    is tried: all rows are NaN until the embedding looks them up, and what the head gives must be numbers.

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
    kept = {number: sent[number].detach().clone() for number in layers}
    hooks = [
        layer.register_forward_pre_hook(_reader(read[number], sent[number], kept[number]), with_kwargs=True)
        for number, layer in layers.items()
    ]
    try:
        others_are_unused = all(_is_finite_without(sent, layers, head, batch) for batch in _batches(inputs))
    finally:
        for hook in hooks:
            hook.remove()
        for number, values in kept.items():
            sent[number].data.copy_(values)
    if not others_are_unused:
        return b""
    rows = {number: np.array(sorted(found), np.int64) for number, found in read.items()}
    totals = [matrix_shape(parameter.shape)[0] for parameter in sent]
    return b"".join(
        encode_rows(rows.get(number, np.arange(total)), total) for number, total in enumerate(totals)
    )


def _reader(
    found: set[int], table: nn.Parameter, values: Tensor
) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
    """Make a hook that notes which rows an embedding looks up, and puts their values there."""

    def look_up(_layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        numbers = torch.unique(args[0] if args else kwargs["input"]).long()
        found.update(numbers.tolist())
        table.data[numbers] = values[numbers]

    return look_up


def _batches(inputs: Sequence[Tensor]) -> Iterable[Tensor]:
    return (batch for each in inputs if len(each) for batch in torch.split(each, _BATCH))


@torch.no_grad()
def _is_finite_without(
    parameters: Sequence[nn.Parameter], tables: Iterable[int], head: nn.Module, batch: Tensor
) -> bool:
    """Say whether all that a head gives is finite, with NaN in all rows of tables that nobody looks up."""
    for number in tables:
        parameters[number].data.fill_(torch.nan)
    place = next(head.parameters()).device
    return all(bool(torch.isfinite(each).all()) for each in outputs_of(head(batch.to(place))).values())
