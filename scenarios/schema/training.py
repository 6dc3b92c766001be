"""What a scenario says of the training: method, rounds, rates, correction, and the rule of the average."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from scenarios.schema.base import NotNegative, NotNegativeInt, Part, Positive, PositiveInt
from scenarios.schema.optimizers import LrDecay, Optimizer, ServerOptimizer, ServerSgd, Sgd, decayed


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


GradientsEvery = PositiveInt | Literal["never"]


def has_gradients(every: GradientsEvery, round_number: int) -> bool:
    """Say whether the server sends gradients in a round, counted from 1."""
    return every != "never" and round_number % every == 0


class Replay(Part):
    """A further step of the tail with batches of earlier rounds."""

    rounds: PositiveInt = Field(description="the server keeps the activations of so many rounds, as sent")
    batches: PositiveInt = Field(description="after each step of the tail it takes one with so many of them")


class Training(Part):
    """Method, rounds, cohort and learning rates."""

    method: Literal["split", "u_shape", "fedavg"] = Field(
        default="split",
        description=(
            "split: clients train the head and the server the tail, step by step; u_shape: clients train the "
            "last layers, too, so that labels stay with them; fedavg: clients train the whole model by "
            "themselves; the codecs of what is sent in a step, and tail_lr, are not used"
        ),
    )
    rounds: PositiveInt = Field(description="rounds of the run")
    cohort: PositiveInt = Field(description="clients that take part in a round")
    local_steps: PositiveInt = Field(default=1, description="batches a client trains on in a round")
    gradients_every: GradientsEvery = Field(
        default=1,
        description=(
            "the server sends gradients in every so many rounds, or never. In the other rounds a small "
            "auxiliary tail on each device gives its head the gradients, and the activations of all local "
            "steps go up together with the head's update"
        ),
    )
    head_lr: Positive = Field(description="learning rate of the clients' optimizer")
    tail_lr: Positive = Field(
        default_factory=lambda before: before["head_lr"],
        description="learning rate of the server's optimizer; head_lr if not given",
    )
    lr_decay: LrDecay = Field(
        default="none",
        description=(
            "how both rates change from round to round. linear: they fall towards 0 after the last; cosine: "
            "the same along half a cosine; or a mapping: by a factor, every so many rounds"
        ),
    )
    warmup_rounds: NotNegativeInt = Field(
        default=0,
        description="first, both rates rise in equal steps for so many rounds; then lr_decay begins",
    )
    head_optimizer: Optimizer = Field(default=Sgd(), description="of the clients' local steps")
    head_moments: Literal["reset", "keep"] = Field(
        default="reset",
        description=(
            "what becomes of the momenta and averages of a client's optimizer between its rounds; keep: it "
            "goes on with them, and a restarted device begins without"
        ),
    )
    proximal_mu: NotNegative = Field(
        default=0.0,
        description=(
            "FedProx: in its local steps a client adds mu/2 times the squared distance from the head that it "
            "received to its loss"
        ),
    )
    tail_optimizer: Optimizer = Field(default=Sgd(), description="of the server's steps with the tail")
    tail_updates: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1,
        description="steps of the tail with the same activations; above 1 as in MU-SplitFed, its tau",
    )
    replay: Replay | None = Field(
        default=None, description="the tail learns once more from activations of earlier rounds"
    )
    server_optimizer: ServerOptimizer = Field(
        default=ServerSgd(),
        description="how the server moves its head by what `aggregation` makes of the clients' changes",
    )
    batch_norm: Literal["averaged", "local"] = Field(
        default="averaged",
        description=(
            "batch norm in the head. averaged: its running statistics are sent and averaged with the "
            "parameters; local: its parameters and statistics stay on each device, as in FedBN"
        ),
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
        if round_number <= self.warmup_rounds:
            return round_number / (self.warmup_rounds + 1)
        return decayed(self.lr_decay, round_number - 1 - self.warmup_rounds, self.rounds - self.warmup_rounds)

    @property
    def has_auxiliary(self) -> bool:
        """Whether devices have an auxiliary tail, for rounds without gradients."""
        return self.gradients_every != 1

    def has_gradients(self, round_number: int) -> bool:
        """Say whether the server sends gradients in a round, counted from 1."""
        return has_gradients(self.gradients_every, round_number)

    @property
    def rates_need_rounds(self) -> bool:
        """Whether a rate, or the correction, would be another one if the run had more rounds."""
        return self.lr_decay in {"linear", "cosine"} or self.correction.schedule != "constant"

    def lambda_in(self, round_number: int, gradient_to_activations: float) -> float:
        """Give the gradient correction's lambda for a batch.

        Args:
            round_number: counted from 1.
            gradient_to_activations: ||g|| / ||z~||.
        """
        correction = self.correction
        strength = correction.lambda_ or correction.relative * gradient_to_activations
        return strength * correction.factor((round_number - 1) / self.rounds)
