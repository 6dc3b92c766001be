"""What the jobs of a simulated run have come to, in so few bytes that all of it can be kept.

What happens in virtual time follows from the scenario and from the results of jobs: from their sizes and
numbers, not from what is in tensors. So a record has a result with the length of each tensor in its place.
Whoever goes on with a run lets its virtual time pass again with these records, and trains nothing until then.
"""

from collections.abc import Callable, Iterator

from broker.wire.errors import WireError
from broker.wire.messages import Activations, FeatureGradient, Features, HeadUpdate, Scores
from edge_client.jobs import BackwardStep, ClientJob, FirstBatch, HeldOutBatch, TopStep
from server_node.vocabulary.jobs import (
    ChangesEncoded,
    CloseRound,
    Diverged,
    EncodeChanges,
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
)
from sim.simulation.job_records import (
    BatchSent,
    ChangesSent,
    Closed,
    Content,
    Encoded,
    FeatureGradientSent,
    FeaturesSent,
    Forwarded,
    GradientSent,
    Lost,
    Record,
    RefusedIt,
    ScoredAll,
    ScoresSent,
    ScoreSum,
    Stepped,
    Updated,
    UpdateSent,
)

Result = Activations | FeatureGradient | HeadUpdate | Scores | WireError | TailResult
"""Of a job in virtual time, where no device looks at its data again."""


LayBy = Callable[[bytes], Content]
Fetch = Callable[[Content], bytes]


def record_of(result: Result, lay_by: LayBy) -> Record:
    """Give the record of a result.

    Args:
        result: of a job.
        lay_by: is called with the bytes of each tensor in turn, and gives what the record has of them.
    """
    match result:
        case Activations() | FeatureGradient() | HeadUpdate() | Scores():
            return _sent(result, lay_by)
        case TailForwarded() | TailStepped() | Scored():
            return _of_each_client(result, lay_by)
        case WireError():
            return _noted(result)
        case HeadEncoded(whole, parts):
            return Encoded(lay_by(whole), {cut: lay_by(part) for cut, part in parts.items()})
        case ChangesEncoded(heads):
            return ChangesSent({client: lay_by(head) for client, head in heads.items()})
        case None:
            return Updated()
        case RoundClosed(head, metric, refused):
            refusals = {client: _noted(error) for client, error in refused.items()}
            encoded = lay_by(head.whole)
            return Closed(encoded, metric, refusals, {cut: lay_by(part) for cut, part in head.parts.items()})
        case Diverged(why):
            return Lost(why)


def _sent(message: Activations | FeatureGradient | HeadUpdate | Scores, lay_by: LayBy) -> Record:
    match message:
        case Activations(server, number, step, _, count, payload, targets):
            return BatchSent(server, number, step, count, lay_by(payload), lay_by(targets))
        case FeatureGradient(server, number, step, _, count, payload, loss):
            return FeatureGradientSent(server, number, step, count, lay_by(payload), loss)
        case HeadUpdate(server, number, _, samples, error, payload, batches):
            whole = lay_by(payload)
            along = [(count, lay_by(own), lay_by(targets)) for count, own, targets in batches]
            return UpdateSent(server, number, samples, error, whole, along)
        case Scores(server, number, step, _, count, score_sum):
            return ScoresSent(server, number, step, count, score_sum)


def _of_each_client(result: TailForwarded | TailStepped | Scored, lay_by: LayBy) -> Record:
    match result:
        case TailForwarded(features):
            return Forwarded(
                {
                    client: _noted(outcome)
                    if isinstance(outcome, WireError)
                    else FeaturesSent(lay_by(outcome))
                    for client, outcome in features.items()
                }
            )
        case TailStepped(gradients, loss_sum, samples):
            sent = {
                client: _noted(outcome)
                if isinstance(outcome, WireError)
                else GradientSent(lay_by(outcome[0]), outcome[1])
                for client, outcome in gradients.items()
            }
            return Stepped(sent, loss_sum, samples)
        case Scored(scores, metric):
            sums = {
                client: _noted(outcome) if isinstance(outcome, WireError) else ScoreSum(*outcome)
                for client, outcome in scores.items()
            }
            return ScoredAll(sums, metric)


