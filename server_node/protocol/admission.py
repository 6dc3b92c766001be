"""Whether a client runs what the server runs, and whether its tensors can be what they claim to be.

Both are asked before anything is decoded.
"""

from broker.codecs.heads.matrices import decode_row_sets
from broker.wire.errors import WireError
from broker.wire.messages import Activations, BatchUp, FeatureGradient, HeadUpdate, Hello, Scores
from scenarios.schema.flows import Codecs
from server_node.vocabulary.head_share import HeadShare
from server_node.vocabulary.plan import Plan

LARGEST_SCORES = 2.0**64
"""Scores of this magnitude are refused, as from a tail."""

FINGERPRINT = ("the parameters of the model (names, shapes, dtypes)", "the source of the task")
"""What the two digests of a fingerprint are of, see scenarios.fingerprint."""


def check_greeting(plan: Plan, hello: Hello) -> WireError | None:
    """Say what of a client differs from the server: the scenario, or the code of the task.

    A client that wants the welcome has neither, and says so by an empty digest.
    """
    knows_none = hello.wants_welcome and not hello.scenario
    if knows_none and plan.gradients_every != 1:
        why = "a run with auxiliary tails is only for devices with the task's code, which has the loss"
        return WireError("scenario", why)
    if knows_none and plan.u_shape:
        why = "a U-shaped run is only for devices with the task's code: the last layers are theirs"
        return WireError("scenario", why)
    if hello.scenario != plan.digest and not knows_none:
        why = f"the device's scenario {hello.scenario} is not the server's {plan.digest}: "
        why += "give both the same file and --set"
        return WireError("scenario", why)
    if plan.own_rows and hello.rows:
        try:
            decode_row_sets(hello.rows, plan.shapes)
        except WireError as error:
            return error
    if not hello.model or not plan.model or hello.model == plan.model:
        return None
    parts = zip(FINGERPRINT, hello.model.split("-"), plan.model.split("-"), strict=False)
    differing = [
        f"{part}: {theirs} on the device, {ours} on the server"
        for part, theirs, ours in parts
        if theirs != ours
    ]
    if hello.package != plan.package:
        differing.append(f"the package: {hello.package} on the device, {plan.package} on the server")
    return WireError("model", f"the code of the task differs in {'; '.join(differing)}")


class Gate:
    """Asks `check_batch` and `check_update`; what passed last passes at once: stand-ins say one object.

    Args:
        plan: see Plan.
    """

    __slots__ = ("_batch", "_plan", "_update")

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._batch: tuple[BatchUp, Codecs, HeadShare] | None = None
        self._update: tuple[HeadUpdate, Codecs, HeadShare, int] | None = None

    def batch(
        self, codecs: Codecs, share: HeadShare, message: BatchUp, before: Activations | None
    ) -> WireError | None:
        """Do as check_batch."""
        last = self._batch
        if last and last[0] is message and last[1] is codecs and last[2] is share and before is None:
            return None
        error = check_batch(self._plan, codecs, share, message, before)
        if error is None and before is None:
            self._batch = message, codecs, share
        return error

    def update(self, codecs: Codecs, share: HeadShare, message: HeadUpdate, samples: int) -> WireError | None:
        """Do as check_update."""
        last = self._update
        if last and last[0] is message and last[1] is codecs and last[2] is share and last[3] == samples:
            return None
        error = check_update(self._plan, codecs, share, message, samples)
        if error is None:
            self._update = message, codecs, share, samples
        return error


def check_batch(
    plan: Plan, codecs: Codecs, share: HeadShare, message: BatchUp, before: Activations | None
) -> WireError | None:
    """Say what is wrong with what a device sends of a batch: its kind, or the size of something in it.

    Args:
        plan: see Plan.
        codecs: the client's.
        share: what the client has of the head.
        message: of the step that is due.
        before: in a U-shape the batch of which the client has features, whose gradient is due; else None.
    """
    if before is None and isinstance(message, Activations):
        return _check_tensors(plan, codecs, share, message.count, message.payload, message.targets)
    if before is None or not isinstance(message, FeatureGradient):
        due = "activations" if before is None else "the gradient of features"
        return WireError("order", f"{type(message).__name__} where {due} are due")
    n, codec, size = message.count, codecs.feature_gradient_up, len(message.payload)
    if n != before.count:
        return WireError("shape", f"a gradient for {n} samples, but features of {before.count} were sent")
    if not codec.fits(size, n, plan.features_size):
        return WireError("shape", f"a gradient of {size} bytes for {n} samples in {codec}")
    return None


def _check_tensors(
    plan: Plan, codecs: Codecs, share: HeadShare, n: int, payload: bytes, targets: bytes
) -> WireError | None:
    if n > plan.batch_size:
        return WireError("shape", f"{n} samples in a batch of at most {plan.batch_size}")
    codec, size = codecs.activations_up, len(payload)
    if not codec.fits(size, n, share.cut_size):
        return WireError("shape", f"activations of {size} bytes for {n} samples in {codec}")
    if plan.labels_stay:
        kept = "targets in a run in which they stay on the device"
        return WireError("shape", kept) if targets else None
    if not plan.targets.fits(len(targets), n):
        most = plan.targets.size_bytes(n)
        return WireError("shape", f"targets of {len(targets)} bytes for {n} samples, not {most}")
    return None


def check_scores(message: Scores, samples: int) -> WireError | None:
    """Say what is wrong with what a client tells of its samples for evaluation, of which so many came."""
    if message.count != samples:
        return WireError("samples", f"scores of {message.count} samples, but {samples} went through the tail")
    if not abs(message.score_sum) < LARGEST_SCORES:
        return WireError("range", f"scores of {message.score_sum:.3g} together")
    return None


def check_update(
    plan: Plan, codecs: Codecs, share: HeadShare, message: HeadUpdate, samples: int
) -> WireError | None:
    """Say what is wrong with a head update: its size, or the samples by which it would be weighed.

    Args:
        plan: see Plan.
        codecs: the client's.
        share: what the client has of the head.
        message: the update.
        samples: of the client that went through the tail in this round.
    """
    if plan.steps_in(message.round) and message.samples != samples:
        return WireError("samples", f"{message.samples} samples, but {samples} went through the tail")
    if message.samples > plan.local_steps * plan.batch_size:
        most = plan.local_steps * plan.batch_size
        return WireError("samples", f"{message.samples} samples in a round of at most {most}")
    codec, size = codecs.head_update_up, len(message.payload)
    if not share.head_codec(codec).fits(size, share.form.parameters):
        return WireError("shape", f"head update of {size} bytes in {codec}")
    return _check_along(plan, codecs, share, message)


def _check_along(plan: Plan, codecs: Codecs, share: HeadShare, message: HeadUpdate) -> WireError | None:
    """Say what is wrong with the batches that come with a head update."""
    wanted, came = plan.batches_along(message.round), len(message.batches)
    if came != wanted:
        return WireError("shape", f"{came} batches with a head update of round {message.round}, not {wanted}")
    counted = sum(count for count, _, _ in message.batches)
    if wanted and message.samples != counted:
        return WireError("samples", f"{message.samples} samples, but {counted} in the batches with it")
    for count, payload, targets in message.batches:
        error = _check_tensors(plan, codecs, share, count, payload, targets)
        if error is not None:
            return error
    return None
