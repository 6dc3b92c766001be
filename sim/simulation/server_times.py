"""How long the server of a simulated run computes, by the seconds that the scenario gives it."""

import math
from collections.abc import Sequence

from broker.wire.messages import Activations
from scenarios.schema.scenario import Scenario
from server_node.vocabulary.jobs import CloseRound, TailForward, TailJob, TailStep, TailUpdate
from server_node.vocabulary.plan import Plan

FORWARD_SHARE = 1 / 3
"""Of a sample's time in the tail, when it only goes forward: the way back costs about twice the way there."""


class ServerTimes:
    """The seconds of one job after the other.

    Args:
        scenario: has the seconds.
        plan: who has an early cut.
    """

    def __init__(self, scenario: Scenario, plan: Plan) -> None:
        self._model = scenario.network.server
        self._early = plan.early
        self._tail_updates = scenario.training.tail_updates
        self._samples_of_step = 0  # that have gone through the tail since its last update
        self._replay = scenario.training.replay
        self._learned: list[tuple[int, int]] = []  # for the replay: round and samples of each batch

    def seconds(self, job: TailJob) -> float:
        """Give the seconds of a job; it counts as done."""
        match job:
            case TailForward(batches=forward):
                samples = sum(message.count for _, message in forward)
                return self._model.tail_batch_s + FORWARD_SHARE * samples * self._model.tail_sample_s
            case TailStep(batches=batches):
                samples = sum(message.count for _, message, _ in batches)
                self._samples_of_step += samples
                if self._replay is not None:
                    self._learned += [(job.round, message.count) for _, message, _ in batches]
                return self._pass_s(samples) + self._rests_s(batches)
            case TailUpdate():
                samples, self._samples_of_step = self._samples_of_step, 0
                further = [samples] * (self._tail_updates - 1) + self._replayed(job)
                return self._model.update_s + sum(self._pass_s(n) + self._model.update_s for n in further)
            case CloseRound():
                return self._model.close_s
            case _:
                return 0.0

    def _pass_s(self, samples: float) -> float:
        return self._model.tail_batch_s + samples * self._model.tail_sample_s

    def _rests_s(self, batches: Sequence[tuple[str, Activations, float]]) -> float:
        """Give the time for the rest of the head of devices with an early cut, there and back."""
        early, whole_s = self._early, self._model.head_sample_s
        shares = ((message.count, early[name].work) for name, message, _ in batches if name in early)
        return math.fsum(count * (1 - work) * whole_s for count, work in shares) if early else 0.0

    def _replayed(self, job: TailUpdate) -> list[float]:
        """Give the samples of the step with batches of earlier rounds; these are taken as alike."""
        replay = self._replay
        if replay is None:
            return []
        self._learned = [each for each in self._learned if each[0] >= job.round - replay.rounds]
        earlier = [count for number, count in self._learned if number < job.round]
        return [min(replay.batches, len(earlier)) * sum(earlier) / len(earlier)] if earlier else []
