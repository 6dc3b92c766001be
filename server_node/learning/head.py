"""The server's copy of the head: what devices' updates make of it, and how it is sent to them."""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from broker.codecs import Codec
from broker.wire.errors import WireError
from broker.wire.messages import HeadUpdate
from scenarios.computing.optimizers import Moments, moved
from scenarios.cutting.early import Places
from scenarios.heads.held import HeldHeads
from scenarios.schema.training import Training
from scenarios.seeds import generator
from scenarios.task import Task
from scenarios.training import head_origin, head_vector, initial_head, load_head_vector
from server_node.learning.aggregation import aggregate
from server_node.learning.spreading import Map
from server_node.learning.tail_pass import LARGEST
from server_node.vocabulary.head_share import HeadShare
from server_node.vocabulary.jobs import ChangesEncoded, CloseRound, EncodeChanges, HeadEncoded
from server_node.vocabulary.plan import Plan

Vector = npt.NDArray[np.float32]


class ServerHead:
    """The server's copy of the head.

    Attributes:
        module: the head itself.
        moments: what the rule by which the average moves it remembers.

    Args:
        module: the initial head.
        task: the learning task.
        plan: gives the seed and everybody's codecs.
        training: the scenario's; says how many updates become one, and how that moves the head.
    """

    def __init__(self, module: nn.Module, task: Task, plan: Plan, training: Training) -> None:
        self.module = module
        self.moments: Moments = []
        self._held: dict[str, HeldHeads] = {}
        self._plan = plan
        self._rule, self._optimizer = training.aggregation, training.server_optimizer
        self._initial = initial_head(task, plan.seed)
        self._parts = {
            share.cut: (share, plan.codecs_of(client).head_state_down, task.early(share.cut).own)
            for client, share in plan.early.items()
        }

    def encode(self, number: int) -> HeadEncoded:
        """Encode the head as it is after a round, and what devices with an early cut have of it."""
        vector, plan = head_vector(self.module), self._plan

        def encoded(share: HeadShare, codec: Codec, own: slice | Places = slice(None)) -> bytes:
            rng = generator(plan.seed, "head", number, *([share.cut] if share.cut else []))
            change = vector[own] - head_origin(codec, self._initial[own])
            return share.head_codec(codec).encode(change, rng)

        parts = {cut: encoded(*part) for cut, part in self._parts.items()}
        return HeadEncoded(encoded(plan.whole_head, plan.codecs.head_state_down), parts)

    def encode_changes(self, job: EncodeChanges) -> ChangesEncoded:
        """Encode the head for each client as a change of one that it has, and note what it makes of that."""
        vector, plan = head_vector(self.module), self._plan
        codec = plan.whole_head.head_codec(plan.codecs.head_state_down)
        heads: dict[str, bytes] = {}
        for client, since in job.since.items():
            held = self._holds(client)
            rng = generator(plan.seed, "head", job.round, client)
            heads[client] = codec.encode(vector - held.base(since), rng)
            held.take(since, job.round, codec.decode(heads[client], plan.head_size))
        return ChangesEncoded(heads)

    def _holds(self, client: str) -> HeldHeads:
        return self._held.setdefault(client, HeldHeads(self._initial))

    def held_state(self) -> dict[str, dict[int, Tensor]]:
        """Give copies of the heads that clients have, by client and round."""
        return {client: held.state() for client, held in self._held.items()}

    def restore_held(self, state: Mapping[str, Mapping[int, Tensor]]) -> None:
        """Take note of the heads that clients have."""
        for client, heads in state.items():
            self._holds(client).restore(heads)

    def read_all(
        self, job: CloseRound, map_updates: Map, whole: Callable[[str, Vector], Vector | WireError]
    ) -> tuple[dict[str, Vector], dict[str, WireError]]:
        """Decode the updates of a round; gives the changes of the head, shape (P + S,), and who is refused.

        Args:
            job: has the updates.
            map_updates: `map`, or what decodes several at once.
            whole: adds to a client's change that of the rest of the head, which the server trained for it.
        """
        received: dict[str, Vector] = {}
        refused: dict[str, WireError] = {}
        rungs = [job.rungs.get(client, 0) for client, _, _ in job.updates]
        changes = map_updates(self.read, job.updates, rungs)
        for (client, _, _), change in zip(job.updates, changes, strict=True):
            of_all = change if isinstance(change, WireError) else whole(client, change)
            if isinstance(of_all, WireError):
                refused[client] = of_all
            else:
                received[client] = of_all
        return received, refused

    def read(self, sent: tuple[str, HeadUpdate, float], rung: int) -> Vector | WireError:
        """Decode a client's update under the codecs of a rung, and check every number in it.

        Gives what the client changed of its share of the head, shape (P + S,) if that is all of it.
        """
        client, update, _ = sent
        if not 0 <= update.quantization_error < LARGEST:
            return WireError("range", f"a quantization error of {update.quantization_error:.3g}")
        try:
            codec, share = self._plan.codecs_of(client, rung).head_update_up, self._plan.share_of(client)
            return share.head_codec(codec).decode(update.payload, share.form.parameters)
        except WireError as error:
            return error

    def average(
        self,
        received: dict[str, Vector],
        weights: dict[str, float],
        works: Callable[[], bool],
    ) -> dict[str, WireError]:
        """Move the head by what the rule makes of the updates; statistics by what it makes of these alone.

        Args:
            received: of each client its update, parameters and statistics, shape (P + S,).
            weights: of each client.
            works: says whether the model gives numbers. While it does not, the longest update is refused.

        Returns:
            Whose updates were refused; they are taken out of `received`.
        """
        refused: dict[str, WireError] = {}
        before, size = head_vector(self.module), self._plan.head_size
        while received:
            clients = sorted(received)
            parts = [np.split(received[client], [size]) for client in clients]
            weighed = [weights[client] for client in clients]
            changes = [
                aggregate(self._rule, vectors, weighed) if vectors[0].size else vectors[0]
                for vectors in zip(*parts, strict=True)
            ]
            parameters = torch.from_numpy(before[:size])
            result, moments = moved(parameters, torch.from_numpy(changes[0]), self._optimizer, self.moments)
            load_head_vector(self.module, np.concatenate([result.numpy(), before[size:] + changes[1]]))
            if works():
                self.moments = moments
                break
            longest = max(clients, key=lambda client: float(np.linalg.norm(received[client].astype(float))))
            refused[longest] = WireError("range", "with its update the model gives no finite outputs")
            del received[longest]
            load_head_vector(self.module, before)
        return refused
