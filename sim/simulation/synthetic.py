"""Stands in for training in timing-only runs: payloads are zeros of the right length.

All messages of one size share their bytes, so that a fleet of 100,000 devices costs no memory for them.
"""

import functools
import math

from broker.codecs import gradient_bytes
from broker.wire.messages import Activations, BatchUp, FeatureGradient, HeadUpdate
from edge_client.jobs import BackwardStep, ClientJob, FirstBatch, TopStep
from scenarios.schema.flows import Codecs
from server_node.vocabulary.jobs import (
    CloseRound,
    EncodeHead,
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


class SyntheticDevice:
    """Answers as a device with batches of one size would.

    Args:
        plan: gives shapes and steps.
        codecs: its own.
        samples: in each of its batches, n.
    """

    def __init__(self, plan: Plan, codecs: Codecs, samples: int) -> None:
        self._samples = samples
        self._activations = bytes(
            codecs.activations_up.size_bytes(samples, plan.cut_size) if plan.steps else 0
        )
        self._targets = bytes(0 if plan.u_shape else plan.targets.size_bytes(samples))
        self._feature_gradient = bytes(
            codecs.feature_gradient_up.size_bytes(samples, plan.features_size) if plan.u_shape else 0
        )
        self._update = bytes(plan.head_codec(codecs.head_update_up).size_bytes(plan.head_size))
        self._round_samples = samples * plan.local_steps

    def run(self, job: ClientJob) -> BatchUp | HeadUpdate:
        """Give the answer to publish."""
        match job:
            case FirstBatch(assignment=assignment) if assignment.steps == 0:
                return self._head_update(assignment.server, assignment.round)
            case FirstBatch(assignment=assignment):
                return self._batch(assignment.server, assignment.round, 0)
            case TopStep(features=features):
                place = features.server, features.round, features.step + 1
                return FeatureGradient(*place, 1, self._samples, self._feature_gradient, 0.0)
            case BackwardStep(gradient=gradient, last=False):
                return self._batch(gradient.server, gradient.round, gradient.step + 1)
            case BackwardStep(gradient=gradient):
                return self._head_update(gradient.server, gradient.round)
            case _:
                raise TypeError(f"{type(job).__name__} is no job of a device")

    def _head_update(self, server: int, round_number: int) -> HeadUpdate:
        return HeadUpdate(server, round_number, 1, self._round_samples, 0.0, self._update)

    def _batch(self, server: int, round_number: int, step: int) -> Activations:
        return Activations(server, round_number, step, 1, self._samples, self._activations, self._targets)


class SyntheticTail:
    """Answers as the tail would; the loss is not known.

    Args:
        plan: gives codecs and shapes.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._head = bytes(plan.head_codec(plan.codecs.head_state_down).size_bytes(plan.head_size))
        self._gradient = functools.cache(
            lambda n, codecs: (
                bytes(
                    gradient_bytes(codecs.gradient_down, codecs.activations_up, n, plan.cut_size)
                    if plan.head_learns
                    else 0
                ),
                0.0,
            )
        )

        self._features = functools.cache(
            lambda n, codecs: bytes(codecs.features_down.size_bytes(n, plan.features_size))
        )

    def run(self, job: TailJob) -> TailResult:
        """Give the job's result."""
        match job:
            case TailForward(batches=forward):
                return TailForwarded(
                    {name: self._features(m.count, self._plan.codecs_of(name)) for name, m in forward}
                )
            case TailStep(batches=batches):
                samples = sum(message.count for _, message, _ in batches)
                return TailStepped(
                    {name: self._gradient(m.count, self._plan.codecs_of(name)) for name, m, _ in batches},
                    math.nan,
                    samples,
                )
            case TailUpdate():
                return None
            case CloseRound():
                return RoundClosed(self._head, None, {})
            case EncodeHead():
                return self._head
            case _:
                raise TypeError(f"{type(job).__name__} is no job of the tail")
