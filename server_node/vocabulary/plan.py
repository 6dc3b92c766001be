"""What the state machine must know of a scenario."""

import functools
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from broker.codecs import Float32, GradientCodec
from broker.codecs.heads.matrices import Shape
from broker.codecs.targets import Targets
from broker.wire import topics
from broker.wire.chunks import MAX_PACKET_BYTES
from scenarios.fingerprint import model_fingerprint, package_version
from scenarios.heads.parts import HeadForm
from scenarios.schema.flows import Codecs, with_others
from scenarios.schema.scenario import (
    Buffered,
    Deadline,
    OverSelect,
    Scenario,
    WaitAll,
    client_names,
    scenario_digest,
)
from scenarios.schema.training import GradientsEvery, has_gradients
from scenarios.task import Task
from server_node.vocabulary.head_share import HeadShare, early_shares


@dataclass(frozen=True, slots=True)
class RoundPolicy:
    """When a round stops waiting. Each straggler policy is one setting of these fields.

    Attributes:
        choose: members that a round begins with.
        enough: close a step once this many members have answered; None: wait for every member.
        deadline_s: after this long, `minimum` members are enough; None: there is no deadline.
        minimum: see `deadline_s`.
        max_staleness: None: who is late is dropped. Otherwise the round does not wait for late members
            either, but they keep working: their answers count in a later round with weight
            1/sqrt(1 + rounds late), up to so many rounds late (buffered asynchronous training, FedBuff).
    """

    choose: int
    enough: int | None = None
    deadline_s: float | None = None
    minimum: int = 1
    max_staleness: int | None = None

    @property
    def keeps_late_members(self) -> bool:
        """Whether a round closes without dropping the members that have not answered."""
        return self.max_staleness is not None


@dataclass(frozen=True)
class Plan:
    """What the state machine must know of a scenario.

    Attributes:
        run: name of the run, in every topic.
        incarnation: the lowest that the server may take; higher than at its last start.
        token: random; tells apart servers that start at the same moment.
        takeover: take the run over from a server that is at work.
        alone: no other server can be there; the run is simulated.
        one_connection: see server_node.protocol.rivals.Rivals.
        digest: of the scenario; clients with another one are rejected.
        model: fingerprint of the task's code; clients with another one are rejected. Empty: any will do.
        package: version of the server's software.
        scenario: what is published of it for devices that have no file; empty: nothing.
        seed: of the cohort's choice.
        clients: names of the fleet.
        rounds: how many.
        cohort: clients that must be there to begin without the rest of the fleet.
        round_policy: how many are chosen for a round, and how long it waits for whom.
        steps: exchanges in a round with gradients, see Assignment; 0 in FedAvg, which has no such rounds.
        local_steps: batches that a client trains on in a round.
        codecs: of clients to which no rule of `flows.by_link` or `flows.by_cut` applies.
        by_link: of the others, one tuple for all that are alike.
        early: what clients with an early cut have of the head.
        ladder: of `flows.adaptive`: what each rung puts in the place of these, from the finest; or empty.
        cut_size: d, values of one sample at the cut.
        head_size: parameters of the head that are sent; in a U-shape of all layers that devices have.
        statistics: running statistics of batch norm that are sent with them.
        shapes: of the head's parameter tensors, see HeadForm.
        head_learns: the gradient at the cut is of use; not if all before it is frozen.
        own_rows: devices are sent only those rows of embeddings that they need.
        head_since_last: each device is sent the change since the head that it was sent before.
        features_size: f, values of one sample that come down in a U-shape; 0: there is none.
        batch_size: most samples in a step.
        targets: the kind of the task's targets.
        held_out: the metric comes from samples that devices keep for evaluation.
        evaluate_every: rounds between evaluations; the last round always has one.
        rejoin_s: how long a vanished member of the cohort may be away.
        retry_s: the most that lies between two questions to a silent member.
        gradients_every: rounds with gradients; in the others clients have them of an auxiliary tail.
        head_lr_in: learning rate of the clients' steps in a round.
        packet_bytes: largest payload of an MQTT packet.
        initial_head: as float32 values, for clients that have not got the task's code; empty when unknown.
        join_s: how long to wait for the whole fleet before starting with those who are there.
    """

    run: str
    incarnation: int
    digest: str
    seed: int
    clients: tuple[str, ...]
    rounds: int
    cohort: int
    round_policy: RoundPolicy
    steps: int
    local_steps: int
    codecs: Codecs
    cut_size: int
    head_size: int
    batch_size: int
    targets: Targets
    evaluate_every: int
    rejoin_s: float
    retry_s: float
    join_s: float = 60.0
    held_out: bool = False
    features_size: int = 0
    by_link: Mapping[str, Codecs] = field(default_factory=dict)
    early: Mapping[str, HeadShare] = field(default_factory=dict)
    ladder: tuple[Mapping[str, GradientCodec], ...] = ()
    gradients_every: GradientsEvery = 1
    head_lr_in: Callable[[int], float] = lambda _round: 0.0
    packet_bytes: int = MAX_PACKET_BYTES
    initial_head: bytes = b""
    statistics: int = 0
    shapes: tuple[Shape, ...] = ()
    head_learns: bool = True
    own_rows: bool = False
    head_since_last: bool = False
    token: int = 0
    takeover: bool = False
    alone: bool = False
    one_connection: bool = False
    model: str = ""
    package: str = ""
    scenario: bytes = b""

    @property
    def u_shape(self) -> bool:
        """Whether devices have the last layers and the loss, so that labels stay with them."""
        return self.features_size > 0

    @property
    def labels_stay(self) -> bool:
        """Whether devices send no targets: they have the loss, and the score."""
        return self.u_shape or not self.steps

    @property
    def exchanges(self) -> int:
        """Exchanges that a local step takes: two in a U-shape, where features and their gradient are one."""
        return 2 if self.u_shape else 1

    def steps_in(self, number: int) -> int:
        """Give the exchanges in a round; 0 in one without gradients."""
        return self.steps if has_gradients(self.gradients_every, number) else 0

    def batches_along(self, number: int) -> int:
        """Give how many batches come with a head update of a round."""
        return self.local_steps if self.steps and not self.steps_in(number) else 0

    def codecs_of(self, client: str, rung: int = 0) -> Codecs:
        """Give a client's codecs, with those of a rung of the ladder if there is one."""
        codecs = self.by_link.get(client, self.codecs)
        return self._rungs_above(codecs)[rung] if self.ladder else codecs

    @functools.cached_property
    def _rungs_above(self) -> Callable[[Codecs], tuple[Codecs, ...]]:
        """Give the same tuples for the same codecs: who shares a rung shares an assignment."""
        return functools.cache(lambda codecs: tuple(with_others(codecs, rung) for rung in self.ladder))

    def share_of(self, client: str) -> HeadShare:
        """Give what a client has of the head."""
        return self.early.get(client, self.whole_head)

    @functools.cached_property
    def whole_head(self) -> HeadShare:
        """What clients without an early cut have of the head."""
        form = HeadForm(self.head_size, self.statistics, self.head_learns, self.shapes)
        return HeadShare("", self.cut_size, form, initial=self.initial_head)

    def evaluates(self, number: int) -> bool:
        """Say whether the model is evaluated at the end of a round."""
        return number == self.rounds or number % self.evaluate_every == 0


