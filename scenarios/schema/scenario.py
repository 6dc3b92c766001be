"""A scenario as types. Units are in the names; scenarios.loading turns mistakes into messages."""

import hashlib
import itertools
import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from scenarios.schema.base import NotNegativeInt, Part, Positive, PositiveInt, without_defaults
from scenarios.schema.broker import BrokerSpec
from scenarios.schema.flows import Flows
from scenarios.schema.network import FleetGroup, Network, names_of
from scenarios.schema.task_spec import PLACES, TaskSpec
from scenarios.schema.training import Training


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


Place = Literal["auto", "cpu", "cuda", "mps"]


class ServerSpec(Part):
    """The machine of the server."""

    device: Place = Field(
        default="cpu",
        description="where the tail computes; auto: on the machine's GPU, if there is one, else on its CPU",
    )


class SimulationSpec(Part):
    """The machine that simulates."""

    device: Place = Field(default="cpu", description="where the heads of a simulated run compute")


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
    server: ServerSpec = ServerSpec()
    simulation: SimulationSpec = SimulationSpec()

    @property
    def fleet_size(self) -> int:
        """Clients in all groups of the fleet."""
        return sum(group.size for group in self.fleet)


def client_names(scenario: Scenario) -> list[str]:
    """Name the clients of a fleet, in its order, see network.names_of."""
    return names_of(scenario.fleet)


def group_of_each(scenario: Scenario) -> Iterator[FleetGroup]:
    """Give the group of every client, in the order of `client_names`."""
    return itertools.chain.from_iterable(itertools.repeat(group, group.size) for group in scenario.fleet)


def early_cuts(scenario: Scenario) -> dict[str, str]:
    """Give the layer of each client that has an early cut, by client."""
    members = zip(client_names(scenario), group_of_each(scenario), strict=True)
    return {client: group.cut for client, group in members if group.cut is not None}


def scenario_digest(scenario: Scenario) -> str:
    """Hash what must be the same for server and devices: what changes what a device computes.

    That is the seed, the task, the names of the fleet and their cuts, the codecs, and what devices need of
    the training; the rounds only if rates depend on them, so that rounds can be added to a run. The places of
    the task's data and module are left out, since machines may differ there. So is what has its default: a
    release that brings a new key refuses no device.

    Returns:
        16 hexadecimal digits.
    """
    whole, training = without_defaults(scenario), scenario.training
    agreed: dict[str, Any] = {key: whole[key] for key in ("seed", "task", "flows") if key in whole}
    agreed["task"] = {key: value for key, value in whole["task"].items() if key not in PLACES}
    of_devices = ["method", "local_steps", "head_lr", "lr_decay", "warmup_rounds", "correction"]
    of_devices += ["head_optimizer", "head_moments", "proximal_mu"]
    if training.rates_need_rounds:
        of_devices.append("rounds")
    agreed["training"] = {key: whole["training"][key] for key in of_devices if key in whole["training"]}
    agreed["fleet"] = client_names(scenario)
    if cuts := early_cuts(scenario):
        agreed["cuts"] = cuts
    text = json.dumps(agreed, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
