"""Scores batches that devices keep for evaluation."""

from collections.abc import Callable

import torch
from torch import nn

from broker.wire.errors import WireError
from broker.wire.messages import Activations
from scenarios.computing.placing import CPU, place_of, placed
from scenarios.metrics import number_so_far
from scenarios.task import Task
from server_node.learning.gradients import Batch
from server_node.learning.tail_pass import is_sound
from server_node.learning.tail_state import ScoredSoFar
from server_node.vocabulary.jobs import ScoreBatches, Scored


class Scoring:
    """Scores batches, those of one evaluation after the other; nothing is learned of them.

    Where devices have the whole model, they send the score of each sample in the place of its activations.

    Args:
        task: has the score, or the metric.
        tail: its mode is set here.
        read: decodes a client's batch.
        scores_come: devices send scores.
    """

    def __init__(
        self,
        task: Task,
        tail: nn.Module,
        read: Callable[[tuple[str, Activations, float], int], Batch | WireError],
        *,
        scores_come: bool = False,
    ) -> None:
        self._task = task
        self._tail = tail
        self._read = read
        self._scores_come = scores_come
        self._begin(0)

    def _begin(self, number: int) -> None:
        self._round = number
        self._metric = self._task.metric_of() if self._task.metric_of and number else None
        self._sent: list[tuple[str, Activations, int]] = []

    def state(self) -> ScoredSoFar:
        """Give what the evaluation under way has got; only a metric of all outputs needs it."""
        return ScoredSoFar(self._round, self._sent)

    def restore(self, state: ScoredSoFar) -> None:
        """Be as the evaluation was that gave a state; its tail is as it was then."""
        self._begin(state.round)
        for sent in state.sent:
            self._score(*sent)

    def end(self) -> None:
        """Forget the evaluation: training goes on."""
        if self._round:
            self._begin(0)

    def score(self, job: ScoreBatches) -> Scored:
        """Score the batches of a job."""
        if job.round != self._round:
            self._begin(job.round)
        scores = {
            client: self._score(client, message, job.rungs.get(client, 0)) for client, message in job.batches
        }
        return Scored(scores, None if self._metric is None or not self._sent else number_so_far(self._metric))

    @torch.no_grad()
    def _score(self, client: str, message: Activations, rung: int) -> tuple[float, int] | WireError:
        """Score a batch; gives the sum of the scores and their number, or why not, as in `send_all`."""
        batch = self._read((client, message, 1.0), rung)
        if isinstance(batch, WireError):
            return batch
        self._tail.eval()
        try:
            outputs = placed(self._tail(torch.from_numpy(batch.z).to(place_of(self._tail))), CPU)
            if not is_sound(outputs):
                return WireError("range", "an output is not finite, or of magnitude 2**64 or more")
            if self._metric is not None:
                self._metric.update(outputs, batch.targets)
                self._sent.append((client, message, rung))
                return 0.0, len(batch.z)
            assert self._task.score is not None
            scores = outputs[:, 0] if self._scores_come else self._task.score(outputs, batch.targets)
        except Exception as error:  # noqa: BLE001 - whatever the user's tail and score raise
            return WireError("tail", f"{type(error).__name__}: {str(error)[:200]}")
        if not is_sound(scores):
            return WireError("range", "a score is not finite, or of magnitude 2**64 or more")
        return float(scores.sum()), len(batch.z)
