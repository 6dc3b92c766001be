"""The server's computation: the tail, the average of the heads, and evaluation.

Letters as in the paper: z~ activations at the cut after the codec, shape (n, d).
"""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from broker.wire.errors import WireError
from broker.wire.messages import Activations, FeatureGradient
from scenarios.computing.optimizers import Moments, placed_moments
from scenarios.computing.placing import CPU
from scenarios.schema.training import Training
from scenarios.seeds import derive_seed
from scenarios.task import Split, Task
from scenarios.training import evaluate, head_vector, load_module_tensors, module_tensors
from server_node.learning.aggregation import LabelFilter
from server_node.learning.cut import ServerCut
from server_node.learning.gradients import Batch, Passed, TailGradients
from server_node.learning.head import ServerHead
from server_node.learning.replay import ReplayMemory
from server_node.learning.scoring import Scoring
from server_node.learning.soundness import Probe, is_model_lost, is_too_large, named
from server_node.learning.spreading import Map
from server_node.learning.stand_ins import StandIns
from server_node.learning.tail_pass import send_all
from server_node.learning.tail_state import TailState
from server_node.learning.u_shape import forward_all, send_returned, with_returned
from server_node.vocabulary.jobs import (
    CloseRound,
    Diverged,
    EncodeChanges,
    EncodeHead,
    HeadEncoded,
    RoundClosed,
    Rungs,
    ScoreBatches,
    TailForward,
    TailForwarded,
    TailJob,
    TailResult,
    TailStep,
    TailStepped,
    TailUpdate,
)
from server_node.vocabulary.plan import Plan

log = logging.getLogger(__name__)


