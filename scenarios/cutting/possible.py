"""Lists where a model can be cut, and what each cut costs."""

import copy
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from scenarios.cutting.cut import Build, CutError, three_rows, whole
from scenarios.cutting.finding import find_cut
from scenarios.cutting.watching import watch
from scenarios.seeded import seeded


@dataclass(frozen=True)
class Possible:
    """A place where a model can be cut.

    Attributes:
        layer: name of the layer.
        cut_shape: of one sample's activation, channels last.
        head_parameters: that devices train and exchange.
        tail_parameters: that the server trains.
    """

    layer: str
    cut_shape: tuple[int, ...]
    head_parameters: int
    tail_parameters: int

    @property
    def size(self) -> int:
        """Values of one sample's activation."""
        return math.prod(self.cut_shape)


def possible_cuts(build: Build, inputs: Tensor) -> Iterator[Possible]:
    """Give the places where a model can be cut, in the order in which a batch comes there.

    Args:
        build: makes the whole model.
        inputs: at least one row.

    Raises:
        CutError: the model cannot be made, or fails.
    """
    inputs = three_rows(inputs)
    model = whole(build, inputs)
    watched = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
    names = {module: name for name, module in watched.named_modules()}
    trained = {name: value.numel() for name, value in model.named_parameters() if value.requires_grad}
    with seeded(0):
        ended = watch(watched, inputs).ended
    for call, following in itertools.pairwise(ended):
        if call.output is following.output:  # the layer around it, which gives the same
            continue
        try:
            cut = find_cut(lambda: copy.deepcopy(model), names[call.module], inputs)
        except CutError:
            continue
        head = sum(count for name, count in trained.items() if name in cut.head_keeps)
        yield Possible(cut.layer, cut.layout.cut_shape, head, sum(trained.values()) - head)
