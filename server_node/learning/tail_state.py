"""What the server has that is not made from the scenario; a simulated run keeps it when it is stopped."""

import msgspec
from torch import Tensor

from broker.wire.messages import Activations
from scenarios.computing.optimizers import Moments
from server_node.learning.aggregation import LabelFilter


class AddedUp(msgspec.Struct, frozen=True):
    """What the step under way has added up.

    Attributes:
        at_parameters: gradients at the tail's parameters, None where there is none; empty between two steps.
        weight: of the samples together; with the rule mean.
        of_clients: of each client the sum over its samples, and their weight; with other rules.
        greatest_loss: of each client.
        sent: of each batch client, round, step, weight, z~, and the targets of each output by its name, ""
            for the only one; see TailGradients.batches.
    """

    at_parameters: list[Tensor | None]
    weight: float
    of_clients: dict[str, tuple[Tensor, float]]
    greatest_loss: dict[str, float]
    sent: list[tuple[str, int, int, float, Tensor, dict[str, Tensor]]]


class ScoredSoFar(msgspec.Struct, frozen=True):
    """What the evaluation under way has got of devices; with a metric that is a function of all outputs.

    Attributes:
        round: after which the model is evaluated; 0: there is none.
        sent: each batch, its client, and the rung of its codecs, in their order.
    """

    round: int
    sent: list[tuple[str, Activations, int]]


class Rest(msgspec.Struct, frozen=True):
    """The rest of a slow device's head, in a round of which a batch has come.

    Attributes:
        round: in which the device began.
        tensors: parameters and buffers.
        received: what is sent of it as the round began, shape (values,).
        moments: what its optimizer remembers.
    """

    round: int
    tensors: list[Tensor]
    received: Tensor
    moments: Moments


class HeadsAndRests(msgspec.Struct, frozen=True):
    """What the stand-ins for devices with an early cut have; nothing if there are none.

    Attributes:
        heads: those that devices at work have begun with, by the first round that did; shape (P + S,).
        rests: by client.
    """

    heads: dict[int, Tensor] = {}
    rests: dict[str, Rest] = {}


class Kept(msgspec.Struct, frozen=True):
    """A batch that is kept for a replay.

    Attributes:
        client: whose.
        round: in which the tail learned from it first.
        batch: as it was sent.
        rung: of its client's codecs then, see server_node.vocabulary.jobs.Rungs.
    """

    client: str
    round: int
    batch: Activations
    rung: int


class TailState(msgspec.Struct, frozen=True):
    """What the server has that is not made from the scenario.

    Attributes:
        head: its parameters and buffers.
        tail: the same.
        gradients: of the step under way.
        unsound: clients whose numbers were refused in this step for their size; reason and detail of each.
        filter: what the rule filtered_mean remembers of clients.
        probe: see Probe.last.
        moments: what the optimizers of the tail and of the averaged head remember.
        scored: in the evaluation under way.
        stand_ins: for devices with an early cut.
        replay: batches of earlier rounds.
        held: of each client the heads that it has, by round, shape (P + S,); see HeldHeads.
    """

    head: list[Tensor]
    tail: list[Tensor]
    gradients: AddedUp
    unsound: dict[str, tuple[str, str]]
    filter: LabelFilter
    probe: Tensor | None
    scored: ScoredSoFar
    moments: tuple[Moments, Moments] = ([], [])
    stand_ins: HeadsAndRests = HeadsAndRests()
    replay: list[Kept] = []
    held: dict[str, dict[int, Tensor]] = {}
