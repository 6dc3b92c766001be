"""Whether the server's model still gives numbers, and what refused batches and updates say of that."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from broker.wire.errors import WireError
from scenarios.computing.placing import place_of
from scenarios.task import Split
from scenarios.u_shape import whole_model
from server_node.learning.gradients import Batch
from server_node.learning.tail_pass import is_sound

PROBE_SAMPLES = 16
"""So many are tried."""

NAMED = 5
"""So many clients are named; of the others the number is told."""


class Probe:
    """What head and tail are tried on: test samples of the server's, or activations that the tail could take.

    Args:
        test: the server's test samples; None: it has none.

    Attributes:
        last: activations at the cut of the last batch that is known, shape (n, d); None: of none yet.
    """

    def __init__(self, test: Split | None) -> None:
        self._test = test
        self.last: Tensor | None = None

    def keep(self, batch: Batch) -> None:
        """Keep what is of use of a batch that the tail could take."""
        if self._test is None:
            self.last = torch.from_numpy(batch.z[:PROBE_SAMPLES])

    @torch.no_grad()
    def passes(self, head: nn.Module, tail: nn.Module) -> bool:
        """Say whether every output is finite and below LARGEST.

        Without test samples the tail is tried on the last activations that it could take, and of the head
        only the parameters are looked at.
        """
        head.eval()
        tail.eval()
        if self._test is not None:
            inputs, _ = self._test.batch(slice(PROBE_SAMPLES))
            return is_sound(whole_model(head, tail, inputs.to(place_of(head, tail))))
        if not all(is_sound(parameter) for parameter in head.parameters()):
            return False
        return self.last is None or is_sound(tail(self.last.to(place_of(tail))))


def is_too_large(error: WireError) -> bool:
    """Say whether a payload was refused for the size of its numbers, as when a model diverges."""
    return error.reason == "range" and "magnitude" in str(error)


def is_model_lost(good: int, refused: Mapping[str, WireError], passes: Callable[[], bool]) -> bool:
    """Say whether it is the model that is at fault, not the clients whose numbers were refused.

    One client ends nothing: at least two must have been refused, and more than were not; or the server's own
    model must fail on the server's own data.

    Args:
        good: clients whose numbers were not refused.
        refused: by client.
        passes: tries the model on the server's own data.
    """
    if not refused or good >= len(refused):
        return False
    return len(refused) > 1 or not passes()


def named(refused: Mapping[str, WireError]) -> str:
    """Name some of those that were refused, and why the last one was."""
    names = sorted(refused)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{refused[names[-1]]} ({', '.join(names[:NAMED])}{more})"
