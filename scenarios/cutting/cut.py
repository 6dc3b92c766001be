"""A model in two parts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from scenarios.cutting.layout import Layout
from scenarios.cutting.sides import META, CutHead, CutTail
from scenarios.cutting.trees import Path

TRIED_ROWS = 3

Build = Callable[[], nn.Module]


class CutError(ValueError):
    """A model cannot be cut there; the sentence says why, and what to do."""


@dataclass(frozen=True)
class Cut:
    """A model in two parts.

    Attributes:
        layer: name of the layer whose output crosses the cut.
        layout: of what crosses it.
        head_keeps: names of the head's parameters and buffers.
        tail_keeps: those of the tail.
        outputs: of the model for three rows, without values.
        build: makes the whole model.
        inputs: three rows, to make parameters that wait for their first batch.
        answers: see CutTail.
    """

    layer: str
    layout: Layout
    head_keeps: frozenset[str]
    tail_keeps: frozenset[str]
    outputs: Any
    build: Build
    inputs: Tensor
    answers: dict[str, tuple[Any, dict[Path, Layout]]]

    def head(self) -> CutHead:
        """Make a new head."""
        return self.head_of(whole(self.build, self.inputs))

    def tail(self) -> CutTail:
        """Make a new tail."""
        return self.tail_of(whole(self.build, self.inputs))

    def head_of(self, model: nn.Module) -> CutHead:
        """Make a head of a whole model, which is the head's from now on."""
        return CutHead(model, self.layer, self.layout, self.head_keeps)

    def tail_of(self, model: nn.Module) -> CutTail:
        """Make a tail of a whole model, which is the tail's from now on."""
        inputs = self.inputs.to(META)
        return CutTail(model, self.layer, self.layout, self.tail_keeps, self.answers, inputs)


def whole(build: Build, inputs: Tensor) -> nn.Module:
    """Make a whole model; lazy layers get their parameters by rows that are sent through.

    Raises:
        CutError: what is made is no module.
    """
    model = build()
    if not isinstance(model, nn.Module):
        raise CutError(f"gives a {type(model).__name__}, it must give a torch.nn.Module")
    if any(isinstance(value, UninitializedParameter) for value in model.parameters()):
        training = model.training
        with torch.no_grad():
            model.eval()(inputs.to(torch.empty(0).device))  # "meta" where only sizes are wanted
        model.train(training)
    return model


def three_rows(inputs: Tensor) -> Tensor:
    """Give three rows, some of them twice if there are fewer."""
    return inputs[torch.arange(TRIED_ROWS) % len(inputs)]
