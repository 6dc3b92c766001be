"""A device's computation: the jobs of its state machine, done with its head and its data."""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from broker.codecs import codec_from_wire
from broker.wire.errors import WireError
from broker.wire.messages import Activations, Assignment, Features, Gradient, HeadUpdate, Scores
from edge_client.jobs import (
    BackwardStep,
    ClientJob,
    ClientResult,
    FirstBatch,
    HeldOutBatch,
    LookAtData,
    Stock,
    TopStep,
    round_of,
)
from edge_client.training.assigned import refuse_unfit
from edge_client.training.auxiliary import BatchOut, DeviceAuxiliary, auxiliary_of
from edge_client.training.cut import DeviceCut
from edge_client.training.device_state import DeviceState, OutAtServer
from edge_client.training.feedback import Feedback
from edge_client.training.own_data import DeviceData
from edge_client.training.top import DeviceTop, scores_of
from scenarios.computing.optimizers import placed_moments
from scenarios.computing.placing import CPU, on_cpu, placed
from scenarios.heads.held import HeldHeads
from scenarios.heads.in_training import HeadInTraining
from scenarios.outputs import arrays
from scenarios.schema.training import Training
from scenarios.seeds import generator
from scenarios.task import Split, Task
from scenarios.u_shape import Ends


class Device:
    """One client's head and data.

    Attributes:
        data: its samples.
        head: its head, in training.

    Args:
        task: the learning task.
        initial: the head that the run starts from, shape (P + S,), for all devices the same array.
        data: this client's samples for training.
        held_out: further ones, for evaluation; None: there are none.
        look: gives both anew if they have changed on the device since the last call; None: they never do.
        rows_of: see DeviceData.
        client: its name, part of every seed.
        seed: the scenario's seed.
        batch_size: samples a step; fewer when the client has fewer.
        training: the scenario's; has method and optimizer of the local steps.
        error_feedback: see Feedback; a device that is restarted begins without what was lost.
        holds_heads: see HeldHeads; a device that is restarted begins without them, and says so by greeting.
        timed: makes a context manager for each phase of a job: compute, encode, decode, backward, train, top.
        place: where the head computes.
    """

    def __init__(
        self,
        task: Task,
        initial: npt.NDArray[np.float32],
        data: Split,
        *,
        client: str,
        seed: int,
        batch_size: int,
        training: Training,
        held_out: Split | None = None,
        look: Callable[[], tuple[Split, Split] | None] | None = None,
        rows_of: Callable[[Sequence[Tensor]], bytes] = lambda _inputs: b"",
        error_feedback: bool = False,
        holds_heads: bool = False,
        timed: Callable[[str], AbstractContextManager[object]] = nullcontext,
        place: torch.device = CPU,
    ) -> None:
        self._task, self._client, self._seed = task, client, seed
        self.data = DeviceData(data, held_out, look, rows_of, client=client, seed=seed, batch_size=batch_size)
        self._place = place
        self.head = HeadInTraining(
            task.head(), initial, client=client, seed=seed, training=training, place=place
        )
        self._training = training
        self._is_alone = training.method == "fedavg"  # with the whole model
        self._auxiliary = auxiliary_of(self.head.module, task, client=client, seed=seed)
        self._feedback = Feedback(is_on=error_feedback)
        self._held, self._holds_heads = HeldHeads(initial), holds_heads
        self._timed = timed
        self._make_top = partial(DeviceTop, client=client, seed=seed, timed=timed)
        self._at_work = threading.Lock()  # a job of a round that the server gave up may still run
        self._round = self._server = self._first_step = 0
        self._score_sum = 0.0  # in an evaluation of a U-shape
        self._out: int | None = None  # step of the batch that is out at the server
        self._features: Features | None = None  # whose gradient is out

    @property
    def stock(self) -> Stock:
        """How many samples it has."""
        return self.data.stock

    def state(self) -> DeviceState | None:
        """Give what must be kept of the device; None if it is as it was made."""
        lost = self._feedback.state()
        rest = self.head.moments, self.head.at_home, self._held.state()
        if self._out is None:
            return None if lost is None and not any(rest) else DeviceState(lost, None, *rest)
        head, received = map(torch.from_numpy, (self.head.vector(), self.head.received))
        counts = self._trained, self._cut.error_energy, self._cut.energy
        out = self._assignment, self._out, head, received, *counts, self._features, self._score_sum
        return DeviceState(lost, OutAtServer(*out), *rest)

    def restore(self, state: DeviceState) -> None:
        """Be as the device was that gave a state; a batch that was out for training is computed again."""
        if state.lost is not None:
            self._feedback.lost = state.lost.numpy()
        self.head.at_home = state.at_home
        self._held.restore(state.held)
        out = state.out
        if out is None:
            self.head.moments = placed_moments(state.moments, self._place)
            return
        self._begin(out.assignment)
        self.head.moments = placed_moments(state.moments, self._place)
        self.head.received = out.received.numpy()
        self.head.load(out.head.numpy())
        self._out = out.step
        with self.head.again():
            if out.features is not None:
                self._forward(out.features.step)
                self._to_loss_and_back(out.features)
            elif not self._first_step:
                self._forward(out.step)
        self._trained, self._score_sum = out.trained, out.score_sum
        self._cut.error_energy, self._cut.energy = out.error_energy, out.energy

    def run(self, job: ClientJob) -> ClientResult:
        """Do a job of the state machine; WireError when the server's message cannot be used."""
        with self._at_work:
            try:
                return self._do(job)
            except WireError as error:
                return error

    def _do(self, job: ClientJob) -> ClientResult:
        if isinstance(job, LookAtData):
            return self.data.look()
        self._out = self._features = None
        what, number = round_of(job)
        if number not in (None, self._round):
            raise WireError("order", f"{what} of round {number} in round {self._round}")
        match job:
            case FirstBatch(assignment=assignment):
                with self._timed("decode"):
                    self._take(assignment)
                if assignment.first_step:
                    return self._evaluate(assignment.first_step)
                return self._forward(0) if assignment.steps else self._train_alone()
            case HeldOutBatch(step=step, features=Features() as features):
                return self._score(step, features)
            case HeldOutBatch(step=step):
                return self._evaluate(step)
            case TopStep(features=features):
                return self._to_loss_and_back(features)
            case BackwardStep(gradient=gradient, last=last):
                self._backward(gradient)
                return self._finish() if last else self._forward(gradient.step + 1)
            case _:
                raise TypeError(f"{type(job).__name__} is no job of a device")

    def _take(self, assignment: Assignment) -> None:
        self.data.begin_round()
        if not (assignment.first_step or len(self.data)):
            raise WireError("empty", "this device has no samples to train on")
        self._begin(assignment)
        if assignment.first_step or not self._holds_heads:
            self.head.receive(self._state_codec, assignment.head)
            return
        change = self.head.decode(self._state_codec, assignment.head)
        self.head.begin_with(self._held.take(assignment.since, assignment.round, change))

    def _begin(self, assignment: Assignment) -> None:
        """Begin a round, apart from its head."""
        refuse_unfit(assignment, self._training, self._held.rounds)
        self.head.forget()
        self._cut = DeviceCut(assignment.codecs)
        if isinstance(self.head.module, Ends):
            self._top = self._make_top(self.head.module.top, self._task, assignment.features)
        self._update_codec, self._state_codec = map(codec_from_wire, assignment.codecs[2:])
        self._first_step = assignment.first_step
        self._round, self._server, self._lr = assignment.round, assignment.server, assignment.head_lr
        self._assignment = msgspec.structs.replace(assignment, head=b"")
        self._trained, self._score_sum = 0, 0.0

    def _forward(self, step: int) -> Activations:
        with self._timed("compute"):
            z, self._targets = self._through_head(step // 2 if self._assignment.features else step)
        with self._timed("encode"):
            sent = None if self._assignment.features else self._targets
            activations = self._encode(step, z, sent, "encode")
        self._out = step
        return activations

    def _to_loss_and_back(self, features: Features) -> ClientResult:
        """Do the middle of a step in a U-shape: here are the labels."""
        answer = self._top.answer(features, len(self.head.z), self._targets)
        self._out, self._features = answer.step, features
        return answer

    def _evaluate(self, step: int) -> Activations:
        """Send the step's share of the samples that are kept for evaluation through the head."""
        inputs, targets = self.data.held_out_batch(step - self._first_step)
        with self._timed("compute"):
            z = self.head.evaluate(inputs)
            if self._is_alone:
                z = scores_of(self._task, z, targets)
        sent = None if self._is_alone or self._assignment.features else targets
        with self._timed("encode"):
            activations = self._encode(step, z, sent, "encode_held_out")
        self._out = step
        return activations

    def _score(self, step: int, features: Features) -> Activations | Scores:
        """Score the batch whose features have come, and send the next one; after the last one all scores."""
        inputs, targets = self.data.held_out_batch(step - 1 - self._first_step)
        self._score_sum += self._top.score(features, len(inputs), targets)
        self._trained += len(inputs)
        if step + 1 < self._assignment.steps:
            return self._evaluate(step)
        self._out = step
        return Scores(self._server, self._round, step, 1, self._trained, self._score_sum)

    def _through_head(self, step: int) -> tuple[Tensor, Tensor]:
        """Send a local step's batch through the head; gives the outputs, shape (n, d), and the targets."""
        inputs, targets = self.data.batch(self._round, step)
        self._trained += len(inputs)
        return self.head.forward(inputs, self._round, step), targets

    def _encode(self, step: int, activations: Tensor, targets: Any, purpose: str) -> Activations:
        z = on_cpu(activations).numpy()
        rng = generator(self._seed, purpose, self._client, self._round, step)
        payload = self._cut.encode(z, rng)
        packed = b"" if targets is None else self._task.kind.encode(arrays(targets))
        return Activations(self._server, self._round, step, 1, len(z), payload, packed)

    def _backward(self, gradient: Gradient) -> None:
        with self._timed("decode"):
            arrived = self._cut.decode(gradient) if self.head.learns else None
        with self._timed("backward"):
            if arrived is not None:
                self.head.backward(self._cut.correct(arrived, gradient.correction))
            if arrived is not None and self._auxiliary is not None:
                self._auxiliary.follow(self._batch_out(gradient.step), arrived)
            self.head.descend(self._lr)

    def _batch_out(self, step: int) -> BatchOut:
        return BatchOut(self.head, self._cut, self._targets, self._round, step)

    def _train_alone(self) -> HeadUpdate:
        """Do a round of FedAvg (McMahan et al. 2017), where the head is the whole model, or a one-way one."""
        if self._auxiliary is not None:
            return self._train_one_way(self._auxiliary)
        with self._timed("train"):
            for step in range(self._training.local_steps):
                outputs, targets = self._through_head(step)
                self._task.loss(outputs, placed(targets, self._place)).mean().backward()  # type: ignore[no-untyped-call]
                self.head.descend(self._lr)
        return self._finish()

    def _train_one_way(self, auxiliary: DeviceAuxiliary) -> HeadUpdate:
        """Do a round without gradients of the server: the auxiliary tail gives them."""
        batches = []
        for step in range(self._training.local_steps):
            sent = self._forward(step)
            self._out = None
            batches.append((sent.count, sent.payload, sent.targets))
            with self._timed("backward"):
                auxiliary.lead(self._batch_out(step), self._training)
                self.head.descend(self._lr)
        return msgspec.structs.replace(self._finish(), batches=tuple(batches))

    def _finish(self) -> HeadUpdate:
        rng = generator(self._seed, "update", self._client, self._round)
        with self._timed("encode"):
            codec = self.head.codec(self._update_codec)
            payload = self._feedback.encode(self.head.finish(), codec, rng)
        error = self._cut.quantization_error
        return HeadUpdate(self._server, self._round, 1, self._trained, error, payload)
