"""The rest of a slow device's head, which the server does on its behalf.

A device with an early cut has the first part of the head. For each of them that is at work the server has a
stand-in: the rest of the head, as it was when the round began. It sends the batches of the device on to the
head's end, takes their gradients back, and moves the rest as the device would. When the round ends, the
change of the device's part and that of the rest are the change of a whole head, as that of any other device.

Letters: z~ activations at the early cut after the codec, shape (n, d); P parameters and S statistics are sent
of the whole head.
"""

import copy
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from broker.codecs.codeword_gradient import LARGEST_PARAMETER
from broker.wire.errors import WireError
from scenarios.computing.optimizers import placed_moments
from scenarios.computing.placing import CPU, on_cpu
from scenarios.heads.in_training import HeadInTraining
from scenarios.schema.training import Training
from scenarios.task import Task
from scenarios.training import load_module_tensors, module_tensors
from server_node.learning.gradients import Batch
from server_node.learning.tail_state import HeadsAndRests, Rest
from server_node.vocabulary.plan import Plan

Vector = npt.NDArray[np.float32]


@dataclass
class StandIn:
    """The rest of one device's head in one round.

    Attributes:
        round: in which the device began.
        head: the rest.
        arrived: z~ of the batch that is on its way through.
    """

    round: int
    head: HeadInTraining
    arrived: Tensor | None = None


