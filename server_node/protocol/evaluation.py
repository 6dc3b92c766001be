"""An evaluation: clients send what they keep for it, batch by batch, after a round has closed.

It stands in the cohort's place of a round. Its members have steps above those of a training round, so that
nothing that is said of the one can be taken for the other.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import replace

from broker.wire.errors import WireError
from server_node.protocol.exchange import Exchange, Turn, rungs_of
from server_node.vocabulary.jobs import ScoreBatches, Scored, TailForward
from server_node.vocabulary.reports import RoundReport


class Evaluation:
    """The evaluation under way.

    Args:
        report: of the round after which the model is evaluated; it lacks the metric.
        members: the exchanges of all clients at work, by client; some may still be at work for a round.
        clients: those that are evaluated.
        u_shape: devices score by themselves what the tail makes of their batches.

    Attributes:
        number: of the round.
        overdue: the deadline has passed.
        behind: clients whose batches are not all here.
    """

    def __init__(
        self,
        report: RoundReport,
        members: Mapping[str, Exchange],
        clients: Collection[str],
        *,
        u_shape: bool = False,
    ) -> None:
        self.number = report.round
        self.overdue = False
        self.behind = set(clients)
        self._report = report
        self._u_shape = u_shape
        self._members = members
        self._ready: set[str] = set()
        self._score_sum = 0.0
        self._samples = 0
        self._metric: float | None = None

    def activations_came(self, client: str) -> None:
        """Note that a client's activations wait for the tail."""
        if client in self.behind:
            self._ready.add(client)

    def update_came(self, client: str) -> None:
        """Note nothing: it is the update of a late member of a round."""

    def answered(self, client: str) -> None:
        """Note that a client's activations were scored."""
        self._ready.discard(client)

    def left(self, client: str) -> None:
        """Note that a client has sent everything, or is no member any more."""
        self._ready.discard(client)
        self.behind.discard(client)

    def told(self, score_sum: float, count: int) -> None:
        """Add up what a client tells of its own scores."""
        self._score_sum += score_sum
        self._samples += count

    def batches(self) -> ScoreBatches | TailForward | None:
        """Give the job for the batches that wait, if there are any."""
        waiting = [(client, self._members[client]) for client in sorted(self._ready)]
        batches = [
            (client, member.activations)
            for client, member in waiting
            if member.turn is Turn.TAIL and member.activations is not None
        ]
        if not batches:
            return None
        rungs = rungs_of(self._members, (client for client, _ in batches))
        if self._u_shape:
            return TailForward(self.number, 0, tuple(batches), evaluates=True, rungs=rungs)
        return ScoreBatches(self.number, tuple(batches), rungs)

    def add(self, result: Scored) -> None:
        """Add up what came of a job of the tail."""
        self._metric = result.metric
        for outcome in result.scores.values():
            if not isinstance(outcome, WireError):
                self._score_sum += outcome[0]
                self._samples += outcome[1]

    def is_over(self) -> bool:
        """Say whether nobody is waited for."""
        return not self.behind or self.overdue

    def report(self) -> RoundReport:
        """Give the round's report, with the tail's metric or the mean score of all samples as its metric.

        It is None without samples, and when it is no number, as the metric of too few samples may be.
        """
        metric = self._score_sum / self._samples if self._samples else None
        if self._metric is not None:
            metric = self._metric if math.isfinite(self._metric) else None
        return replace(self._report, metric=metric)
