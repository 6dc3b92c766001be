"""The server's side of the cut: payloads to batches, and the gradients of their losses to payloads.

Letters as in the paper: z~ activations at the cut after the codec, shape (n, d).
"""

import numpy as np
import numpy.typing as npt

from broker.codecs import decode_activations, decode_gradient, encode_gradient
from broker.wire.errors import WireError
from broker.wire.messages import Activations, FeatureGradient
from scenarios.outputs import tensors
from scenarios.schema.training import Training
from scenarios.seeds import generator
from scenarios.task import Task
from scenarios.training import gradient_to_activations
from server_node.learning.gradients import Batch
from server_node.learning.stand_ins import StandIns
from server_node.learning.tail_pass import LARGEST
from server_node.vocabulary.plan import Plan


class ServerCut:
    """What crosses the cut.

    Args:
        task: the learning task.
        plan: gives the seed and everybody's codecs.
        training: the scenario's; has the strength of the correction.
        stand_ins: do the rest of the head for devices with an early cut.
    """

    def __init__(self, task: Task, plan: Plan, training: Training, stand_ins: StandIns) -> None:
        self._task = task
        self._plan = plan
        self._training = training
        self._stand_ins = stand_ins

    def read(self, sent: tuple[str, Activations, float], rung: int = 0) -> Batch | WireError:
        """Decode one batch under the codecs of a rung, and check every number before torch sees any.

        Gives it at the head's end.
        """
        batch = self._decoded(sent, rung)
        return batch if isinstance(batch, WireError) else self._stand_ins.forward(batch)

    def read_held_out(self, sent: tuple[str, Activations, float], rung: int = 0) -> Batch | WireError:
        """Do the same with a batch that is kept for evaluation."""
        batch = self._decoded(sent, rung)
        return batch if isinstance(batch, WireError) else self._stand_ins.evaluate(batch)

    def _decoded(self, sent: tuple[str, Activations, float], rung: int = 0) -> Batch | WireError:
        client, message, weight = sent
        task, n = self._task, message.count
        try:
            codec = self._plan.codecs_of(client, rung).activations_up
            z, codewords = decode_activations(codec, message.payload, n, self._plan.share_of(client).cut_size)
            targets = None if self._plan.labels_stay else tensors(task.kind.decode(message.targets, n))
        except WireError as error:
            return error
        return Batch(client, message.round, message.step, weight, z, codewords, targets, rung)

    def encode_features(self, batch: Batch, features: npt.NDArray[np.float32]) -> bytes | WireError:
        """Encode what the tail made of one batch in a U-shape, shape (n, f)."""
        rng = generator(self._plan.seed, "features", batch.client, batch.round, batch.step)
        try:
            return self._plan.codecs_of(batch.client, batch.rung).features_down.encode(features, rng)
        except ValueError as error:
            return WireError("range", f"the features are {error}")

    def read_returned(self, batch: Batch, message: FeatureGradient) -> npt.NDArray[np.float32] | WireError:
        """Decode the gradient of a batch's mean loss at its features, shape (n, f), and check it."""
        if not abs(message.loss) < LARGEST:
            return WireError("range", f"a loss of {message.loss:.3g}")
        codecs, size = self._plan.codecs_of(batch.client, batch.rung), self._plan.features_size
        try:
            return decode_gradient(codecs.feature_gradient_up, message.payload, None, message.count, size)
        except WireError as error:
            return error

    def encode(self, batch: Batch, downlink: npt.NDArray[np.float32]) -> tuple[bytes, float] | WireError:
        """Encode the gradient of the mean loss of one batch at its cut, and give its correction's lambda.

        Of a head that is frozen nobody needs it: the payload is empty, and only asks for the next batch.

        Args:
            batch: one client's.
            downlink: gradient of the sum of the step's losses, each times its batch's weight, at the head's
                end; (n, values there).
                Dividing by n and by the weight gives the gradient of this client's mean loss.
        """
        if not self._plan.head_learns:
            return b"", 0.0
        mean_loss_gradient = downlink * np.float32(1 / (len(batch.z) * batch.weight))
        taken_back = self._stand_ins.backward(batch, mean_loss_gradient)
        if isinstance(taken_back, WireError):
            return taken_back
        gradient, z = taken_back
        if not self._plan.share_of(batch.client).form.learns:
            return b"", 0.0
        rng = generator(self._plan.seed, "gradient", batch.client, batch.round, batch.step)
        codec = self._plan.codecs_of(batch.client, batch.rung).gradient_down
        try:
            payload = encode_gradient(codec, gradient, batch.codewords, rng)
        except ValueError as error:
            return WireError("range", f"the gradient at the cut is {error}")
        relative = self._training.correction.relative  # 0 saves two passes over the batch
        ratio = gradient_to_activations(gradient, z) if relative else 0.0
        return payload, self._training.lambda_in(batch.round, ratio)