class StandIns:
    """Does the rest of the head for devices with an early cut; their batches may go through side by side.

    Args:
        task: cuts its head.
        head: the server's copy; it is not changed.
        plan: says which device has which part of the head.
        training: the scenario's; says by which rule the rest is moved.
        place: where the rests compute.
    """

    def __init__(
        self, task: Task, head: nn.Module, plan: Plan, training: Training, place: torch.device = CPU
    ) -> None:
        self._plan = plan
        self._training = training
        self._place = place
        self._cuts = {share.cut: task.early(share.cut) for share in plan.early.values()}
        self._rests = {cut: early.rest_of(copy.deepcopy(head)) for cut, early in self._cuts.items()}
        self._at_work: dict[str, StandIn] = {}
        self._evaluating: dict[str, StandIn] = {}  # by cut
        self._heads: dict[int, Vector] = {}  # by the first round that begins with it; those still in use

    def state(self) -> HeadsAndRests:
        """Give what must be kept between two jobs; tensors are not copies."""
        rests = {
            client: Rest(
                each.round,
                module_tensors(each.head.module),
                torch.from_numpy(each.head.received),
                each.head.moments,
            )
            for client, each in self._at_work.items()
        }
        return HeadsAndRests({number: torch.from_numpy(head) for number, head in self._heads.items()}, rests)

    def restore(self, state: HeadsAndRests) -> None:
        """Have what a state says."""
        self._heads = {number: head.numpy() for number, head in state.heads.items()}
        self._at_work = {}
        for client, rest in state.rests.items():
            stand_in = self._at_work[client] = self._made(client, rest.round)
            stand_in.head.received = rest.received.numpy()
            load_module_tensors(stand_in.head.module, rest.tensors)
            stand_in.head.moments = placed_moments(rest.moments, self._place)

    def begin(self, number: int, head: Vector) -> None:
        """Note the head that devices begin with from a round on, shape (P + S,), and forget what is too old.

        Args:
            number: of the round.
            head: it.
        """
        if not self._cuts:
            return
        self._heads[number] = head
        self._evaluating = {}
        oldest = number - (self._plan.round_policy.max_staleness or 0)
        last = max((first for first in self._heads if first <= oldest), default=0)
        self._heads = {first: each for first, each in self._heads.items() if first >= last}
        self.forget({client for client, each in self._at_work.items() if each.round < oldest})

    def forget(self, clients: Collection[str]) -> None:
        """Let go of the stand-ins of some devices: their round is over, or goes on without them."""
        for client in clients:
            self._at_work.pop(client, None)

    def forward(self, batch: Batch) -> Batch | WireError:
        """Send a batch on from its early cut to the head's end; one from there is given back as it is."""
        if batch.client not in self._plan.early:
            return batch
        stand_in = self._at_work.get(batch.client)
        if stand_in is None or stand_in.round != batch.round:
            stand_in = self._at_work[batch.client] = self._made(batch.client, batch.round)
        stand_in.arrived = torch.tensor(batch.z, device=self._place).requires_grad_()
        try:
            z = stand_in.head.forward(stand_in.arrived, batch.round, batch.step)
        except Exception as error:  # noqa: BLE001 - whatever the user's layers raise
            return _told(error)
        return batch._replace(z=on_cpu(z.detach()).numpy())

    def evaluate(self, batch: Batch) -> Batch | WireError:
        """Send a batch that a device keeps for evaluation on to the head's end; nothing is learned."""
        cut = self._plan.share_of(batch.client).cut
        if not cut:
            return batch
        if cut not in self._evaluating:
            self._evaluating[cut] = self._made(batch.client, max(self._heads))
        try:
            z = self._evaluating[cut].head.evaluate(torch.from_numpy(batch.z))
        except Exception as error:  # noqa: BLE001 - whatever the user's layers raise
            return _told(error)
        return batch._replace(z=on_cpu(z).numpy())

    def backward(self, batch: Batch, gradient: Vector) -> tuple[Vector, Vector] | WireError:
        """Take a batch's gradient back to where it came from, and move the rest of the device's head by it.

        Args:
            batch: that `forward` gave last of this device.
            gradient: of the batch's mean loss at the head's end, shape (n, values there).

        Returns:
            The gradient where the batch came from, and the activations that had come, shape (n, d) each.
        """
        stand_in = self._at_work.get(batch.client)
        if batch.client not in self._plan.early or stand_in is None or stand_in.arrived is None:
            return gradient, batch.z
        head, arrived, stand_in.arrived = stand_in.head, stand_in.arrived, None
        try:
            head.backward(gradient)
            head.descend(float(np.float32(self._plan.head_lr_in(batch.round))))  # as devices are told it
        except Exception as error:  # noqa: BLE001 - whatever the user's layers raise
            return _told(error)
        finally:
            del head.z
        found = torch.zeros_like(arrived) if arrived.grad is None else arrived.grad
        return on_cpu(found).numpy(), on_cpu(arrived.detach()).numpy()

    def whole(self, client: str, change: Vector) -> Vector | WireError:
        """Give the change of a device's whole head in its round, which is over, shape (P + S,).

        Args:
            client: the device.
            change: of its own part.
        """
        early = self._cuts.get(self._plan.share_of(client).cut)
        if early is None:
            return change
        stand_in = self._at_work.pop(client, None)
        if stand_in is None:
            return WireError("order", "a head update of a device none of whose batches came")
        rest = stand_in.head.finish()
        largest = float(np.abs(rest).max(initial=0))
        if not largest <= LARGEST_PARAMETER:
            most = f"at most {LARGEST_PARAMETER:.3g} is accepted"
            return WireError("range", f"a change of {largest:.3g} in the rest of the head, {most}")
        whole = np.empty(len(early.own) + len(early.rest), np.float32)
        whole[early.own], whole[early.rest] = change, rest
        return whole

    def _made(self, client: str, number: int) -> StandIn:
        """Make a stand-in with the head that devices have begun a round with."""
        cut = self._plan.share_of(client).cut
        early, first = self._cuts[cut], max(first for first in self._heads if first <= number)
        received = self._heads[first][early.rest]
        head = HeadInTraining(
            copy.deepcopy(self._rests[cut]),
            received,
            client=client,
            seed=self._plan.seed,
            training=self._training,
            place=self._place,
            draws="dropout of the rest" if early.draws else "dropout",
        )
        head.received = received
        head.load(received)
        return StandIn(number, head)


def _told(error: Exception) -> WireError:
    return WireError("tail", f"the rest of the head: {type(error).__name__}: {str(error)[:200]}")
