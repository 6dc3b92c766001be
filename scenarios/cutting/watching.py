"""Watches a model while a few rows go through it: which layers are called, and what is used before the cut.

Letters: n rows.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload

from scenarios.cutting.trees import Path, mapped, tensors
from scenarios.dispatch import Operations


@dataclass
class Call:
    """A call of a module.

    Attributes:
        module: which one.
        before: it began before the cut.
        ended_before: it ended before the cut, or is the call of the cut itself.
        output: what it gave; None while it runs.
    """

    module: nn.Module
    before: bool
    ended_before: bool = False
    output: Any = None


@dataclass
class Seen:
    """What was seen of one pass.

    Attributes:
        calls: in the order in which they began.
        ended: the same calls, in the order in which they ended.
        before: ids of the parameters and buffers that were used before the cut ended.
        after: those that were used later.
        used: where in the cut's output the tensors are that the model's output depends on.
        output: of the model.
    """

    calls: list[Call] = field(default_factory=list)
    ended: list[Call] = field(default_factory=list)
    before: set[int] = field(default_factory=set)
    after: set[int] = field(default_factory=set)
    used: list[Path] = field(default_factory=list)
    output: Any = None
    reached: bool = False

    def called(self, module: nn.Module) -> list[Call]:
        """Give the calls of a module."""
        return [call for call in self.calls if call.module is module]


class _Noting(Operations):
    """Notes which tensors operations are given."""

    def __init__(self, seen: Seen, of: set[int]) -> None:
        super().__init__()
        self._seen = seen
        self._of = of

    def operation(self, func: OpOverload[..., Any], args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        """Note what an operation is given."""
        noted = self._seen.after if self._seen.reached else self._seen.before
        noted |= {id(tensor) for _, tensor in tensors((args, given))} & self._of
        return func(*args, **given)


@contextmanager
def _hooked(model: nn.Module, seen: Seen, layer: nn.Module | None) -> Iterator[list[tuple[Path, Tensor]]]:
    """Note every call; gives the tensors of the cut's output, which gradients are wanted of."""
    leaves: list[tuple[Path, Tensor]] = []
    open_: list[Call] = []

    def begin(module: nn.Module, _args: object) -> None:
        open_.append(Call(module, not seen.reached))
        seen.calls.append(open_[-1])

    def end(module: nn.Module, _args: object, output: Any) -> Any:
        call = open_.pop()
        call.ended_before, call.output = not seen.reached, output
        seen.ended.append(call)
        if module is not layer or seen.reached:
            return output
        seen.reached = True

        def leaf(path: Path, tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return tensor
            leaves.append((path, tensor.detach().clone().requires_grad_()))
            return leaves[-1][1].clone()  # the next layer may work in place

        return mapped(output, leaf)

    handles = [
        handle
        for module in model.modules()
        for handle in (module.register_forward_pre_hook(begin), module.register_forward_hook(end))
    ]
    try:
        yield leaves
    finally:
        for handle in handles:
            handle.remove()


def watch(model: nn.Module, inputs: Tensor, layer: nn.Module | None = None) -> Seen:
    """Send rows through a model that is not to be trained, and see what happens.

    Args:
        model: in the mode that it is to be watched in; no parameter requires a gradient.
        inputs: shape (n, ...).
        layer: the cut; None: everything is before it.
    """
    seen = Seen()
    of = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    with _hooked(model, seen, layer) as leaves, _Noting(seen, of), torch.enable_grad():
        seen.output = model(inputs)
    sums = [out.sum() for _, out in tensors(seen.output) if out.requires_grad]
    if sums:
        torch.stack([each.float() for each in sums]).sum().backward()  # type: ignore[no-untyped-call]
    seen.used = [path for path, leaf in leaves if leaf.grad is not None]
    return seen
