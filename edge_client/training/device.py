"""A device's computation: the head, its private data, encoding, and the corrected gradient.

Letters as in the paper: z activations at the cut, shape (n, d); z~ the same after the codec, which is
all that leaves the device.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from broker.codecs import (
    codec_from_wire,
    decode_gradient,
    decode_update,
    encode_activations,
    gradient_codec_from_wire,
)
from broker.wire import bits
from broker.wire.errors import WireError
from broker.wire.messages import Activations, Assignment, Gradient, HeadUpdate
from edge_client.jobs import (
    BackwardStep,
    ClientJob,
    ClientResult,
    FirstBatch,
    HeldOutBatch,
    LookAtData,
    Stock,
)
from edge_client.training.device_state import DeviceState, OutAtServer
from edge_client.training.own_data import DeviceData
from scenarios.schema.training import Training
from scenarios.seeded import seeded
from scenarios.seeds import derive_seed, generator
from scenarios.task import Split, Task
from scenarios.training import head_origin, head_vector, load_head_vector, sgd_step


class Device:
    """One client's head and data.

    Attributes:
        data: its samples.

    Args:
        task: the learning task.
        initial: the head that the run starts from, shape (P,), for all devices the same array.
        data: this client's samples for training.
        held_out: further ones, for evaluation; None: there are none.
        look: gives both anew if they have changed on the device since the last call; None: they never do.
        client: its name, part of every seed.
        seed: the scenario's seed.
        batch_size: samples a step; fewer when the client has fewer.
        training: the scenario's; has method and learning rate of the local SGD steps.
        error_feedback: whether what the codec lost of a HeadUpdate is added to the next one. A device that
            is restarted begins without.
        timed: makes a context manager for each phase of a job, by its name: compute, encode, decode,
            backward; train in FedAvg.
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
        error_feedback: bool = False,
        timed: Callable[[str], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._task = task
        self._initial = initial
        self._client = client
        self._seed = seed
        self.data = DeviceData(data, held_out, look, client=client, seed=seed, batch_size=batch_size)
        self._head = task.head()
        self._training = training
        self._error_feedback = error_feedback
        self._lost: npt.NDArray[np.float32] | np.float32 = np.float32(0)  # shape (1, P)
        self._timed = timed
        self._at_work = threading.Lock()  # a job of a round that the server gave up may still run
        self._round = self._server = self._first_step = 0
        self._out: int | None = None  # step of the batch that is out at the server

    @property
    def stock(self) -> Stock:
        """How many samples it has."""
        return self.data.stock

    def state(self) -> DeviceState | None:
        """Give what must be kept of the device; None if it is as it was made. A head has parameters only."""
        lost = torch.from_numpy(self._lost) if isinstance(self._lost, np.ndarray) else None
        if self._out is None:
            return None if lost is None else DeviceState(lost, None)
        head, received = torch.from_numpy(head_vector(self._head)), torch.from_numpy(self._received)
        counts = self._trained, self._error_energy, self._energy
        return DeviceState(lost, OutAtServer(self._assignment, self._out, head, received, *counts))

    def restore(self, state: DeviceState) -> None:
        """Be as the device was that gave a state; a batch that was out for training is computed again."""
        if state.lost is not None:
            self._lost = state.lost.numpy()
        out = state.out
        if out is None:
            return
        self._begin(out.assignment)
        self._received = out.received.numpy()
        load_head_vector(self._head, out.head.numpy())
        self._out = out.step
        if not self._first_step:
            self._forward(out.step)
        self._trained, self._error_energy, self._energy = out.trained, out.error_energy, out.energy

    def run(self, job: ClientJob) -> ClientResult:
        """Do a job of the state machine; WireError when the server's message cannot be used."""
        with self._at_work:
            try:
                return self._do(job)
            except WireError as error:
                return error

    def _do(self, job: ClientJob) -> Activations | HeadUpdate | Stock:
        if isinstance(job, LookAtData):
            return self.data.look()
        self._out = None
        match job:
            case FirstBatch(assignment=assignment):
                with self._timed("decode"):
                    self._take(assignment)
                if assignment.first_step:
                    return self._evaluate(assignment.first_step)
                return self._forward(0) if assignment.steps else self._train_alone()
            case HeldOutBatch(round=number, step=step) if number == self._round:
                return self._evaluate(step)
            case HeldOutBatch():
                raise WireError("order", f"an evaluation of round {job.round} in round {self._round}")
            case BackwardStep(gradient=gradient) if gradient.round != self._round:
                raise WireError("order", f"a gradient of round {gradient.round} in round {self._round}")
            case BackwardStep(gradient=gradient, last=last):
                self._backward(gradient)
                if not last:
                    return self._forward(gradient.step + 1)
                with self._timed("encode"):
                    return self._finish()
            case _:
                raise TypeError(f"{type(job).__name__} is no job of a device")

    def _take(self, assignment: Assignment) -> None:
        self.data.begin_round()
        if not (assignment.first_step or len(self.data)):
            raise WireError("empty", "this device has no samples to train on")
        self._begin(assignment)
        change = decode_update(self._state_codec, assignment.head, self._initial.size)
        self._received = change + head_origin(self._state_codec, self._initial)
        load_head_vector(self._head, self._received)

    def _begin(self, assignment: Assignment) -> None:
        """Begin a round, apart from its head."""
        if (self._training.method == "fedavg") != (assignment.steps == 0):
            raise WireError("order", f"{assignment.steps} steps with method {self._training.method}")
        activations, gradient, update, state = assignment.codecs
        self._activations_codec, self._update_codec = codec_from_wire(activations), codec_from_wire(update)
        self._gradient_codec = gradient_codec_from_wire(gradient, self._activations_codec)
        self._state_codec = codec_from_wire(state)
        self._first_step = assignment.first_step
        self._round, self._server, self._lr = assignment.round, assignment.server, assignment.head_lr
        self._assignment = msgspec.structs.replace(assignment, head=b"")
        self._trained = 0
        self._error_energy = self._energy = 0.0

    def _forward(self, step: int) -> Activations:
        with self._timed("compute"):
            self._z, targets = self._through_head(step)
        with self._timed("encode"):
            activations = self._encode(step, self._z, targets, "encode")
        self._out = step
        return activations

    def _evaluate(self, step: int) -> Activations:
        """Send the step's share of the samples that are kept for evaluation through the head."""
        inputs, targets = self.data.held_out_batch(step - self._first_step)
        if not len(targets):
            raise WireError("empty", "this device has no more samples for evaluation")
        self._head.eval()
        with self._timed("compute"), torch.no_grad():
            z = self._head(inputs)
        with self._timed("encode"):
            activations = self._encode(step, z, targets, "encode_held_out")
        self._out = step
        return activations

    def _through_head(self, step: int) -> tuple[Tensor, Tensor]:
        """Send the step's batch through the head; gives the outputs, shape (n, d), and the targets."""
        inputs, targets = self.data.batch(self._round, step)
        self._trained += len(targets)
        self._head.train()
        with seeded(derive_seed(self._seed, "dropout", self._client, self._round, step)):
            return self._head(inputs), targets

    def _encode(self, step: int, activations: Tensor, targets: Tensor, purpose: str) -> Activations:
        z = activations.detach().numpy()
        rng = generator(self._seed, purpose, self._client, self._round, step)
        with _own_values("activations"):
            payload, arrives, self._codewords = encode_activations(self._activations_codec, z, rng)
        self._residual: npt.NDArray[np.float32] = z - arrives
        self._energy += float(np.vdot(z, z))
        self._error_energy += float(np.vdot(self._residual, self._residual))
        return Activations(
            server=self._server,
            round=self._round,
            step=step,
            attempt=1,
            count=len(z),
            payload=payload,
            targets=bits.pack(targets.numpy().astype(np.uint16), bits.bits_for(self._task.classes)),
        )

    def _backward(self, gradient: Gradient) -> None:
        n, d = self._residual.shape
        with self._timed("decode"):
            arrived = decode_gradient(self._gradient_codec, gradient.payload, self._codewords, n, d)
        with self._timed("backward"):
            dz = torch.from_numpy(corrected(arrived, self._residual, gradient.correction))
            # The gradient of <z, dz> at z is dz. z.backward(dz) would say the same, but loads torch's
            # symbolic shapes for it: 45 MB and half a second on a desktop.
            torch.dot(self._z.flatten(), dz.flatten()).backward()  # type: ignore[no-untyped-call]
            self._descend()

    def _train_alone(self) -> HeadUpdate:
        """Do a round of FedAvg (McMahan et al. 2017): here the head is the whole model."""
        with self._timed("train"):
            for step in range(self._training.local_steps):
                outputs, targets = self._through_head(step)
                self._task.loss(outputs, targets).mean().backward()  # type: ignore[no-untyped-call]
                self._descend()
        with self._timed("encode"):
            return self._finish()

    def _descend(self) -> None:
        sgd_step(self._head, self._lr)

    def _finish(self) -> HeadUpdate:
        change = (head_vector(self._head) - self._received)[None, :] + self._lost
        del self._received
        self._head.zero_grad()  # frees the gradients: an idle device of FedAvg keeps one model, not three
        rng = generator(self._seed, "update", self._client, self._round)
        with _own_values("head"):
            payload = self._update_codec.encode(change, rng)
        if self._error_feedback:
            self._lost = change - self._update_codec.decode(payload, *change.shape)
        return HeadUpdate(
            server=self._server,
            round=self._round,
            attempt=1,
            samples=self._trained,
            quantization_error=self._error_energy / max(self._energy, 1e-30),
            payload=payload,
        )


@contextmanager
def _own_values(what: str) -> Iterator[None]:
    """Turn the codec's refusal of values into a WireError: the device gives up its round, and lives on."""
    try:
        yield
    except ValueError as error:
        why = f"the {what} of this device: {error} (NaN in its data, or a learning rate that is too high)"
        raise WireError("not-finite", why) from error


def corrected(
    gradient: npt.NDArray[np.float32], residual: npt.NDArray[np.float32], correction: float
) -> npt.NDArray[np.float32]:
    """Give FedLite's corrected gradient, dh/dz~ + lambda (z - z~).

    It is the gradient at z of h(z~) + lambda/2 ||z - stopgrad(z~)||^2 with the straight-through
    dz~/dz = 1 (arXiv 2201.11865). `gradient` is that of the *mean* loss over the batch while the
    penalty is a sum over it: lambda has that scale.

    Args:
        gradient: dh/dz~, shape (n, d).
        residual: z - z~, shape (n, d).
        correction: lambda.
    """
    return gradient if correction == 0.0 else gradient + np.float32(correction) * residual
