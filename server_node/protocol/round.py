"""One round: who is ready, who is waited for, whether that is enough, and how much an answer weighs."""

import math
from collections.abc import Mapping

from broker.wire.errors import WireError
from server_node.protocol.exchange import Exchange, Turn, rungs_of
from server_node.vocabulary.jobs import (
    CloseRound,
    RoundClosed,
    TailForward,
    TailJob,
    TailStep,
    TailStepped,
    TailUpdate,
)
from server_node.vocabulary.plan import Plan
from server_node.vocabulary.reports import RoundReport


class Round:
    """The round under way.

    Args:
        number: counted from 1.
        plan: see Plan.
        members: the exchanges of all clients at work, by client. With a policy that keeps late members some
            belong to an earlier round. The round reads it; whoever changes it tells the round.

    Attributes:
        step: the local step that the round waits for; in a U-shape it is made of two exchanges.
        overdue: the deadline has passed.
        behind: members that the current step waits for.
    """

    def __init__(self, number: int, plan: Plan, members: Mapping[str, Exchange]) -> None:
        self.number = number
        self.step = 0
        self.overdue = False
        self._loss_sum = 0.0
        self._samples = 0
        self._client_steps = 0
        self._plan = plan
        self._policy = plan.round_policy
        self._exchanges = plan.exchanges
        self._steps = plan.steps_in(number) // plan.exchanges
        self._learned_step: int | None = None  # without an update of the tail yet, and not of an exchange
        self._members = members
        self._recompute_readiness()

    # `behind` and `_ready` follow from step and members. A fleet may be large, so between steps they are
    # kept up one member at a time.

    def _recompute_readiness(self) -> None:
        members = self._members.items()
        self._ready = {client for client, m in members if m.turn is Turn.TAIL and self._belongs_to_step(m)}
        if self.awaits_updates:
            self.behind = {client for client, m in members if m.turn is not Turn.DONE}
        else:
            self.behind = {client for client, m in members if self._step_of(m) <= self.step}

    @property
    def awaits_updates(self) -> bool:
        """Whether what is missing is head updates, not activations."""
        return self._policy.keeps_late_members or self.step == self._steps

    def activations_came(self, client: str) -> None:
        """Note that a member's activations, or the gradient of its features, wait for the tail."""
        step = self._members[client].step // self._exchanges  # _belongs_to_step, which most of all calls are
        if step == self.step or self._policy.keeps_late_members:
            self._ready.add(client)

    def update_came(self, client: str) -> None:
        """Note that a member is done."""
        self.behind.discard(client)

    def answered(self, client: str) -> None:
        """Note that what waited of a member went through the tail."""
        self._ready.discard(client)
        if not self.awaits_updates and self._step_of(self._members[client]) > self.step:
            self.behind.discard(client)

    def told(self, _score_sum: float, _count: int) -> None:
        """Note nothing: scores are told in an evaluation."""

    def left(self, client: str) -> None:
        """Note that a client is no member any more."""
        self._ready.discard(client)
        self.behind.discard(client)

    def batches(self) -> TailForward | TailStep | None:
        """Give the job for what waits, if anything does; features first, since devices wait for them."""
        if not self._ready:
            return None
        ready = [
            (client, member, member.activations)
            for client in sorted(self._ready)
            if (member := self._members[client]).activations is not None
        ]
        returned = {client: m.returned for client, m, _ in ready if m.returned is not None}
        if self._plan.u_shape and len(returned) < len(ready):
            forward = [(client, batch) for client, _, batch in ready if client not in returned]
            rungs = rungs_of(self._members, (client for client, _ in forward))
            return TailForward(self.number, self.step, tuple(forward), rungs=rungs)
        batches = [(client, batch, self.weight(member)) for client, member, batch in ready]
        if not batches:
            return None
        if not self._steps:  # late ones of an earlier round, in a round without gradients
            self._learned_step = self.step
        rungs = rungs_of(self._members, (client for client, *_ in batches))
        return TailStep(self.number, self.step, tuple(batches), returned, rungs)

    def add_losses(self, result: TailStepped) -> None:
        """Add up what came of a job of the tail."""
        self._loss_sum += result.loss_sum
        self._samples += result.samples
        self._client_steps += sum(not isinstance(each, WireError) for each in result.gradients.values())

    def is_enough(self) -> bool:
        """Say whether the round need not wait for those who are behind."""
        policy, present = self._policy, len(self._members)
        needed = min(present, policy.enough or present)
        if self.overdue:
            needed = min(needed, policy.minimum)
        return present - len(self.behind) >= needed

    def next_job(self) -> TailJob:
        """Give the job that ends the step, or the round after its last one."""
        last_step = min(self._steps, 1) if self._policy.keeps_late_members else self._steps
        if self.step < last_step:
            self.step += 1
            self._recompute_readiness()
            return TailUpdate(self.number, self.step - 1)
        if self._learned_step is not None:
            step, self._learned_step = self._learned_step, None
            return TailUpdate(self.number, step)
        return self._along() or self._close()

    def _along(self) -> TailStep | None:
        """Give the job for the first of the batches that came with updates and are still to be learned."""
        members = [(client, m, m.next_along) for client, m in sorted(self._members.items())]
        waiting = [(client, m, batch) for client, m, batch in members if batch is not None]
        if not waiting:
            return None
        step = self._learned_step = min(batch.step for _, _, batch in waiting)
        batches = [(client, batch, self.weight(m)) for client, m, batch in waiting if batch.step == step]
        rungs = rungs_of(self._members, (client for client, *_ in batches))
        return TailStep(self.number, step, tuple(batches), rungs=rungs, answers=False)

    def _close(self) -> CloseRound:
        updates = [
            (client, member.update, self.weight(member))
            for client, member in sorted(self._members.items())
            if member.update is not None
        ]
        rungs = rungs_of(self._members, (client for client, *_ in updates))
        return CloseRound(self.number, tuple(updates), self._plan.evaluates(self.number), rungs)

    def report(self, job: CloseRound, result: RoundClosed, *, online: int) -> RoundReport:
        """Sum up the round after it has closed."""
        used = [update for client, update, _ in job.updates if client not in result.refused]
        samples = sum(update.samples for update in used)
        return RoundReport(
            round=self.number,
            loss=self._loss_sum / self._samples if self._samples else float("nan"),
            metric=result.metric,
            clients=len(used),
            client_steps=self._client_steps if self._plan.steps else len(used) * self._plan.local_steps,
            quantization_error=sum(u.quantization_error * u.samples for u in used) / max(samples, 1),
            staleness=sum(self.number - u.round for u in used) / max(len(used), 1),
            online=online,
        )

    def weight(self, member: Exchange) -> float:
        """Weigh an answer by how many rounds late it is: 1/sqrt(1 + s), as in FedBuff (arXiv 2106.06639)."""
        late = self.number - member.assignment.round
        return 1 / math.sqrt(1 + late) if late else 1.0

    def _belongs_to_step(self, member: Exchange) -> bool:
        return self._policy.keeps_late_members or self._step_of(member) == self.step

    def _step_of(self, member: Exchange) -> int:
        """Give the local step that a member is at."""
        return member.step // self._exchanges
