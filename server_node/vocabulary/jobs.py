"""What the state machine asks the tail to compute, and what comes back.

EncodeHead -> HeadEncoded        TailStep -> TailStepped        TailForward -> TailForwarded
EncodeChanges -> ChangesEncoded
TailUpdate -> None         CloseRound -> RoundClosed
ScoreBatches -> Scored
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from broker.wire.errors import WireError
from broker.wire.messages import Activations, BatchUp, FeatureGradient, HeadUpdate

Rungs = Mapping[str, int]
"""With `flows.adaptive`: of each client the rung of the assignment that it answers; whoever is not named has
the first one, or there is no ladder."""


@dataclass(frozen=True, slots=True)
class EncodeHead:
    """Encode the initial (or restored) head under the codec of head_state_down."""


@dataclass(frozen=True, slots=True)
class HeadEncoded:
    """The head as it is sent.

    Attributes:
        whole: all of it.
        parts: for clients with an early cut, by that cut.
    """

    whole: bytes
    parts: Mapping[str, bytes] = field(default_factory=dict)

    def for_share(self, cut: str) -> bytes:
        """Give what a client gets whose part ends with a layer; all of it if that is empty."""
        return self.parts[cut] if cut else self.whole


@dataclass(frozen=True, slots=True)
class EncodeChanges:
    """Encode the head for each client as a change of one that it has; with `flows.head_since: last`.

    Attributes:
        round: of the assignments.
        since: of each client the round whose head it has for certain; 0: it may have the initial one only.
    """

    round: int
    since: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ChangesEncoded:
    """What came of EncodeChanges: the payload of each client."""

    heads: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class TailStep:
    """Send some of the cohort's batches through the tail.

    Attributes:
        round: of the round under way.
        step: of the round under way.
        batches: of each client its name, its batch, and the weight of the batch's samples.
        returned: in a U-shape the gradient at the features of each batch, by client; else the tail's outputs
            and the batch's targets give the loss.
        rungs: see Rungs.
        answers: the clients wait for gradients; not in a round without.
    """

    round: int
    step: int
    batches: tuple[tuple[str, Activations, float], ...]
    returned: Mapping[str, FeatureGradient] = field(default_factory=dict)
    rungs: Rungs = field(default_factory=dict)
    answers: bool = True

    @property
    def waited(self) -> Mapping[str, BatchUp]:
        """By client the message that has waited for this job."""
        return self.returned or {client: message for client, message, _ in self.batches}


@dataclass(frozen=True, slots=True)
class TailStepped:
    """What came of a TailStep.

    Attributes:
        gradients: each client's encoded gradient and lambda, empty if none is waited for; or why its batch
            was refused.
        loss_sum: over the samples of the batches that were not refused; in a U-shape as devices tell it.
        samples: how many.
    """

    gradients: dict[str, tuple[bytes, float] | WireError]
    loss_sum: float
    samples: int


@dataclass(frozen=True, slots=True)
class TailForward:
    """In a U-shape: send batches through the tail and give what comes out; nothing is learned yet.

    Attributes:
        round: of the round under way.
        step: of the round under way.
        batches: of each client its name and its batch.
        evaluates: they are kept for evaluation: nothing will be learned, and there is no dropout.
        rungs: see Rungs.
    """

    round: int
    step: int
    batches: tuple[tuple[str, Activations], ...]
    evaluates: bool = False
    rungs: Rungs = field(default_factory=dict)

    @property
    def waited(self) -> Mapping[str, BatchUp]:
        """By client the message that has waited for this job."""
        return dict(self.batches)


@dataclass(frozen=True, slots=True)
class TailForwarded:
    """What came of a TailForward: of each client the encoded features, or why its batch was refused."""

    features: dict[str, bytes | WireError]


@dataclass(frozen=True, slots=True)
class TailUpdate:
    """Take one optimizer step with the weighted average of the samples' gradients."""

    round: int
    step: int


@dataclass(frozen=True, slots=True)
class CloseRound:
    """Average the head updates by samples and weight, and evaluate if asked.

    Attributes:
        round: which one.
        updates: of each client its name, its update, and the update's weight.
        evaluate: whether to measure the metric afterwards.
        rungs: see Rungs.
    """

    round: int
    updates: tuple[tuple[str, HeadUpdate, float], ...]
    evaluate: bool
    rungs: Rungs = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RoundClosed:
    """What came of a CloseRound.

    Attributes:
        head: the next head, encoded.
        metric: if it was measured on the server's test data.
        refused: whose updates were refused, and why.
    """

    head: HeadEncoded
    metric: float | None
    refused: dict[str, WireError]


@dataclass(frozen=True, slots=True)
class ScoreBatches:
    """Send batches that devices keep for evaluation through the tail, and score them; nothing is learned.

    Attributes:
        round: after which the model is evaluated.
        batches: of each client its name and its batch.
        rungs: see Rungs.
    """

    round: int
    batches: tuple[tuple[str, Activations], ...]
    rungs: Rungs = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scored:
    """What came of ScoreBatches.

    Attributes:
        scores: of each client the sum of its scores and their number, or why not.
        metric: what all batches of the evaluation so far come to, if that is no mean of scores.
    """

    scores: dict[str, tuple[float, int] | WireError]
    metric: float | None = None


@dataclass(frozen=True, slots=True)
class Diverged:
    """The model is lost: `why` names what became infinite or NaN, and whose it was if that is known."""

    why: str


TailJob = EncodeHead | EncodeChanges | TailForward | TailStep | TailUpdate | CloseRound | ScoreBatches
TailResult = (
    HeadEncoded | ChangesEncoded | TailForwarded | TailStepped | RoundClosed | Scored | Diverged | None
)
