"""What a device has that is not made from the scenario; a simulated run keeps it when it is stopped."""

import msgspec
from torch import Tensor

from broker.wire.messages import Assignment, Features
from scenarios.computing.optimizers import Moments


class OutAtServer(msgspec.Struct, frozen=True):
    """A device in the middle of a round, whose batch is out at the server.

    Attributes:
        assignment: of the round, with an empty head.
        step: of the batch.
        head: what is sent of it, shape (P + S,).
        received: the same as the round began.
        trained: samples so far in the round.
        error_energy: sum of ||z - z~||^2 so far in the round.
        energy: sum of ||z||^2 so far in the round.
        features: in a U-shape those whose gradient is out; None if the batch itself is.
        score_sum: in its evaluation of the scores so far.
    """

    assignment: Assignment
    step: int
    head: Tensor
    received: Tensor
    trained: int
    error_energy: float
    energy: float
    features: Features | None = None
    score_sum: float = 0.0


class DeviceState(msgspec.Struct, frozen=True):
    """What a device has that is not made from the scenario.

    Attributes:
        lost: what error feedback has to make up for, shape (P + S,); None if nothing.
        out: in the middle of a round; None between two.
        moments: what the head's optimizer remembers.
        at_home: layers that the device has for itself, parameters and statistics; see kept_at_home.
        held: heads of the last rounds that it was assigned, by round, shape (P + S,); see HeldHeads.
    """

    lost: Tensor | None
    out: OutAtServer | None
    moments: Moments = []
    at_home: list[Tensor] = []
    held: dict[int, Tensor] = {}
