"""The rounds of a run, one after the other: who takes part, which job the tail has, what came of it."""

import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

import msgspec

from broker.codecs import codec_to_wire
from broker.machine.actions import CancelTimer, Compute, Report, StartTimer
from broker.wire.errors import WireError
from broker.wire.messages import Assignment
from scenarios.schema.flows import Codecs
from server_node.protocol.cohort import Cohort
from server_node.protocol.evaluation import Evaluation
from server_node.protocol.presence import draw_cohort
from server_node.protocol.round import Round
from server_node.vocabulary.actions import ServerAction
from server_node.vocabulary.jobs import (
    ChangesEncoded,
    CloseRound,
    EncodeChanges,
    EncodeHead,
    HeadEncoded,
    RoundClosed,
    ScoreBatches,
    Scored,
    TailForward,
    TailForwarded,
    TailJob,
    TailResult,
    TailStep,
    TailStepped,
    TailUpdate,
)
from server_node.vocabulary.plan import Plan
from server_node.vocabulary.reports import RoundReport

MAX_HELD_OUT = 2_000
"""Samples of one client that are evaluated at most, the first ones: nobody else waits for more."""

Refused = Mapping[str, WireError]
"""Whose tensors the tail has refused, and why."""


class Rounds:
    """Begins rounds, gives the tail its jobs one at a time, and takes their results.

    Args:
        plan: see Plan.
        cohort: the members.

    Attributes:
        job: the one that is computed.
    """

    def __init__(self, plan: Plan, cohort: Cohort) -> None:
        self._plan = plan
        self._cohort = cohort
        self._head = HeadEncoded(b"")
        self._server = plan.incarnation
        self.job: TailJob | None = EncodeHead()  # no round without the head
        self._chosen: Mapping[str, int] = {}  # for the round, while their heads are encoded, with their rungs
        self._online: AbstractSet[str] = set()
        self._has: dict[str, int] = {}  # of clients the round whose head they have for certain

    @property
    def is_idle(self) -> bool:
        """Whether the next round may begin as far as the rounds are concerned."""
        return self.job is None and self._cohort.round is None

    def encode_head(self) -> ServerAction:
        """Give the job that comes before all rounds."""
        return Compute(EncodeHead())

    def begin(self, online: set[str], server: int, now_s: float) -> list[ServerAction]:
        """Begin a round with clients that are online.

        Args:
            online: all of them, also later; whoever leaves is taken out.
            server: the incarnation that assigns.
            now_s: the time.
        """
        plan, policy, cohort = self._plan, self._plan.round_policy, self._cohort
        actions: list[ServerAction] = []
        self._server = server
        cohort.number += 1
        for client, member in list(cohort.members.items()):
            if cohort.number - member.assignment.round > (policy.max_staleness or 0):
                actions += self._drop_late(client, now_s)
        wanted = policy.choose - len(cohort.members)
        chosen = draw_cohort(
            plan.clients, online, cohort.members, wanted, seed=plan.seed, number=cohort.number
        )
        rungs = cohort.ladder.choose(chosen, cohort.members)
        if not plan.head_since_last:
            return [*actions, *self._open(rungs, {}, now_s)]
        self._chosen, self._online = rungs, online
        for client in cohort.anew.intersection(rungs):
            cohort.anew.remove(client)
            self._has.pop(client, None)
        self.job = EncodeChanges(cohort.number, {client: self._has.get(client, 0) for client in rungs})
        return [*actions, Compute(self.job)]

    def _open(
        self, rungs: Mapping[str, int], changes: Mapping[str, tuple[int, bytes]], now_s: float
    ) -> list[ServerAction]:
        """Assign clients, each with its rung, and wait for them.

        Those in `changes` are sent that, since a round. Who has greeted meanwhile is sent the usual head.
        """
        plan, cohort = self._plan, self._cohort
        actions: list[ServerAction] = []
        assignments: dict[tuple[int, str], Assignment] = {}  # one for all who share codecs and cut
        for client, rung in rungs.items():
            codecs, cut = plan.codecs_of(client, rung), plan.share_of(client).cut
            key = id(codecs), cut
            if key not in assignments:
                assignments[key] = self._assignment(codecs, cut)
            assignment = assignments[key]
            if client in changes and client not in cohort.anew:
                since, head = changes[client]
                assignment = msgspec.structs.replace(assignment, head=head, since=since)
            actions.append(cohort.assign(client, assignment, now_s, rung=rung))
        cohort.round = Round(cohort.number, plan, cohort.members)
        if plan.round_policy.deadline_s is not None:
            actions.append(StartTimer("deadline", plan.round_policy.deadline_s))
        return actions

    def _assignment(self, codecs: Codecs, cut: str) -> Assignment:
        number = self._cohort.number
        up, down, update, state, *features = map(codec_to_wire, codecs)
        return Assignment(
            server=self._server,
            round=number,
            attempt=1,
            steps=self._plan.steps_in(number),
            head_lr=self._plan.head_lr_in(number),
            codecs=(up, down, update, state),
            head=self._head.for_share(cut),
            features=tuple(features) if self._plan.u_shape else (),
        )

    def _drop_late(self, client: str, now_s: float) -> list[ServerAction]:
        """Go on without a member that is waited for no longer, and keep in mind how slow it was."""
        self._cohort.ladder.too_late(client, self._cohort.members[client], now_s)
        return self._cohort.drop(client)

    def next_job(self, now_s: float) -> list[ServerAction]:
        """Give the tail its next job, if there is one to do."""
        current = self._cohort.round
        if self.job is not None or current is None:
            return []
        if isinstance(current, Evaluation):
            return self._go_on(current, now_s)
        actions: list[ServerAction] = []
        self.job = current.batches()
        if self.job is None:
            if not current.is_enough():
                return []
            if not self._plan.round_policy.keeps_late_members:
                for client in list(current.behind):
                    actions += self._drop_late(client, now_s)
            self.job = current.next_job()
        return [*actions, Compute(self.job)]

    def _go_on(self, current: Evaluation, now_s: float) -> list[ServerAction]:
        """Score what has come for an evaluation, or end it."""
        self.job = current.batches()
        if self.job is not None:
            return [Compute(self.job)]
        if not current.is_over():
            return []
        late = [action for client in sorted(current.behind) for action in self._drop_late(client, now_s)]
        self._cohort.round = None
        return [*late, CancelTimer("deadline"), Report(current.report())]

    def _evaluate(self, report: RoundReport, held_out: Mapping[str, int], now_s: float) -> list[ServerAction]:
        """Begin the evaluation after a round, with all who keep samples for it and are not at work.

        Args:
            report: of the round; it is reported when the metric is there.
            held_out: see `computed`.
            now_s: the time.
        """
        plan, cohort = self._plan, self._cohort
        clients = [client for client in plan.clients if held_out.get(client) and client not in cohort.members]
        cohort.round = Evaluation(report, cohort.members, clients, u_shape=plan.u_shape)
        actions: list[ServerAction] = []
        first = plan.steps + 1
        for client, rung in cohort.ladder.choose(clients, cohort.members).items():
            batches = math.ceil(min(held_out[client], MAX_HELD_OUT) / plan.batch_size)
            codecs, cut = plan.codecs_of(client, rung), plan.share_of(client).cut
            steps = first + batches + plan.u_shape  # the last one of a U-shape is for the scores
            assignment = msgspec.structs.replace(self._assignment(codecs, cut), first_step=first, steps=steps)
            actions.append(cohort.assign(client, assignment, now_s, rung=rung))
        if plan.round_policy.deadline_s is not None:
            actions.append(StartTimer("deadline", plan.round_policy.deadline_s))
        return actions

    def computed(
        self,
        job: TailJob,
        result: TailResult,
        now_s: float,
        *,
        online: int,
        held_out: Mapping[str, int] | None = None,
    ) -> tuple[list[ServerAction], Refused]:
        """Take the result of a job.

        Args:
            job: the one that was computed.
            result: what came of it.
            now_s: the time.
            online: how many clients are, for the report.
            held_out: of each client that is there how many samples it keeps for evaluation.
        """
        self.job = None
        match job, result:
            case TailStep(), TailStepped():
                return self._stepped(job, result, now_s)
            case TailForward(), TailForwarded():
                return self._forwarded(result, now_s)
            case EncodeHead(), HeadEncoded():
                self._head = result
            case EncodeChanges(), ChangesEncoded(heads):
                there = {client: rung for client, rung in self._chosen.items() if client in self._online}
                return self._open(there, {who: (job.since[who], heads[who]) for who in there}, now_s), {}
            case TailUpdate(), None:
                pass
            case CloseRound(), RoundClosed():
                report = self._closed(job, result, online)
                if self._plan.held_out and job.evaluate:
                    begun = self._evaluate(report, held_out or {}, now_s)
                    return [CancelTimer("deadline"), *begun], result.refused
                return [CancelTimer("deadline"), Report(report)], result.refused
            case ScoreBatches(), Scored():
                return self._scored(result, now_s)
            case _:
                raise TypeError(f"{type(job).__name__} gave {type(result).__name__}")
        return [], {}

    def _stepped(
        self, job: TailStep, result: TailStepped, now_s: float
    ) -> tuple[list[ServerAction], Refused]:
        actions: list[ServerAction] = []
        refused: dict[str, WireError] = {}
        assert isinstance(self._cohort.round, Round)
        self._cohort.round.add_losses(result)
        for client, outcome in result.gradients.items():
            if isinstance(outcome, WireError):
                refused[client] = outcome
                actions += self._cohort.drop(client)
                continue
            if not job.answers:
                self._cohort.learned(client)
                continue
            payload, correction = outcome
            answer = self._cohort.answer(client, correction, payload, now_s)
            if answer is not None:
                actions.append(answer)
        return actions, refused

    def _forwarded(self, result: TailForwarded, now_s: float) -> tuple[list[ServerAction], Refused]:
        actions: list[ServerAction] = []
        refused: dict[str, WireError] = {}
        for client, outcome in result.features.items():
            if isinstance(outcome, WireError):
                refused[client] = outcome
                actions += self._cohort.drop(client)
                continue
            answer = self._cohort.answer_with_features(client, outcome, now_s)
            if answer is not None:
                actions.append(answer)
        return actions, refused

    def _scored(self, result: Scored, now_s: float) -> tuple[list[ServerAction], Refused]:
        actions: list[ServerAction] = []
        refused: dict[str, WireError] = {}
        assert isinstance(self._cohort.round, Evaluation)
        self._cohort.round.add(result)
        for client, outcome in result.scores.items():
            if isinstance(outcome, WireError):
                refused[client] = outcome
                actions += self._cohort.drop(client)
            else:
                actions += self._cohort.scored(client, now_s)
        return actions, refused

    def _closed(self, job: CloseRound, result: RoundClosed, online: int) -> RoundReport:
        current, self._cohort.round = self._cohort.round, None
        assert isinstance(current, Round)
        for client, _, _ in job.updates:
            member = self._cohort.members.pop(client)
            if self._plan.head_since_last:
                self._has[client] = member.assignment.round
        self._head = result.head
        return current.report(job, result, online=online)