def make_round_policy(scenario: Scenario) -> RoundPolicy:
    """Give a scenario's straggler policy as the rule by which rounds wait."""
    cohort = scenario.training.cohort
    match scenario.stragglers:
        case Deadline(deadline_s=deadline_s, minimum=minimum):
            return RoundPolicy(cohort, deadline_s=deadline_s, minimum=minimum)
        case OverSelect(extra=extra):
            return RoundPolicy(cohort + extra, enough=cohort)
        case Buffered(buffer=buffer, max_staleness=max_staleness):
            return RoundPolicy(cohort, enough=buffer, max_staleness=max_staleness)
        case WaitAll():
            return RoundPolicy(cohort)


def make_plan(scenario: Scenario, task: Task, *, run: str, head: HeadForm, incarnation: int = 1) -> Plan:
    """Give the state machine what it needs of a scenario.

    Args:
        scenario: what to run.
        task: its task, for the shapes at the cut.
        run: name of the run.
        head: how much is sent of the head.
        incarnation: see Plan.

    Raises:
        RunError: a run name that cannot stand in a topic.
        ScenarioError: the text of the user's task cannot be read.
    """
    training, stragglers = scenario.training, scenario.stragglers
    scores = training.method == "fedavg" and scenario.task.held_out > 0
    usual, by_link = scenario.flows.codecs_for("none"), _codecs_by_link(scenario)
    exchanges = {"split": 1, "u_shape": 2, "fedavg": 0}[training.method]
    return Plan(
        run=topics.check_name(run),
        incarnation=incarnation,
        digest=scenario_digest(scenario),
        model=model_fingerprint(scenario, task),
        package=package_version(),
        seed=scenario.seed,
        clients=tuple(client_names(scenario)),
        rounds=training.rounds,
        cohort=training.cohort,
        round_policy=make_round_policy(scenario),
        steps=training.local_steps * exchanges,
        local_steps=training.local_steps,
        codecs=_for_scores(usual) if scores else usual,
        by_link={name: _for_scores(each) for name, each in by_link.items()} if scores else by_link,
        early=early_shares(scenario, task),
        ladder=_ladder(scenario),
        cut_size=task.cut_size,
        head_size=head.parameters,
        statistics=head.statistics,
        shapes=head.shapes,
        head_learns=head.learns,
        own_rows=scenario.flows.own_rows,
        head_since_last=scenario.flows.head_since == "last",
        features_size=task.features_size if training.method == "u_shape" else 0,
        batch_size=scenario.task.batch_size,
        targets=task.kind,
        evaluate_every=training.evaluate_every,
        held_out=scenario.task.held_out > 0,
        rejoin_s=stragglers.rejoin_s,
        retry_s=stragglers.retry_s,
        packet_bytes=scenario.broker.packet_bytes,
        gradients_every=training.gradients_every,
        head_lr_in=lambda number: training.head_lr * training.lr_factor(number),
    )


def _ladder(scenario: Scenario) -> tuple[Mapping[str, GradientCodec], ...]:
    """Give the rungs of `flows.adaptive`; in FedAvg without activations, for scores travel as they are."""
    of_scores = {"activations_up"} if scenario.training.method == "fedavg" else set()
    return tuple(
        {flow: codec for flow, codec in rung.items() if flow not in of_scores}
        for rung in scenario.flows.rungs
    )


def _for_scores(codecs: Codecs) -> Codecs:
    """Give codecs under which the scores of samples travel as they are, in the place of activations."""
    return codecs._replace(activations_up=Float32())


def _codecs_by_link(scenario: Scenario) -> dict[str, Codecs]:
    """Give the codecs of the clients for which a rule of link or cut has others than the usual ones."""
    names, usual = iter(client_names(scenario)), scenario.flows.codecs_for("none")
    by_link: dict[str, Codecs] = {}
    for group in scenario.fleet:
        codecs = scenario.flows.codecs_for(group.link, group.cut)
        members = list(itertools.islice(names, group.size))
        if codecs != usual:
            by_link |= dict.fromkeys(members, codecs)
    return by_link
