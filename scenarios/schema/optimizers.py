"""What a scenario says of optimizers and of how their rates change. Names and defaults are torch.optim's."""

import math
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from scenarios.schema.base import NotNegative, Part, Positive, PositiveInt

Share = Annotated[float, Field(ge=0, lt=1)]
Betas = Annotated[tuple[Share, ...], Field(min_length=2, max_length=2)]


class _Local(Part):
    clip_norm: Positive | None = Field(
        default=None,
        description=(
            "a gradient that is longer than this, over all parameters together, is scaled down to this length"
        ),
    )


class Sgd(_Local):
    """SGD; plain unless it has a momentum or weight decay."""

    kind: Literal["sgd"] = Field(default="sgd", description="the rule by which parameters are moved")
    momentum: Share = Field(default=0.0, description="share of the last move that is made again")
    nesterov: bool = Field(default=False, description="look one move of the momentum ahead")
    weight_decay: NotNegative = Field(
        default=0.0, description="is multiplied by a parameter and added to its gradient"
    )

    @model_validator(mode="after")
    def _looks_ahead_of_something(self) -> "Sgd":
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0, such as 0.9")
        return self


class Adam(_Local):
    """Adam (Kingma and Ba 2015, arXiv 1412.6980)."""

    kind: Literal["adam"] = Field(default="adam", description="the rule by which parameters are moved")
    betas: Betas = Field(
        default=(0.9, 0.999), description="decay of the gradient's and its square's averages"
    )
    eps: Positive = Field(default=1e-8, description="is added to the root of the square's average")
    weight_decay: NotNegative = Field(
        default=0.0, description="is multiplied by a parameter and added to its gradient"
    )


class AdamW(_Local):
    """Adam whose weight decay goes past the averages (Loshchilov and Hutter 2019, arXiv 1711.05101)."""

    kind: Literal["adamw"] = Field(default="adamw", description="the rule by which parameters are moved")
    betas: Betas = Field(
        default=(0.9, 0.999), description="decay of the gradient's and its square's averages"
    )
    eps: Positive = Field(default=1e-8, description="is added to the root of the square's average")
    weight_decay: NotNegative = Field(
        default=0.01,
        description="times the learning rate, the share of a parameter that each step takes away",
    )


Optimizer = Annotated[Sgd | Adam | AdamW, Field(discriminator="kind")]


class ServerSgd(Part):
    """The average itself moves the head; with a momentum: FedAvgM (Hsu et al. 2019, arXiv 1909.06335)."""

    kind: Literal["sgd"] = Field(default="sgd", description="the rule by which the average moves the head")
    lr: Positive = Field(default=1.0, description="factor on the move")
    momentum: Share = Field(default=0.0, description="share of the last move that is made again")


class ServerAdam(Part):
    """FedAdam (Reddi et al. 2021, arXiv 2003.00295, algorithm 2): no correction of the first rounds' bias."""

    kind: Literal["adam"] = Field(default="adam", description="the rule by which the average moves the head")
    lr: Positive = Field(default=0.01, description="the paper's eta: about how far a round moves a parameter")
    betas: Betas = Field(default=(0.9, 0.99), description="decay of the change's and its square's averages")
    eps: Positive = Field(default=1e-3, description="the paper's tau: changes far below it move little")


class ServerYogi(Part):
    """FedYogi (the same): as adam, but the square's average changes by a bounded part of each square."""

    kind: Literal["yogi"] = Field(default="yogi", description="the rule by which the average moves the head")
    lr: Positive = Field(default=0.01, description="the paper's eta: about how far a round moves a parameter")
    betas: Betas = Field(default=(0.9, 0.99), description="decay of the change's and its square's averages")
    eps: Positive = Field(default=1e-3, description="the paper's tau: changes far below it move little")


ServerOptimizer = Annotated[ServerSgd | ServerAdam | ServerYogi, Field(discriminator="kind")]


class StepDecay(Part):
    """The rates fall all at once, every so many rounds."""

    step_size: PositiveInt = Field(description="rounds between two falls")
    gamma: Annotated[float, Field(gt=0, le=1)] = Field(default=0.1, description="factor of each fall")


def _decay_form(value: object) -> str:
    return "step" if isinstance(value, dict | StepDecay) else "name"


LrDecay = Annotated[
    Annotated[Literal["none", "linear", "cosine"], Tag("name")] | Annotated[StepDecay, Tag("step")],
    Discriminator(_decay_form),
]


def decayed(decay: LrDecay, rounds_over: int, rounds: int) -> float:
    """Give the factor on a rate when some of the rounds in which it falls are over.

    Args:
        decay: how it falls.
        rounds_over: below `rounds`.
        rounds: in all.
    """
    match decay:
        case "none":
            return 1.0
        case "linear":
            return 1.0 - rounds_over / rounds
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * rounds_over / rounds))
        case StepDecay(step_size=step_size, gamma=gamma):
            return float(gamma ** (rounds_over // step_size))
