"""Cuts a head once more: a slow device has its first part, and the server does the rest on its behalf.

So a slow device computes less, and a fast one as much as before (S2FL, arXiv 2311.13163). The whole head
stays what is averaged.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch._ops import OpOverload

from scenarios.cutting.cut import TRIED_ROWS, Cut, CutError, three_rows
from scenarios.cutting.finding import find_cut
from scenarios.cutting.sides import CutHead
from scenarios.dispatch import Operations
from scenarios.heads.parts import HeadForm, form_of, kept_at_home, sent_parameters, sent_statistics
from scenarios.seeded import seeded

__all__ = ["TRIED_ROWS", "EarlyCut", "Places", "early_cut"]

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class EarlyCut:
    """A head in two parts: the device's own, and the rest, which the server does.

    Attributes:
        cut: where.
        form: how much is sent of the device's part.
        own: where the values of the device's part stand in the vector of the whole head, shape (P + S,).
        rest: where those of the rest stand; each place is in one of the two.
        work: share of the head's multiply-adds that is in the device's part, 0 to 1.
        draws: the device's part draws random numbers, as dropout does.
    """

    cut: Cut
    form: HeadForm
    own: Places
    rest: Places
    work: float
    draws: bool

    @property
    def cut_shape(self) -> tuple[int, ...]:
        """Shape of one sample's activation there, channels last."""
        return self.cut.layout.cut_shape

    @property
    def cut_size(self) -> int:
        """Values of one sample's activation there."""
        return self.cut.layout.size

    def part_of(self, head: nn.Module) -> nn.Module:
        """Make the device's part of a whole head, which it takes over: inputs -> z at this cut."""
        return self.cut.head_of(head)

    def rest_of(self, head: nn.Module) -> nn.Module:
        """Make the rest of a whole head, which it takes over: z at this cut -> z at the head's end."""
        return self.cut.tail_of(head)


def early_cut(head: Callable[[], nn.Module], layer: str, inputs: Tensor) -> EarlyCut:
    """Cut a head behind one of its layers.

    Args:
        head: makes the whole head.
        layer: its name in the head; if the head was cut of a model, its name in the model.
        inputs: at least one row.

    Raises:
        CutError: it has no such layer, or cannot be cut there.
    """
    whole = head()
    within = "model." if isinstance(whole, CutHead) else ""
    if isinstance(whole, CutHead) and whole.layer == layer:
        raise CutError(f"'{layer}' is where the task is cut; name a layer before it, or leave this key out")
    try:
        cut = find_cut(head, f"{within}{layer}", inputs)
    except CutError as error:
        why = re.sub(r"(?<![\w.])model(\.|, )", "", str(error)) if within else str(error)
        raise CutError(f"in the task's head: {why}") from error
    part, own = _taken(whole, cut.head_of)
    rest, others = _taken(head(), cut.tail_of)
    if kept_at_home(rest):
        raise CutError(
            f"batch_norm: local keeps the batch norm behind '{layer}' on the device, and what is behind this "
            "layer is done by the server; name a later layer, or take batch_norm: averaged"
        )
    if len(own) + len(others) != sum(form_of(head())[:2]):
        raise CutError(
            f"cut behind '{layer}', the head would learn less than whole: one part of it has batch norm "
            "without parameters, and nothing else that is trained; name another layer"
        )
    seen, total = _Counting(), _Counting()
    with torch.no_grad(), seeded(0):
        for module, counting in ((part, seen), (head(), total)):
            with counting:
                module(three_rows(inputs))
    work = seen.multiply_adds / total.multiply_adds if total.multiply_adds else 1.0
    return EarlyCut(cut, form_of(part), own, others, work, seen.draws)


def _taken(whole: nn.Module, take: Callable[[nn.Module], nn.Module]) -> tuple[nn.Module, Places]:
    """Take a part of a head; gives also where its values stand in the whole head's vector."""
    places, end = {}, 0
    for tensor in (*sent_parameters(whole), *sent_statistics(whole)):
        places[id(tensor)] = np.arange(end, end := end + tensor.numel())
    part = take(whole)
    found = [places[id(tensor)] for tensor in (*sent_parameters(part), *sent_statistics(part))]
    return part, np.concatenate([np.empty(0, np.int64), *found])


class _Counting(Operations):
    """Counts multiply-adds, and notes whether random numbers are drawn.

    Attributes:
        multiply_adds: times two, of convolutions and matrix products. Others are few.
        draws: random numbers were drawn.
    """

    def __init__(self) -> None:
        super().__init__()
        from torch.utils.flop_counter import flop_registry  # noqa: PLC0415  few scenarios need it

        self._counts = flop_registry
        self.multiply_adds = 0
        self.draws = False

    def operation(self, func: OpOverload[..., Any], args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        """Do an operation, and count it."""
        result = func(*args, **given)
        self.draws |= torch.Tag.nondeterministic_seeded in func.tags
        count = self._counts.get(func.overloadpacket)
        if count is not None:
            self.multiply_adds += count(*args, **given, out_val=result)
        elif (
            func is torch.ops.aten.mkldnn_rnn_layer.default
        ):  # an LSTM: inputs (positions, n, values), weights
            inputs, of_inputs, of_states = args[:3]
            weights = of_inputs.numel() + of_states.numel()
            self.multiply_adds += 2 * weights * inputs.shape[0] * inputs.shape[1]
        return result
