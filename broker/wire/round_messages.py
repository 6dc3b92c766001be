"""The messages of a round, between the server and a client that is at work."""

from typing import Annotated

import msgspec
from msgspec import Meta

from broker.wire.fields import Attempt, CodecSpecs, Incarnation, Round, Step


class Assignment(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """A client is in the cohort of a round.

    Attributes:
        server: the incarnation that says this.
        round: the round, counted from 1.
        attempt: counts repetitions of this message.
        steps: local steps, each an exchange of Activations and Gradient; 0: the head is the whole model and
            the client trains it by itself, then sends its HeadUpdate (FedAvg).
        head_lr: learning rate of the client's steps in this round.
        codecs: of activations up, gradient down, head update up, head state down.
        head: the head's parameters under the fourth codec, shape (1, P).
        first_step: above 0 in an evaluation, which follows the round of that number: in the steps from this
            one to `steps` - 1 the client sends the samples that it keeps for evaluation, in their order, and
            trains nothing.
    """

    server: Incarnation
    round: Round
    attempt: Attempt
    steps: Step
    head_lr: float
    codecs: CodecSpecs
    head: bytes
    first_step: Step = 0


class Activations(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """The activations of one batch at the cut, and its targets.

    Attributes:
        server: the incarnation that is answered.
        round: the round of the Assignment.
        step: 0 to steps - 1.
        attempt: counts repetitions of this message.
        count: n, the samples in the batch.
        payload: activations z~, shape (n, d), under the first codec.
        targets: of the n samples, see broker.codecs.targets.
    """

    server: Incarnation
    round: Round
    step: Step
    attempt: Attempt
    count: Annotated[int, Meta(ge=1, le=2**16)]
    payload: bytes
    targets: bytes


class Gradient(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """The gradient of one batch, and the strength of its correction (FedLite, arXiv 2201.11865).

    The client backpropagates `dh/dz~ + correction * (z - z~)`; only the client knows z.

    Attributes:
        server: the incarnation that says this.
        round: as in the Activations answered.
        step: as in the Activations answered.
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


class HeadUpdate(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """A client has finished its round: the change of its head.

    Attributes:
        server: the incarnation that is answered.
        round: the round of the Assignment.
        attempt: counts repetitions of this message.
        samples: samples trained on in this round, the weight of this update.
        quantization_error: ||z - z~||^2 / ||z||^2 over the round's batches.
        payload: parameters after the round minus those received, shape (1, P), under the third codec.
    """

    server: Incarnation
    round: Round
    attempt: Attempt
    samples: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    quantization_error: float
    payload: bytes
