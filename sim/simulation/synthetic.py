"""Stands in for training in timing-only runs: payloads are zeros of the right length.

All messages of one size share their bytes, so that a fleet of 100,000 devices costs no memory for them.
"""

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from broker.codecs import codec_to_wire, gradient_bytes
from broker.wire.messages import Activations, BatchUp, FeatureGradient, HeadUpdate
from edge_client.jobs import BackwardStep, ClientJob, FirstBatch, TopStep
from scenarios.schema.flows import Codecs
from server_node.vocabulary.head_share import HeadShare
from server_node.vocabulary.jobs import (
    ChangesEncoded,
    CloseRound,
    EncodeChanges,
    EncodeHead,
    HeadEncoded,
    RoundClosed,
    TailForward,
    TailForwarded,
    TailJob,
    TailResult,
    TailStep,
    TailStepped,
    TailUpdate,
)
from server_node.vocabulary.plan import Plan

if TYPE_CHECKING:
    from broker.wire.errors import WireError
Answering = Callable[[ClientJob], BatchUp | HeadUpdate]


class SyntheticDevice:
    """Answers as a device with batches of one size would.

    Args:
        plan: gives shapes and steps.
        codecs: its own.
        share: what it has of the head.
        samples: in each of its batches, n.
    """

    def __init__(self, plan: Plan, codecs: Codecs, share: HeadShare, samples: int) -> None:
        self._plan, self._samples = plan, samples
        self._activations = bytes(
            codecs.activations_up.size_bytes(samples, share.cut_size) if plan.steps else 0
        )
        self._targets = bytes(0 if plan.u_shape else plan.targets.size_bytes(samples))
        self._feature_gradient = bytes(
            codecs.feature_gradient_up.size_bytes(samples, plan.features_size) if plan.u_shape else 0
        )
        self._update = bytes(share.head_codec(codecs.head_update_up).size_bytes(share.form.parameters))
        self._round_samples = samples * plan.local_steps
        self._head_update = functools.lru_cache(maxsize=8)(self._make_head_update)  # a cohort's are alike
        self._batch = functools.lru_cache(maxsize=8)(self._make_batch)

    def run(self, job: ClientJob) -> BatchUp | HeadUpdate:
        """Give the answer to publish."""
        if isinstance(job, FirstBatch):
            assignment = job.assignment
            if assignment.steps == 0:
                return self._head_update(assignment.server, assignment.round)
            return self._batch(assignment.server, assignment.round, 0)
        match job:
            case TopStep(features=features):
                place = features.server, features.round, features.step + 1
                return FeatureGradient(*place, 1, self._samples, self._feature_gradient, 0.0)
            case BackwardStep(gradient=gradient, last=False):
                return self._batch(gradient.server, gradient.round, gradient.step + 1)
            case BackwardStep(gradient=gradient):
                return self._head_update(gradient.server, gradient.round)
            case _:
                raise TypeError(f"{type(job).__name__} is no job of a device")

    def _make_head_update(self, server: int, round_number: int) -> HeadUpdate:
        along = ((self._samples, self._activations, self._targets),) * self._plan.batches_along(round_number)
        return HeadUpdate(server, round_number, 1, self._round_samples, 0.0, self._update, along)

    def _make_batch(self, server: int, round_number: int, step: int) -> Activations:
        return Activations(server, round_number, step, 1, self._samples, self._activations, self._targets)


def _head(codecs: Codecs, share: HeadShare) -> bytes:
    """Give as many bytes as a share of the head has that is sent down."""
    return bytes(share.head_codec(codecs.head_state_down).size_bytes(share.form.parameters))


class SyntheticClimber:
    """Answers as a device would that has the codecs of some rung of the ladder in each assignment.

    Args:
        plan: gives the ladder.
        client: its name.
        on_rung: gives what answers with some codecs.
    """

    def __init__(self, plan: Plan, client: str, on_rung: Callable[[Codecs], Answering]) -> None:
        named = 6 if plan.u_shape else 4  # in an assignment
        self._rungs = {
            tuple(tuple(codec_to_wire(codec)) for codec in codecs[:named]): on_rung(codecs)
            for codecs in (plan.codecs_of(client, rung) for rung in range(len(plan.ladder)))
        }

    def run(self, job: ClientJob) -> BatchUp | HeadUpdate:
        """Give the answer to publish."""
        if isinstance(job, FirstBatch):
            self._run = self._rungs[tuple(map(tuple, job.assignment.codecs + job.assignment.features))]
        return self._run(job)


class SyntheticTail:
    """Answers as the tail would; the loss is not known.

    Args:
        plan: gives codecs and shapes.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        parts = {share.cut: _head(plan.codecs_of(client), share) for client, share in plan.early.items()}
        self._head = HeadEncoded(_head(plan.codecs, plan.whole_head), parts)
        self._gradients: dict[tuple[int, int, int], tuple[bytes, float]] = {}
        self._features = functools.cache(
            lambda n, codecs: bytes(codecs.features_down.size_bytes(n, plan.features_size))
        )

    def _gradient(self, n: int, codecs: Codecs, share: HeadShare) -> tuple[bytes, float]:
        key = n, id(codecs), id(share)  # the plan holds both; to hash them takes longer than all the rest
        if key not in self._gradients:
            up, down = codecs.activations_up, codecs.gradient_down
            size = gradient_bytes(down, up, n, share.cut_size) if share.form.learns else 0
            self._gradients[key] = bytes(size), 0.0
        return self._gradients[key]

    def _codecs_of(self, client: str, job: TailForward | TailStep) -> Codecs:
        return self._plan.codecs_of(client, job.rungs.get(client, 0))

    def run(self, job: TailJob) -> TailResult:
        """Give the job's result."""
        match job:
            case TailForward(batches=forward):
                return TailForwarded(
                    {name: self._features(m.count, self._codecs_of(name, job)) for name, m in forward}
                )
            case TailStep(batches=batches):
                samples = sum(message.count for _, message, _ in batches)
                gradients: dict[str, tuple[bytes, float] | WireError] = {
                    name: self._gradient(m.count, self._codecs_of(name, job), self._plan.share_of(name))
                    if job.answers
                    else (b"", 0.0)
                    for name, m, _ in batches
                }
                return TailStepped(gradients, math.nan, samples)
            case TailUpdate():
                return None
            case CloseRound():
                return RoundClosed(self._head, None, {})
            case EncodeHead():
                return self._head
            case EncodeChanges(since=since):
                return ChangesEncoded(dict.fromkeys(since, self._head.whole))
            case _:
                raise TypeError(f"{type(job).__name__} is no job of the tail")
