"""What a scenario says of the training: method, rounds, rates, correction, and the rule of the average."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from scenarios.schema.base import NotNegative, Part, Positive, PositiveInt


class Correction(Part):
    """FedLite's gradient correction (arXiv 2201.11865)."""

    lambda_: NotNegative = Field(
        default=0.0,
        alias="lambda",
        description=(
            "the loss is the mean over the client's batch plus lambda/2 times the squared norm of (z - z~) "
            "summed over the batch: a device adds lambda (z - z~) to the gradient g of the mean loss"
        ),
    )
    relative: NotNegative = Field(
        default=0.0,
        description=(
            "instead of lambda: for each batch lambda = relative ||g|| / ||z~||, so that the strength does "
            "not depend on the scale of gradient and activations"
        ),
    )
    schedule: Literal["constant", "linear_decay", "warmup_decay"] = Field(
        default="constant",
        description=(
            "constant: as in the paper; linear_decay: the strength falls to 0 after the last round; "
            "warmup_decay: it rises from 0, is full midway, and falls to 0"
        ),
    )

    def factor(self, progress: float) -> float:
        """Give the factor on the strength when a share `progress` of the rounds, 0 to 1, is over."""
        match self.schedule:
            case "constant":
                return 1.0
            case "linear_decay":
                return 1.0 - progress
            case "warmup_decay":
                return 4.0 * progress * (1.0 - progress)

    @model_validator(mode="after")
    def _one_strength(self) -> "Correction":
        if self.lambda_ and self.relative:
            raise ValueError("takes lambda or relative, not both")
        return self


class TrimmedMean(Part):
    """The trimmed mean with a share of one's own."""

    rule: Literal["trimmed_mean"] = Field(default="trimmed_mean", description="the rule that has a share")
    fraction: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        default=0.2, description="share of the updates that is left out at either end, rounded up"
    )


def _aggregation_form(value: object) -> str:
    return "trimmed" if isinstance(value, dict | TrimmedMean) else "name"


Aggregation = Annotated[
    Annotated[
        Literal["mean", "clipped_mean", "filtered_mean", "trimmed_mean", "coordinate_median"], Tag("name")
    ]
    | Annotated[TrimmedMean, Tag("trimmed")],
    Discriminator(_aggregation_form),
]


class Training(Part):
    """Method, rounds, cohort and learning rates."""

    method: Literal["split", "fedavg"] = Field(
        default="split",
        description=(
            "split: clients train the head and the server the tail, step by step; fedavg: clients train the "
            "whole model by themselves; activations_up, gradient_down and tail_lr are not used"
        ),
    )
    rounds: PositiveInt = Field(description="rounds of the run")
    cohort: PositiveInt = Field(description="clients that take part in a round")
    local_steps: PositiveInt = Field(default=1, description="batches a client trains on in a round")
    head_lr: Positive = Field(description="learning rate of the clients' SGD")
    tail_lr: Positive = Field(
        default_factory=lambda before: before["head_lr"],
        description="learning rate of the server's SGD; head_lr if not given",
    )
    lr_decay: Literal["none", "linear"] = Field(
        default="none", description="linear: both rates fall from round to round, towards 0 after the last"
    )
    correction: Correction = Field(default=Correction(), description="gradient correction")
    aggregation: Aggregation = Field(
        default="mean",
        description=(
            "how the server makes one change of the clients' changes of their heads, and, unless it is mean, "
            "one step of their gradients at the tail; the others bound what a hostile client can do"
        ),
    )
    evaluate_every: PositiveInt = Field(default=10, description="rounds between two evaluations")

    def lr_factor(self, round_number: int) -> float:
        """Give the factor on both learning rates in a round, counted from 1."""
        return 1.0 if self.lr_decay == "none" else 1.0 - (round_number - 1) / self.rounds

    def lambda_in(self, round_number: int, gradient_to_activations: float) -> float:
        """Give the gradient correction's lambda for a batch.

        Args:
            round_number: counted from 1.
            gradient_to_activations: ||g|| / ||z~||.
        """
        correction = self.correction
        strength = correction.lambda_ or correction.relative * gradient_to_activations
        return strength * correction.factor((round_number - 1) / self.rounds)
