"""Sends batches through the tail so that one which it cannot take harms no other.

Letters as in the paper: z~ activations at the cut after the codec, shape (n, d).
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from broker.wire.errors import WireError
from scenarios.computing.placing import on_cpu, place_of, placed
from scenarios.cutting.trees import tensors
from scenarios.outputs import joined
from scenarios.seeded import seeded
from server_node.learning.gradients import Batch, Passed, learning

log = logging.getLogger(__name__)

LARGEST = 2.0**64
"""Numbers of this magnitude are refused: their squares are infinite in float32."""

Loss = Callable[[Any, Any], Tensor]
SeedOf = Callable[[str], int]


def is_sound(values: Any) -> bool:
    """Say whether every value is finite and below LARGEST.

    Args:
        values: a tensor, or what a model gives in its place, such as a dict or tuple of tensors.
    """
    return all(bool((tensor.abs() < LARGEST).all()) for _, tensor in tensors(values))  # NaN is not below


def send_all(
    tail: nn.Module, loss: Loss, batches: Sequence[Batch], seed_of: SeedOf, *, apart: bool
) -> tuple[list[Passed], dict[str, WireError]]:
    """Send batches through the tail; those that it cannot take are refused, the others go on.

    When something goes wrong with all together, each is tried alone: whoever fails alone is refused, and the
    others go together again. If they fail together although each can go alone, each goes alone.

    Args:
        tail: in train mode. Its parameters and their gradients stay; its buffers are as if nothing that is
            refused had been there.
        loss: of the task.
        batches: at least one.
        seed_of: of dropout, by the first client of those that go together.
        apart: send each alone, for rules that need the gradient of each.

    Returns:
        What went together, and whose batch was refused: "tail" when the tail or the loss raised an error,
        "range" when a loss, a gradient or a buffer is not finite or of magnitude LARGEST and more.
    """
    if not apart:
        together = _send(tail, loss, batches, seed_of)
        if isinstance(together, Passed):
            return [together], {}
        if len(batches) == 1:
            return [], {batches[0].client: together}
    before = [buffer.clone() for buffer in tail.buffers()]  # as they came: what failed together is undone
    alone = [(batch.client, _send(tail, loss, [batch], seed_of)) for batch in batches]
    passed = [result for _, result in alone if isinstance(result, Passed)]
    refused = {client: result for client, result in alone if isinstance(result, WireError)}
    if not apart and passed and refused:
        after = [buffer.clone() for buffer in tail.buffers()]
        restore(tail, before)
        together = _send(tail, loss, [batch for each in passed for batch in each.batches], seed_of)
        if isinstance(together, Passed):
            return [together], refused
        restore(tail, after)
    return passed, refused


def _send(tail: nn.Module, loss: Loss, batches: Sequence[Batch], seed_of: SeedOf) -> Passed | WireError:
    before = [buffer.clone() for buffer in tail.buffers()]
    try:
        passed = _through(tail, loss, batches, seed_of(batches[0].client))
    except Exception as error:  # whatever the user's tail and loss raise
        log.info("the tail cannot take a batch of %s", batches[0].client, exc_info=True)
        why = WireError("tail", f"{type(error).__name__}: {str(error)[:200]}")
    else:
        wrong = _what_is_unsound(passed, tail)
        if wrong is None:
            return passed
        why = WireError("range", f"{wrong} not finite, or of magnitude 2**64 or more")
    restore(tail, before)
    return why


def _through(tail: nn.Module, loss: Loss, batches: Sequence[Batch], seed: int) -> Passed:
    place = place_of(tail)
    z = torch.from_numpy(np.concatenate([batch.z for batch in batches])).to(place).requires_grad_()
    with seeded(seed):
        outputs = tail(z)
    losses = loss(outputs, placed(joined([batch.targets for batch in batches]), place))
    weights = torch.cat([torch.full((len(batch.z),), batch.weight) for batch in batches]).to(place)
    total = (losses * weights).sum()
    found: tuple[Tensor | None, ...] = torch.autograd.grad(total, [z, *learning(tail)], allow_unused=True)
    downlink = torch.zeros_like(z) if found[0] is None else found[0]
    return Passed(batches, on_cpu(losses), on_cpu(downlink).numpy(), found[1:])


def _what_is_unsound(passed: Passed, tail: nn.Module) -> str | None:
    if not is_sound(passed.losses):
        return "the loss is"
    if not is_sound(torch.from_numpy(passed.downlink)):
        return "the gradient at the cut is"
    if not all(is_sound(gradient) for gradient in passed.gradients if gradient is not None):
        return "the gradient at the tail is"
    if not all(is_sound(buffer) for buffer in tail.buffers()):
        return "the tail's running statistics are"
    return None


def restore(tail: nn.Module, before: Sequence[Tensor]) -> None:
    """Set the tail's buffers to what they were."""
    with torch.no_grad():
        for buffer, value in zip(tail.buffers(), before, strict=True):
            buffer.copy_(value)
