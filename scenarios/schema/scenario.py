"""A scenario as types. Units are in the names; scenarios.loading turns mistakes into messages."""

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from scenarios.schema.base import (
    NotNegative,
    NotNegativeInt,
    Part,
    Positive,
    PositiveInt,
    without_defaults,
)
from scenarios.schema.broker import BrokerSpec
from scenarios.schema.flows import Flows
from scenarios.schema.network import FleetGroup, Network, names_of
from scenarios.schema.task_spec import PLACES, TaskSpec


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


class _Stragglers(Part):
    rejoin_s: Positive = Field(
        default=10.0, description="how long a vanished member may be away before the round goes on without it"
    )
    retry_s: Positive = Field(
        default=600.0,
        description="the most that lies between two questions to a silent member; nobody needs to set it",
    )


class WaitAll(_Stragglers):
    """A round ends when every member of its cohort that is online has answered."""

    policy: Literal["wait_all"] = Field(default="wait_all", description="what to do about slow clients")


class Deadline(_Stragglers):
    """After a deadline a minimum of answers closes the round; the other members are dropped."""

    policy: Literal["deadline"] = Field(default="deadline", description="what to do about slow clients")
    deadline_s: Positive = Field(description="seconds after which `minimum` clients are enough")
    minimum: PositiveInt = Field(description="clients that a round needs at least")


class OverSelect(_Stragglers):
    """More clients than the cohort are asked; the first `cohort` answers count, the others are dropped."""

    policy: Literal["over_select"] = Field(default="over_select", description="what to do about slow clients")
    extra: PositiveInt = Field(description="clients asked beyond the cohort")


class Buffered(_Stragglers):
    """Asynchronous: the first answers close a round; the others go on, and their answers count less."""

    policy: Literal["buffered"] = Field(default="buffered", description="what to do about slow clients")
    buffer: PositiveInt = Field(description="answers that close a round; `cohort` clients are at work")
    max_staleness: NotNegativeInt = Field(
        default=4, description="rounds that an answer may be late; s rounds late it weighs 1/sqrt(1 + s)"
    )


Stragglers = Annotated[WaitAll | Deadline | OverSelect | Buffered, Field(discriminator="policy")]


class Scenario(Part):
    """A complete description of a run: the same scenario and seed give the same run."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,32}$", description="what the run is called, also in topics")
    seed: Annotated[int, Field(ge=0)] = Field(
        default=0, description="all random numbers of the run follow from it"
    )
    task: TaskSpec
    training: Training
    flows: Flows = Flows()
    stragglers: Stragglers = WaitAll()
    fleet: tuple[FleetGroup, ...] = Field(description="the clients, by kind")
    broker: BrokerSpec = BrokerSpec()
    network: Network = Network()

    @property
    def fleet_size(self) -> int:
        """Clients in all groups of the fleet."""
        return sum(group.size for group in self.fleet)


def client_names(scenario: Scenario) -> list[str]:
    """Name the clients of a fleet, in its order, see network.names_of."""
    return names_of(scenario.fleet)


def scenario_digest(scenario: Scenario) -> str:
    """Hash what must be the same for server and devices: what changes what a device computes.

    That is the seed, the task, the names of the fleet, the codecs, and what devices need of the training; the
    rounds only if rates depend on them, so that rounds can be added to a run. The places of the task's
    data and module are left out, since machines may differ there. So is what has its default: a release that
    brings a new key refuses no device.

    Returns:
        16 hexadecimal digits.
    """
    whole, training = without_defaults(scenario), scenario.training
    agreed: dict[str, Any] = {key: whole[key] for key in ("seed", "task", "flows") if key in whole}
    agreed["task"] = {key: value for key, value in whole["task"].items() if key not in PLACES}
    of_devices = ["method", "local_steps", "head_lr", "lr_decay", "correction"]
    if training.lr_decay != "none" or training.correction.schedule != "constant":
        of_devices.append("rounds")
    agreed["training"] = {key: whole["training"][key] for key in of_devices if key in whole["training"]}
    agreed["fleet"] = client_names(scenario)
    text = json.dumps(agreed, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
