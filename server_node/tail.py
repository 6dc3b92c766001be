"""The server's computation: the tail, the average of the heads, and evaluation.

Letters as in the paper: z~ activations at the cut after the codec, shape (n, d).
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from broker.codecs import decode_activations, decode_update, encode_gradient
from broker.wire import bits
from broker.wire.errors import WireError
from broker.wire.messages import Activations, HeadUpdate
from scenarios.schema.training import Training
from scenarios.seeds import derive_seed, generator
from scenarios.task import Split, Task
from scenarios.training import (
    evaluate,
    head_origin,
    head_vector,
    initial_head,
    load_head_vector,
    load_module_tensors,
    module_tensors,
)
from server_node.learning.aggregation import LabelFilter, aggregate
from server_node.learning.gradients import Batch, TailGradients
from server_node.learning.probe import Probe
from server_node.learning.spreading import Map
from server_node.learning.tail_pass import LARGEST, gradient_to_activations, score_one, send_all
from server_node.learning.tail_state import TailState
from server_node.vocabulary.jobs import (
    CloseRound,
    Diverged,
    EncodeHead,
    RoundClosed,
    ScoreBatches,
    Scored,
    TailJob,
    TailResult,
    TailStep,
    TailStepped,
    TailUpdate,
)
from server_node.vocabulary.plan import Plan


def _is_too_large(error: WireError) -> bool:
    """Say whether a payload was refused for the size of its numbers, as when a model diverges."""
    return error.reason == "range" and "magnitude" in str(error)


class Tail:
    """The tail and the server's copy of the head.

    Args:
        task: the learning task.
        test: what to evaluate on; None: devices send what they keep for evaluation.
        head: initial head.
        tail: initial tail.
        plan: gives the seed and everybody's codecs.
        training: the scenario's; has the learning rate of the tail's SGD.
        map_batches: `map`, or `executor.map` to decode and encode the batches of a step in parallel.
        map_updates: the same for the head updates of a round.

    Attributes:
        filter: whom the rule filtered_mean leaves out; no other rule uses it.
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
    ) -> None:
        self.head = head
        self.tail = tail
        self._task = task
        self._test = test
        self._plan = plan
        self._seed = plan.seed
        self._training = training
        self._map_batches, self._map_updates = map_batches, map_updates
        self._rule = training.aggregation
        self._unsound: dict[str, WireError] = {}
        self.filter = LabelFilter()
        self._probe = Probe(test)
        self._begin_step()
        self._head_origin = head_origin(plan.codecs.head_state_down, initial_head(task, plan.seed))

    def run(self, job: TailJob) -> TailResult:
        """Do a job of the state machine."""
        match job:
            case EncodeHead():
                return self._encode_head(0)
            case TailStep():
                return self._step(job)
            case TailUpdate():
                return self._update(job)
            case CloseRound():
                return self._close(job)
            case ScoreBatches():
                return Scored({client: self._score(client, message) for client, message in job.batches})
            case _:
                raise TypeError(f"{type(job).__name__} is no job of the tail")

    def state(self) -> TailState:
        """Give what must be kept; tensors are not copies."""
        head, tail = map(module_tensors, (self.head, self.tail))
        unsound = {client: (why.reason, why.detail) for client, why in self._unsound.items()}
        return TailState(head, tail, self._gradients.state(), unsound, self.filter, self._probe.last)

    def restore(self, state: TailState) -> None:
        """Be as the tail was that gave a state."""
        load_module_tensors(self.head, state.head)
        load_module_tensors(self.tail, state.tail)
        self._gradients.restore(state.gradients)
        self._unsound = {client: WireError(*why) for client, why in state.unsound.items()}
        self.filter = state.filter
        self._probe.last = state.probe

    def _begin_step(self) -> None:
        """Forget what the step before has added up."""
        self._gradients = TailGradients(self.tail, self._rule)
        self._unsound = {}

    def _step(self, job: TailStep) -> TailStepped:
        gradients: dict[str, tuple[bytes, float] | WireError] = {}
        arrived: list[Batch] = []
        batches = self._map_batches(self._read, job.batches)
        for (client, _, _), batch in zip(job.batches, batches, strict=True):
            if not isinstance(batch, WireError):
                arrived.append(batch)
                continue
            gradients[client] = batch
            if _is_too_large(batch):
                self._unsound[client] = batch
        if not arrived:
            return TailStepped(gradients, 0.0, 0)
        self.tail.train()
        groups, refused = send_all(
            self.tail,
            self._task.loss,
            arrived,
            lambda first: derive_seed(self._seed, "dropout", "server", first, job.round, job.step),
            apart=self._rule != "mean",
        )
        gradients |= refused
        self._unsound |= {client: why for client, why in refused.items() if why.reason == "range"}
        for group in groups:
            self._probe.keep(group.batches[0])
            self._gradients.add(group)
            ends = np.cumsum([len(batch.z) for batch in group.batches])[:-1]
            encoded = self._map_batches(self._encode, group.batches, np.split(group.downlink, ends))
            gradients |= dict(zip((batch.client for batch in group.batches), encoded, strict=True))
        loss_sum = sum(group.losses.sum().item() for group in groups)
        return TailStepped(gradients, loss_sum, sum(len(group.losses) for group in groups))

    def _read(self, sent: tuple[str, Activations, float]) -> Batch | WireError:
        """Decode one batch, and check every number in it before torch sees any."""
        client, message, weight = sent
        task, n = self._task, message.count
        try:
            codec = self._plan.codecs_of(client).activations_up
            z, codewords = decode_activations(codec, message.payload, n, task.cut_size)
            shape = (n, *task.target_shape)
            targets = bits.unpack(message.targets, bits.bits_for(task.classes), int(np.prod(shape)))
        except WireError as error:
            return error
        if targets.size and int(targets.max()) >= task.classes:
            return WireError("range", f"target {targets.max()} of {task.classes} classes")
        labels = torch.from_numpy(targets.astype(np.int64).reshape(shape))
        return Batch(client, message, weight, z, codewords, labels)

    def _encode(self, batch: Batch, downlink: npt.NDArray[np.float32]) -> tuple[bytes, float] | WireError:
        """Encode the gradient of the mean loss of one batch, and give its correction's lambda.

        Args:
            batch: one client's.
            downlink: gradient of the sum of the step's losses, each times its batch's weight, at z~; (n, d).
                Dividing by n and by the weight gives the gradient of this client's mean loss.
        """
        mean_loss_gradient = downlink * np.float32(1 / (len(batch.z) * batch.weight))
        rng = generator(self._seed, "gradient", batch.client, batch.message.round, batch.message.step)
        codec = self._plan.codecs_of(batch.client).gradient_down
        try:
            payload = encode_gradient(codec, mean_loss_gradient, batch.codewords, rng)
        except ValueError as error:
            return WireError("range", f"the gradient at the cut is {error}")
        relative = self._training.correction.relative  # 0 saves two passes over the batch
        ratio = gradient_to_activations(mean_loss_gradient, batch.z) if relative else 0.0
        return payload, self._training.lambda_in(batch.message.round, ratio)

    def _update(self, job: TailUpdate) -> Diverged | None:
        """Take a step of SGD with what has come through the tail since the step before."""
        where = f"round {job.round}, step {job.step}"
        if self._is_lost(len(self._gradients.greatest_loss), self._unsound):
            return Diverged(f"{where}: activations_up: {_named(self._unsound)}")
        if self._rule == "filtered_mean":
            self._gradients.leave_out(self.filter.learn(self._gradients.agreements(), where))
        lr = self._training.tail_lr * self._training.lr_factor(job.round)
        if not self._gradients.step(lr):
            losses = self._gradients.greatest_loss
            client = max(losses, key=losses.__getitem__)
            loss = losses[client]
            whose = f"the greatest loss, {loss:.3g}, was that of {client}"
            return Diverged(f"{where}: activations_up: the tail's parameters are not finite; {whose}")
        self._begin_step()
        return None

    def _is_lost(self, good: int, refused: dict[str, WireError]) -> bool:
        """Say whether it is the model that is at fault, not the clients whose numbers were refused.

        One client ends nothing: at least two must have been refused, and more than were not; or the server's
        own model must fail on the server's own data.
        """
        if not refused or good >= len(refused):
            return False
        return len(refused) > 1 or not self._probe.passes(self.head, self.tail)

    def _close(self, job: CloseRound) -> RoundClosed | Diverged:
        refused: dict[str, WireError] = {}
        received: dict[str, npt.NDArray[np.float32]] = {}
        weights: dict[str, float] = {}
        changes = self._map_updates(self._read_update, job.updates)
        for (client, update, weight), change in zip(job.updates, changes, strict=True):
            if isinstance(change, WireError):
                refused[client] = change
            elif client not in self.filter.out:
                received[client], weights[client] = change, weight * update.samples
        too_large = {client: why for client, why in refused.items() if _is_too_large(why)}
        unsound = self._average(received, weights) | too_large
        if self._is_lost(len(job.updates) - len(refused | unsound), unsound):
            return Diverged(f"round {job.round}: head_update_up: {_named(unsound)}")
        metric = None
        if job.evaluate and self._test is not None:
            metric = evaluate(self._task, self._test, self.head, self.tail)
        if metric is not None and not np.isfinite(metric):
            return Diverged(f"round {job.round}: the {self._task.metric} is {metric}")
        return RoundClosed(self._encode_head(job.round), metric, refused | unsound)

    def _score(self, client: str, message: Activations) -> tuple[float, int] | WireError:
        batch = self._read((client, message, 1.0))
        return batch if isinstance(batch, WireError) else score_one(self.tail, self._task.score, batch)

    def _read_update(self, sent: tuple[str, HeadUpdate, float]) -> npt.NDArray[np.float32] | WireError:
        """Decode one head update, shape (P,), and check every number in it."""
        client, update, _ = sent
        if not 0 <= update.quantization_error < LARGEST:
            return WireError("range", f"a quantization error of {update.quantization_error:.3g}")
        try:
            codec = self._plan.codecs_of(client).head_update_up
            return decode_update(codec, update.payload, self._plan.head_size)
        except WireError as error:
            return error

    def _average(
        self, received: dict[str, npt.NDArray[np.float32]], weights: dict[str, float]
    ) -> dict[str, WireError]:
        """Move the head by what the scenario's rule makes of the updates.

        While the model then gives no numbers on the server's own data, the longest update is refused.

        Returns:
            Whose updates were refused; they are taken out of `received`.
        """
        refused: dict[str, WireError] = {}
        parameters = head_vector(self.head)
        while received:
            clients = sorted(received)
            vectors = [received[client] for client in clients]
            change = aggregate(self._rule, vectors, [weights[client] for client in clients])
            load_head_vector(self.head, parameters + change)
            if self._probe.passes(self.head, self.tail):
                break
            longest = max(clients, key=lambda client: float(np.linalg.norm(received[client].astype(float))))
            refused[longest] = WireError("range", "with its update the model gives no finite outputs")
            del received[longest]
            load_head_vector(self.head, parameters)
        return refused

    def _encode_head(self, number: int) -> bytes:
        rng = generator(self._seed, "head", number)
        codec = self._plan.codecs.head_state_down
        return codec.encode((head_vector(self.head) - self._head_origin)[None, :], rng)


def _named(refused: dict[str, WireError]) -> str:
    """Name up to five of those that were refused, and why the last one was."""
    names = sorted(refused)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""  # noqa: PLR2004
    return f"{refused[names[-1]]} ({', '.join(names[:5])}{more})"
