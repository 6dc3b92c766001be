"""Whether a device can do what it is assigned."""

from collections.abc import Collection

from broker.wire.errors import WireError
from broker.wire.messages import Assignment
from scenarios.schema.training import Training


def refuse_unfit(assignment: Assignment, training: Training, heads: Collection[int]) -> None:
    """Refuse an assignment of another method, or of a round of another kind, than the scenario has.

    Args:
        assignment: what the server says.
        training: the scenario's.
        heads: rounds whose heads the device has; see HeldHeads.

    Raises:
        WireError: why.
    """
    steps, method = assignment.steps, training.method
    alone = method == "fedavg" or not training.has_gradients(assignment.round)
    if not assignment.first_step and alone != (steps == 0):
        every = training.gradients_every
        of_round = f" in round {assignment.round}, with gradients_every {every}" if every != 1 else ""
        raise WireError("order", f"{steps} steps with method {method}{of_round}")
    features = len(assignment.features)
    if features != (2 if method == "u_shape" else 0):
        raise WireError("order", f"{features} codecs of features with {method}")
    if assignment.since and (assignment.first_step or assignment.since not in heads):
        raise WireError("order", f"a head as a change of that of round {assignment.since}, which is not here")
