"""The messages of a round, between the server and a client that is at work.

Their numbers with a fraction have 32 bits, from the moment when a message is made: so both sides compute with
the same number, over a network and in virtual time. They meet float32 tensors, or are only shown.
"""

from ctypes import c_float
from typing import Annotated

import msgspec
from msgspec import Meta

from broker.wire.fields import Attempt, CodecSpecs, Incarnation, Round, SomeCodecSpecs, Step

Samples = Annotated[int, Meta(ge=1, le=2**16)]
MAX_BATCHES = 256
"""A head update has at most so many batches with it."""
BatchAlong = tuple[Samples, bytes, bytes]
"""Of a batch that comes with a head update count, payload and targets, as in Activations."""


def _round_to_float32(message: msgspec.Struct, field: str) -> None:
    """Give a field of a new message the nearest number of 32 bits; infinity beyond the largest one."""
    msgspec.structs.force_setattr(message, field, c_float(getattr(message, field)).value)


class Assignment(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """A client is in the cohort of a round.

    Attributes:
        server: the incarnation that says this.
        round: the round, counted from 1.
        attempt: counts repetitions of this message.
        steps: exchanges of Activations and Gradient, one a local step; in a U-shape two a local step; 0: the
            client trains by itself, then sends its HeadUpdate: the head is the whole model (FedAvg), or the
            round is one without gradients.
        head_lr: learning rate of the client's steps in this round.
        codecs: of activations up, gradient down, head update up, head state down.
        head: the head's parameters under the fourth codec, shape (1, P).
        first_step: above 0 in an evaluation, which follows the round of that number: in the steps from this
            one to `steps` - 1 the client sends the samples that it keeps for evaluation, in their order, and
            trains nothing.
        features: in a U-shape the codecs of features down and of their gradient up; else none.
        since: above 0: the head is sent as a change of that which the client was assigned in this round.
    """

    server: Incarnation
    round: Round
    attempt: Attempt
    steps: Step
    head_lr: float
    codecs: CodecSpecs
    head: bytes
    first_step: Step = 0
    features: SomeCodecSpecs = ()
    since: Round = 0

    def __post_init__(self) -> None:
        _round_to_float32(self, "head_lr")


class Activations(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """The activations of one batch at the cut, and its targets.

    Attributes:
        server: the incarnation that is answered.
        round: the round of the Assignment.
        step: 0 to steps - 1; in a U-shape an even one.
        attempt: counts repetitions of this message.
        count: n, the samples in the batch.
        payload: activations z~, shape (n, d), under the first codec.
        targets: of the n samples, see broker.codecs.targets; empty in a U-shape.
    """

    server: Incarnation
    round: Round
    step: Step
    attempt: Attempt
    count: Samples
    payload: bytes
    targets: bytes


class Gradient(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """The gradient of one batch, and the strength of its correction (FedLite, arXiv 2201.11865).

    The client backpropagates `dh/dz~ + correction * (z - z~)`; only the client knows z.

    Attributes:
        server: the incarnation that says this.
        round: as in the Activations or FeatureGradient answered.
        step: as in the message answered.
        attempt: counts repetitions of this message.
        correction: lambda; the scale is that of the mean loss over the client's batch.
        payload: dh/dz~ of that mean loss, shape (n, d), under the second codec; empty in an evaluation, where
            it only asks for the next batch.
    """

    server: Incarnation
    round: Round
    step: Step
    attempt: Attempt
    correction: float
    payload: bytes

    def __post_init__(self) -> None:
        _round_to_float32(self, "correction")


class Features(msgspec.Struct, frozen=True, array_like=True, tag=16):
    """In a U-shape: what the server's layers make of a batch; the device has the layers after them.

    Attributes:
        server: the incarnation that says this.
        round: as in the Activations answered.
        step: as in the Activations answered.
        attempt: counts repetitions of this message.
        payload: features y~, shape (n, f), under the first codec of `Assignment.features`.
    """

    server: Incarnation
    round: Round
    step: Step
    attempt: Attempt
    payload: bytes


class FeatureGradient(msgspec.Struct, frozen=True, array_like=True, tag=17):
    """In a U-shape: the gradient of one batch at the features; the Gradient at the first cut answers it.

    Attributes:
        server: the incarnation that is answered.
        round: of the Features answered.
        step: one more than in the Features answered.
        attempt: counts repetitions of this message.
        count: n, the samples in the batch.
        payload: dh/dy~ of the mean loss, shape (n, f), under the second codec of `Assignment.features`.
        loss: that mean loss, for people to look at.
    """

    server: Incarnation
    round: Round
    step: Step
    attempt: Attempt
    count: Samples
    payload: bytes
    loss: float

    def __post_init__(self) -> None:
        _round_to_float32(self, "loss")


class Scores(msgspec.Struct, frozen=True, array_like=True, tag=18):
    """In a U-shape: how the model did on all samples that a client keeps for evaluation. It ends that.

    Attributes:
        server: the incarnation that is answered.
        round: of the Assignment of the evaluation.
        step: one more than that of the last batch.
        attempt: counts repetitions of this message.
        count: samples of all batches.
        score_sum: the sum of their scores.
    """

    server: Incarnation
    round: Round
    step: Step
    attempt: Attempt
    count: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    score_sum: float

    def __post_init__(self) -> None:
        _round_to_float32(self, "score_sum")


BatchUp = Activations | FeatureGradient
"""What a device sends of a batch, and the server answers."""
BatchDown = Gradient | Features
"""The server's answers."""


class HeadUpdate(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """A client has finished its round: the change of its head.

    Attributes:
        server: the incarnation that is answered.
        round: the round of the Assignment.
        attempt: counts repetitions of this message.
        samples: samples trained on in this round, the weight of this update.
        quantization_error: ||z - z~||^2 / ||z||^2 over the round's batches.
        payload: parameters after the round minus those received, shape (1, P), under the third codec.
        batches: in a round without gradients those of all local steps, in their order; else none.
    """

    server: Incarnation
    round: Round
    attempt: Attempt
    samples: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    quantization_error: float
    payload: bytes
    batches: Annotated[tuple[BatchAlong, ...], Meta(max_length=MAX_BATCHES)] = ()

    def __post_init__(self) -> None:
        _round_to_float32(self, "quantization_error")
