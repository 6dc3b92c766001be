"""Whether a client's tensors can be what they claim to be; asked before anything is decoded."""

from broker.wire import bits
from broker.wire.errors import WireError
from broker.wire.messages import Activations, HeadUpdate
from scenarios.schema.flows import Codecs
from server_node.protocol.plan import Plan


def check_activations(plan: Plan, codecs: Codecs, message: Activations) -> WireError | None:
    """Say what is wrong with the sizes of a batch: its samples, its payload or its targets."""
    n = message.count
    if n > plan.batch_size:
        return WireError("shape", f"{n} samples in a batch of at most {plan.batch_size}")
    codec, size = codecs.activations_up, len(message.payload)
    if not codec.fits(size, n, plan.cut_size):
        return WireError("shape", f"activations of {size} bytes for {n} samples in {codec}")
    expected = bits.packed_bytes(n * plan.targets_per_sample, bits.bits_for(plan.classes))
    if len(message.targets) != expected:
        return WireError("shape", f"targets of {len(message.targets)} bytes, not {expected}")
    return None


def check_update(plan: Plan, codecs: Codecs, message: HeadUpdate, samples: int) -> WireError | None:
    """Say what is wrong with a head update: its size, or the samples by which it would be weighed.

    Args:
        plan: see Plan.
        codecs: the client's.
        message: the update.
        samples: of the client that went through the tail in this round.
    """
    if plan.steps and message.samples != samples:
        return WireError("samples", f"{message.samples} samples, but {samples} went through the tail")
    if message.samples > plan.local_steps * plan.batch_size:
        most = plan.local_steps * plan.batch_size
        return WireError("samples", f"{message.samples} samples in a round of at most {most}")
    codec, size = codecs.head_update_up, len(message.payload)
    if not codec.fits(size, 1, plan.head_size):
        return WireError("shape", f"head update of {size} bytes in {codec}")
    return None
