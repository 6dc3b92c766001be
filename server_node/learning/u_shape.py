"""A U-shape at the server: features for devices, and the tail's gradient from what they send back.

A batch goes through the tail twice, each time alone: once for its features, and once more when their gradient
is here. So nothing of it but its message must be kept in between, and whoever waits beside it, which depends
on time, changes neither its dropout nor its statistics.

Letters: z~ activations at the first cut after the codec, shape (n, d); y the features, shape (n, f).
"""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from broker.wire.errors import WireError
from broker.wire.messages import FeatureGradient
from scenarios.computing.placing import on_cpu, place_of
from scenarios.seeded import seeded
from scenarios.seeds import derive_seed
from server_node.learning.cut import ServerCut
from server_node.learning.gradients import Batch, Passed
from server_node.learning.tail_pass import SeedOf, is_sound, restore, send_all

log = logging.getLogger(__name__)


def forward_all(
    tail: nn.Module, cut: ServerCut, batches: Sequence[Batch], seed: int, size: int
) -> dict[str, bytes | WireError]:
    """Give the encoded features of each batch, by client; or why not, as in `tail_pass.send_all`.

    Args:
        tail: in the mode that is wanted; its buffers are as before.
        cut: encodes them.
        batches: of clients.
        seed: the scenario's.
        size: values of one sample's features, f.
    """
    seed_of = _seeds_of(batches, seed)
    outcomes: dict[str, bytes | WireError] = {}
    for batch in batches:
        features = features_of(tail, batch, seed_of(batch.client), size)
        coded = features if isinstance(features, WireError) else cut.encode_features(batch, features)
        outcomes[batch.client] = coded
    return outcomes


def send_returned(
    tail: nn.Module, batches: Sequence[Batch], returned: Mapping[str, FeatureGradient], seed: int
) -> tuple[list[Passed], dict[str, WireError]]:
    """Send batches through the tail and back, from the gradients at their features; see `tail_pass.send_all`.

    Args:
        tail: in train mode.
        batches: of clients, as `with_returned` gave them.
        returned: what devices sent, by client.
        seed: the scenario's.
    """
    passed, refused = send_all(tail, returned_loss, batches, _seeds_of(batches, seed), apart=True)
    return [_as_told(each, returned) for each in passed], refused


def _seeds_of(batches: Sequence[Batch], seed: int) -> SeedOf:
    """Give the seed of dropout by client, the same whenever the client's batch comes."""
    places = {batch.client: (batch.round, batch.step) for batch in batches}
    return lambda client: derive_seed(seed, "dropout", "server", client, *places[client])


@torch.no_grad()
def features_of(tail: nn.Module, batch: Batch, seed: int, size: int) -> npt.NDArray[np.float32] | WireError:
    """Send one batch through the tail; nothing stays of it, since it will come through again.

    Args:
        tail: in the mode that is wanted; its buffers are as before.
        batch: one client's.
        seed: of dropout.
        size: values of one sample's features, f.

    Returns:
        y; or why not, as in `tail_pass.send_all`.
    """
    before = [buffer.clone() for buffer in tail.buffers()]
    try:
        with seeded(seed):
            outputs = on_cpu(tail(torch.from_numpy(batch.z).to(place_of(tail))))
    except Exception as error:  # whatever the user's tail raises
        log.info("the tail cannot take a batch of %s", batch.client, exc_info=True)
        return WireError("tail", f"{type(error).__name__}: {str(error)[:200]}")
    finally:
        restore(tail, before)
    if outputs.shape != (len(batch.z), size):
        return WireError("tail", f"features of shape {tuple(outputs.shape)}, not {(len(batch.z), size)}")
    if not is_sound(outputs):
        return WireError("range", "a feature is not finite, or of magnitude 2**64 or more")
    features: npt.NDArray[np.float32] = outputs.numpy()
    return features


def with_returned(
    cut: ServerCut, batches: Sequence[Batch], returned: Mapping[str, FeatureGradient]
) -> tuple[list[Batch], dict[str, WireError]]:
    """Give batches, in the place of targets, the gradients at their features; and say whose were refused."""
    read = {batch.client: cut.read_returned(batch, returned[batch.client]) for batch in batches}
    refused = {client: gradient for client, gradient in read.items() if isinstance(gradient, WireError)}
    whole = [
        batch._replace(targets=torch.from_numpy(gradient))
        for batch in batches
        if not isinstance(gradient := read[batch.client], WireError)
    ]
    return whole, refused


def returned_loss(y: Tensor, gradients: Tensor) -> Tensor:
    """Stand in for the loss, which devices have computed.

    Args:
        y: features of one batch.
        gradients: of the device's mean loss at them, shape (n, f).

    Returns:
        Shape (n,). For each sample its gradient at y is that of the sample's own loss.
    """
    return len(gradients) * (y * gradients).sum(1)


def _as_told(passed: Passed, returned: Mapping[str, FeatureGradient]) -> Passed:
    """Put the loss that a device tells in the place of what stood in for it."""
    (batch,) = passed.batches
    return passed._replace(losses=torch.full((len(batch.z),), returned[batch.client].loss))
