"""What the jobs of a simulated run have come to, in so few bytes that all of it can be kept.

What happens in virtual time follows from the scenario and from the results of jobs: from their sizes and
numbers, not from what is in tensors. So a record has a result with the length of each tensor in its place.
Whoever goes on with a run lets its virtual time pass again with these records, and trains nothing until then.
"""

from collections.abc import Callable, Iterator

import msgspec

from broker.wire.errors import WireError
from broker.wire.messages import Activations, HeadUpdate
from edge_client.jobs import BackwardStep, ClientJob, FirstBatch, HeldOutBatch
from server_node.vocabulary.jobs import (
    CloseRound,
    Diverged,
    RoundClosed,
    ScoreBatches,
    Scored,
    TailJob,
    TailResult,
    TailStep,
    TailStepped,
)

Content = bytes | int
"""The bytes of a tensor, or their number."""


class _Record(msgspec.Struct, array_like=True, gc=False):
    """Base of all records; the fields are those of the results."""


class BatchSent(_Record, tag=0):
    """Of Activations."""

    server: int
    round: int
    step: int
    count: int
    payload: Content
    targets: Content


class UpdateSent(_Record, tag=1):
    """Of HeadUpdate."""

    server: int
    round: int
    samples: int
    quantization_error: float
    payload: Content


class RefusedIt(_Record, tag=2):
    """Of WireError."""

    reason: str
    detail: str


class HeadEncoded(_Record, tag=3):
    """Of the bytes of a head."""

    head: Content


class GradientSent(_Record, tag=4):
    """Part of Stepped: a client's gradient and lambda."""

    payload: Content
    correction: float


class Stepped(_Record, tag=5):
    """Of TailStepped."""

    gradients: dict[str, GradientSent | RefusedIt]
    loss_sum: float
    samples: int


class Updated(_Record, tag=6):
    """Of None."""


class Closed(_Record, tag=7):
    """Of RoundClosed."""

    head: Content
    metric: float | None
    refused: dict[str, RefusedIt]


class Lost(_Record, tag=8):
    """Of Diverged."""

    why: str


class ScoreSum(_Record, tag=9):
    """Part of ScoredAll: a client's."""

    score_sum: float
    samples: int


class ScoredAll(_Record, tag=10):
    """Of Scored."""

    scores: dict[str, ScoreSum | RefusedIt]
    metric: float | None


Record = BatchSent | UpdateSent | RefusedIt | HeadEncoded | Stepped | Updated | Closed | Lost | ScoredAll
Result = Activations | HeadUpdate | WireError | TailResult
"""Of a job in virtual time, where no device looks at its data again."""


def record_of(result: Result, lay_by: Callable[[bytes], Content]) -> Record:
    """Give the record of a result.

    Args:
        result: of a job.
        lay_by: is called with the bytes of each tensor in turn, and gives what the record has of them.
    """
    match result:
        case Activations():
            payload, targets = lay_by(result.payload), lay_by(result.targets)
            return BatchSent(result.server, result.round, result.step, result.count, payload, targets)
        case HeadUpdate():
            payload, error = lay_by(result.payload), result.quantization_error
            return UpdateSent(result.server, result.round, result.samples, error, payload)
        case WireError():
            return _noted(result)
        case bytes():
            return HeadEncoded(lay_by(result))
        case TailStepped(gradients, loss_sum, samples):
            sent = {
                client: _noted(outcome)
                if isinstance(outcome, WireError)
                else GradientSent(lay_by(outcome[0]), outcome[1])
                for client, outcome in gradients.items()
            }
            return Stepped(sent, loss_sum, samples)
        case None:
            return Updated()
        case RoundClosed(head, metric, refused):
            refusals = {client: _noted(error) for client, error in refused.items()}
            return Closed(lay_by(head), metric, refusals)
        case Diverged(why):
            return Lost(why)
        case Scored(scores, metric):
            sums = {
                client: _noted(outcome) if isinstance(outcome, WireError) else ScoreSum(*outcome)
                for client, outcome in scores.items()
            }
            return ScoredAll(sums, metric)


def result_of(record: Record, fetch: Callable[[Content], bytes]) -> Result:
    """Give the result of which a record was made.

    Args:
        record: what `record_of` gave.
        fetch: is called with what the record has of each tensor, in the order of `lay_by`; gives bytes of
            that length.
    """
    match record:
        case BatchSent(server, number, step, count, payload, targets):
            return Activations(server, number, step, 1, count, fetch(payload), fetch(targets))
        case UpdateSent(server, number, samples, error, payload):
            return HeadUpdate(server, number, 1, samples, error, fetch(payload))
        case RefusedIt():
            return _told(record)
        case HeadEncoded(head):
            return fetch(head)
        case Stepped(gradients, loss_sum, samples):
            outcomes = {
                client: _told(sent) if isinstance(sent, RefusedIt) else (fetch(sent.payload), sent.correction)
                for client, sent in gradients.items()
            }
            return TailStepped(outcomes, loss_sum, samples)
        case Updated():
            return None
        case Closed(head, metric, refused):
            refusals = {client: _told(error) for client, error in refused.items()}
            return RoundClosed(fetch(head), metric, refusals)
        case Lost(why):
            return Diverged(why)
        case ScoredAll(scores, metric):
            told = {
                client: _told(sent) if isinstance(sent, RefusedIt) else (sent.score_sum, sent.samples)
                for client, sent in scores.items()
            }
            return Scored(told, metric)


def _noted(error: WireError) -> RefusedIt:
    return RefusedIt(error.reason, error.detail)


def _told(record: RefusedIt) -> WireError:
    return WireError(record.reason, record.detail)


def belongs(record: Record, job: ClientJob | TailJob) -> bool:
    """Say whether a record can be that of a job."""
    match job:
        case FirstBatch() | BackwardStep():
            return isinstance(record, BatchSent | UpdateSent | RefusedIt)
        case HeldOutBatch():
            return isinstance(record, BatchSent | RefusedIt)
        case TailStep():
            return isinstance(record, Stepped)
        case CloseRound():
            return isinstance(record, Closed | Lost)
        case ScoreBatches():
            return isinstance(record, ScoredAll)
        case _:
            return isinstance(record, HeadEncoded | Updated | Lost)


def tensors_in(job: ClientJob | TailJob) -> Iterator[bytes]:
    """Give the bytes of all tensors that a job reads."""
    match job:
        case FirstBatch(assignment=assignment):
            yield assignment.head
        case BackwardStep(gradient=gradient):
            yield gradient.payload
        case TailStep(batches=batches):
            for _, message, _ in batches:
                yield from (message.payload, message.targets)
        case ScoreBatches(batches=batches):
            for _, message in batches:
                yield from (message.payload, message.targets)
        case CloseRound(updates=updates):
            for _, update, _ in updates:
                yield update.payload
        case _:
            return