class Tail:
    """The tail and the server's copy of the head.

    Args:
        task: the learning task.
        test: what to evaluate on; None: devices send what they keep for evaluation.
        head: initial head.
        tail: initial tail.
        plan: gives the seed and everybody's codecs.
        training: the scenario's; has rates and optimizers.
        map_batches: `map`, or `executor.map` to decode and encode the batches of a step in parallel.
        map_updates: the same for the head updates of a round.
        place: where both compute; they are moved there.

    Attributes:
        filter: whom the rule filtered_mean leaves out; no other rule uses it.
        replay: batches of earlier rounds.
    """

    def __init__(
        self,
        task: Task,
        test: Split | None,
        *,
        head: nn.Module,
        tail: nn.Module,
        plan: Plan,
        training: Training,
        map_batches: Map = map,
        map_updates: Map = map,
        place: torch.device = CPU,
    ) -> None:
        self.head = head.to(place)
        self.tail = tail.to(place)
        self._place = place
        self._task = task
        self._test = test
        self._seed = plan.seed
        self._training = training
        self._map_batches, self._map_updates = map_batches, map_updates
        self._unsound: dict[str, WireError] = {}
        self.filter = LabelFilter()
        self._probe = Probe(test)
        self._moments: Moments = []
        self._begin_step()
        self._server_head = ServerHead(head, task, plan, training)
        self._stand_ins = StandIns(task, head, plan, training, place)
        self._cut = ServerCut(task, plan, training, self._stand_ins)
        self.replay = ReplayMemory(training.replay, plan.seed, self._cut.read, map_batches)
        self._scoring = Scoring(task, tail, self._cut.read_held_out, scores_come=not plan.steps)

    def run(self, job: TailJob) -> TailResult:
        """Do a job of the state machine."""
        match job:
            case EncodeHead():
                return self._encode_head(0)
            case EncodeChanges():
                return self._server_head.encode_changes(job)
            case TailStep():
                stepped = self._step(job)
                dropped = [who for who, each in stepped.gradients.items() if isinstance(each, WireError)]
                self._stand_ins.forget(dropped)
                return stepped
            case TailForward():
                return self._forward(job)
            case TailUpdate():
                return self._update(job)
            case CloseRound():
                self._scoring.end()
                return self._close(job)
            case ScoreBatches():
                return self._scoring.score(job)
            case _:
                raise TypeError(f"{type(job).__name__} is no job of the tail")

    def state(self) -> TailState:
        """Give what must be kept; tensors are not copies."""
        head, tail = map(module_tensors, (self.head, self.tail))
        unsound = {client: (why.reason, why.detail) for client, why in self._unsound.items()}
        return TailState(
            head,
            tail,
            self._gradients.state(),
            unsound,
            self.filter,
            self._probe.last,
            self._scoring.state(),
            self.moments,
            self._stand_ins.state(),
            self.replay.kept,
            self._server_head.held_state(),
        )

    def restore(self, state: TailState) -> None:
        """Be as the tail was that gave a state."""
        load_module_tensors(self.head, state.head)
        load_module_tensors(self.tail, state.tail)
        self._gradients.restore(state.gradients)
        self._unsound = {client: WireError(*why) for client, why in state.unsound.items()}
        self.filter = state.filter
        self._probe.last = state.probe
        self._scoring.restore(state.scored)
        self.moments = state.moments
        self._stand_ins.restore(state.stand_ins)
        self.replay.kept = state.replay
        self._server_head.restore_held(state.held)

    @property
    def moments(self) -> tuple[Moments, Moments]:
        """What the optimizers of the tail and of the averaged head remember; not copies."""
        return self._moments, self._server_head.moments

    @moments.setter
    def moments(self, moments: tuple[Moments, Moments]) -> None:
        of_tail, self._server_head.moments = moments
        self._moments = placed_moments(of_tail, self._place)

    def _begin_step(self) -> None:
        """Forget what the step before has added up."""
        self._gradients = TailGradients(self.tail, self._training)
        self._unsound = {}

    def _read(
        self, sent: Sequence[tuple[str, Activations, float]], rungs: Rungs
    ) -> tuple[list[Batch], dict[str, WireError]]:
        """Decode batches; gives them, and whose were refused and why."""
        under = [rungs.get(client, 0) for client, _, _ in sent]
        read = list(self._map_batches(self._cut.read, sent, under))
        arrived = [batch for batch in read if not isinstance(batch, WireError)]
        refused = {
            who: why for (who, _, _), why in zip(sent, read, strict=True) if isinstance(why, WireError)
        }
        self._note_too_large(refused)
        return arrived, refused

    def _note_too_large(self, refused: Mapping[str, WireError]) -> None:
        self._unsound |= {client: why for client, why in refused.items() if is_too_large(why)}

    def _forward(self, job: TailForward) -> TailForwarded:
        """Give the features of batches in a U-shape."""
        arrived, refused = self._read([(client, batch, 1.0) for client, batch in job.batches], job.rungs)
        self.tail.train(not job.evaluates)
        outcomes = forward_all(self.tail, self._cut, arrived, self._seed, self._task.features_size)
        failed = {client: why for client, why in outcomes.items() if isinstance(why, WireError)}
        self._unsound |= {client: why for client, why in failed.items() if why.reason == "range"}
        return TailForwarded({**outcomes, **refused})

    def _step(self, job: TailStep) -> TailStepped:
        gradients: dict[str, tuple[bytes, float] | WireError] = {}
        arrived, refused = self._read(job.batches, job.rungs)
        gradients |= refused
        if job.returned:
            arrived, refused = with_returned(self._cut, arrived, job.returned)
            self._note_too_large(refused)
            gradients |= refused
        if not arrived:
            return TailStepped(gradients, 0.0, 0)
        groups, refused = self._through_tail(arrived, job.round, job.step, returned=job.returned)
        gradients |= refused
        self._unsound |= {client: why for client, why in refused.items() if why.reason == "range"}
        for group in groups:
            self._probe.keep(group.batches[0])
            self._gradients.add(group)
            if not job.answers:
                gradients |= dict.fromkeys((batch.client for batch in group.batches), (b"", 0.0))
                continue
            ends = np.cumsum([len(batch.z) for batch in group.batches])[:-1]
            encoded = self._map_batches(self._cut.encode, group.batches, np.split(group.downlink, ends))
            gradients |= dict(zip((batch.client for batch in group.batches), encoded, strict=True))
        self.replay.keep(job, {batch.client for group in groups for batch in group.batches})
        loss_sum = sum(group.losses.sum().item() for group in groups)
        return TailStepped(gradients, loss_sum, sum(len(group.losses) for group in groups))

    def _through_tail(
        self, batches: Sequence[Batch], *where: int, returned: Mapping[str, FeatureGradient] | None = None
    ) -> tuple[list[Passed], dict[str, WireError]]:
        """Send batches through the tail, and back; `where` tells their dropout from that of other batches."""
        self.tail.train()
        if returned:
            return send_returned(self.tail, batches, returned, self._seed)
        return send_all(
            self.tail,
            self._task.loss,
            batches,
            lambda first: derive_seed(self._seed, "dropout", "server", first, *where),
            apart=self._training.aggregation != "mean",
        )

    def _update(self, job: TailUpdate) -> Diverged | None:
        """Take a step of the optimizer with what has come through the tail since the step before.

        With `tail_updates` above 1 the same batches go through the tail that has learned, for a further step
        (MU-SplitFed's unbalanced update, Liang et al. 2025, arXiv 2510.21155, here with exact gradients). The
        last step is one with batches of earlier rounds, if there is a `replay`.
        """
        where = f"round {job.round}, step {job.step}"
        if is_model_lost(len(self._gradients.greatest_loss), self._unsound, self._passes):
            return Diverged(f"{where}: activations_up: {named(self._unsound)}")
        if self._training.aggregation == "filtered_mean":
            self._gradients.leave_out(self.filter.learn(self._gradients.agreements(), where))
        lr = self._training.tail_lr * self._training.lr_factor(job.round)
        sound = self._gradients.step(lr, self._moments)
        again = self._training.tail_updates
        for number in range(1, again + 1):
            batches = self._gradients.batches if number < again else self.replay.draw(job, self.filter.out)
            if not (sound and batches):
                break
            self._begin_step()
            for group in self._through_tail(batches, job.round, job.step, number)[0]:
                self._gradients.add(group)
            sound = self._gradients.step(lr, self._moments)
        if not sound:
            losses = self._gradients.greatest_loss
            client = max(losses, key=losses.__getitem__)
            loss = losses[client]
            whose = f"the greatest loss, {loss:.3g}, was that of {client}"
            return Diverged(f"{where}: activations_up: the tail's parameters are not finite; {whose}")
        self._begin_step()
        return None

    def _passes(self) -> bool:
        return self._probe.passes(self.head, self.tail)

    def _close(self, job: CloseRound) -> RoundClosed | Diverged:
        received, refused = self._server_head.read_all(job, self._map_updates, self._stand_ins.whole)
        received = {client: each for client, each in received.items() if client not in self.filter.out}
        weights = {client: weight * update.samples for client, update, weight in job.updates}
        too_large = {client: why for client, why in refused.items() if is_too_large(why)}
        unsound = self._server_head.average(received, weights, self._passes) | too_large
        if is_model_lost(len(job.updates) - len(refused | unsound), unsound, self._passes):
            return Diverged(f"round {job.round}: head_update_up: {named(unsound)}")
        metric = None
        if job.evaluate and self._test is not None:
            metric = evaluate(self._task, self._test, self.head, self.tail)
        if metric is not None and not np.isfinite(metric):
            if self._task.metric_of is None or not self._passes():
                return Diverged(f"round {job.round}: the {self._task.metric} is {metric}")
            log.warning("round %d: the %s is %s, that is unknown", job.round, self._task.metric, metric)
            metric = None
        return RoundClosed(self._encode_head(job.round), metric, refused | unsound)

    def _encode_head(self, number: int) -> HeadEncoded:
        """Encode the head as it is after a round, which the next one begins with."""
        self._stand_ins.begin(number + 1, head_vector(self.head))
        return self._server_head.encode(number)
