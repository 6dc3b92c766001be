"""What a client's state machine asks its device to compute, and what comes back."""

import msgspec

from broker.wire.errors import WireError
from broker.wire.messages import (
    Activations,
    Assignment,
    FeatureGradient,
    Features,
    Gradient,
    HeadUpdate,
    Scores,
)


class FirstBatch(msgspec.Struct, frozen=True):
    """Job: take the assigned head and send the first batch through it; without steps, train it to the end.

    In an evaluation the batch is of the samples that are kept for it.

    Its result is the answer to publish: Activations, or HeadUpdate when the assignment has no steps, or
    WireError when it cannot be used.
    """

    client: str
    assignment: Assignment


class BackwardStep(msgspec.Struct, frozen=True):
    """Job: one corrected backward pass and optimizer step, then the next batch or the round's update.

    Its result is the answer to publish: Activations or HeadUpdate, or WireError.
    """

    client: str
    gradient: Gradient
    last: bool


class TopStep(msgspec.Struct, frozen=True):
    """Job in a U-shape: send features through the device's last layers to the loss, and back to the features.

    Its result is the answer to publish: FeatureGradient, or WireError.
    """

    client: str
    features: Features


class HeldOutBatch(msgspec.Struct, frozen=True):
    """Job of an evaluation: send the next samples that are kept for it through the head.

    In a U-shape first score those before, whose features have come; after the last ones nothing else is left.

    Its result is the answer to publish: Activations, Scores after the last features, or WireError.
    """

    client: str
    round: int
    step: int
    features: Features | None = None


class LookAtData(msgspec.Struct, frozen=True):
    """Job: see whether the client's own data have changed, and read them; its result is a Stock."""

    client: str


class Stock(msgspec.Struct, frozen=True):
    """How many samples a client has to train on, how many for evaluation; and Hello.rows of both."""

    samples: int
    held_out: int
    rows: bytes = b""


ClientJob = FirstBatch | TopStep | BackwardStep | HeldOutBatch | LookAtData
ClientResult = Activations | FeatureGradient | HeadUpdate | Scores | Stock | WireError


def round_of(job: ClientJob) -> tuple[str, int | None]:
    """Say what a job goes on with, and the round of that; None if it begins something, or is of no round."""
    match job:
        case HeldOutBatch(round=number):
            return "an evaluation", number
        case TopStep(features=Features(round=number)):
            return "features", number
        case BackwardStep(gradient=Gradient(round=number)):
            return "a gradient", number
        case _:
            return "", None