def result_of(record: Record, fetch: Fetch) -> Result:
    """Give the result of which a record was made.

    Args:
        record: what `record_of` gave.
        fetch: is called with what the record has of each tensor, in the order of `lay_by`; gives bytes of
            that length.
    """
    match record:
        case BatchSent() | FeatureGradientSent() | UpdateSent() | ScoresSent():
            return _message_of(record, fetch)
        case Forwarded() | Stepped() | ScoredAll():
            return _clients_of(record, fetch)
        case RefusedIt():
            return _told(record)
        case Encoded(whole, parts):
            return HeadEncoded(fetch(whole), {cut: fetch(part) for cut, part in parts.items()})
        case ChangesSent(heads):
            return ChangesEncoded({client: fetch(head) for client, head in heads.items()})
        case Updated():
            return None
        case Closed(whole, metric, refused, parts):
            refusals = {client: _told(error) for client, error in refused.items()}
            head = HeadEncoded(fetch(whole), {cut: fetch(part) for cut, part in parts.items()})
            return RoundClosed(head, metric, refusals)
        case Lost(why):
            return Diverged(why)


def _message_of(
    record: BatchSent | FeatureGradientSent | UpdateSent | ScoresSent, fetch: Fetch
) -> Activations | FeatureGradient | HeadUpdate | Scores:
    match record:
        case BatchSent(server, number, step, count, payload, targets):
            return Activations(server, number, step, 1, count, fetch(payload), fetch(targets))
        case FeatureGradientSent(server, number, step, count, payload, loss):
            return FeatureGradient(server, number, step, 1, count, fetch(payload), loss)
        case UpdateSent(server, number, samples, error, payload, along):
            whole = fetch(payload)
            batches = tuple((count, fetch(own), fetch(targets)) for count, own, targets in along)
            return HeadUpdate(server, number, 1, samples, error, whole, batches)
        case ScoresSent(server, number, step, count, score_sum):
            return Scores(server, number, step, 1, count, score_sum)


def _clients_of(
    record: Forwarded | Stepped | ScoredAll, fetch: Fetch
) -> TailForwarded | TailStepped | Scored:
    match record:
        case Forwarded(features):
            return TailForwarded(
                {
                    client: _told(sent) if isinstance(sent, RefusedIt) else fetch(sent.payload)
                    for client, sent in features.items()
                }
            )
        case Stepped(gradients, loss_sum, samples):
            outcomes = {
                client: _told(sent) if isinstance(sent, RefusedIt) else (fetch(sent.payload), sent.correction)
                for client, sent in gradients.items()
            }
            return TailStepped(outcomes, loss_sum, samples)
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
        case TopStep():
            return isinstance(record, FeatureGradientSent | RefusedIt)
        case HeldOutBatch():
            return isinstance(record, BatchSent | ScoresSent | RefusedIt)
        case EncodeChanges():
            return isinstance(record, ChangesSent)
        case TailForward():
            return isinstance(record, Forwarded)
        case TailStep():
            return isinstance(record, Stepped)
        case CloseRound():
            return isinstance(record, Closed | Lost)
        case ScoreBatches():
            return isinstance(record, ScoredAll)
        case _:
            return isinstance(record, Encoded | Updated | Lost)


def tensors_in(job: ClientJob | TailJob) -> Iterator[bytes]:
    """Give the bytes of all tensors that a job reads."""
    match job:
        case FirstBatch(assignment=assignment):
            yield assignment.head
        case (
            BackwardStep(gradient=answer)
            | TopStep(features=answer)
            | HeldOutBatch(features=Features() as answer)
        ):
            yield answer.payload
        case TailStep(batches=batches, returned=returned):
            for _, message, _ in batches:
                yield from (message.payload, message.targets)
            for gradient in returned.values():
                yield gradient.payload
        case TailForward(batches=batches) | ScoreBatches(batches=batches):
            for _, message in batches:
                yield from (message.payload, message.targets)
        case CloseRound(updates=updates):
            for _, update, _ in updates:
                yield update.payload
        case _:
            return
