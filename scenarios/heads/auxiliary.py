"""An auxiliary tail: a small classifier behind the head on the device itself, for rounds without gradients.

It gives the head its gradient there, as in CSE-FSL (Mu and Shen 2023, arXiv 2302.05599) and FSL-SAGE (Nair et
al. 2025, arXiv 2505.23182). It is trained, sent and averaged with the head.

Letters: z the activations at the cut, shape (n, d), flattened channels-last.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from scenarios.errors import ScenarioError
from scenarios.seeded import seeded
from scenarios.seeds import derive_seed
from scenarios.task import Task

GRID = 4
"""Along each axis of the cut, the auxiliary tail that is made for a task sees the means of so many parts."""


class WithAuxiliary(nn.Module):
    """A head, and an auxiliary tail behind it. As a module it is the head; its parameters are those of both.

    So whatever is done with the parameters of a head (they are averaged, sent, kept, moved by an optimizer)
    is done with those of the auxiliary tail as well.

    Attributes:
        head: inputs -> z.
        auxiliary: z -> outputs, as those of the tail.
    """

    def __init__(self, head: nn.Module, auxiliary: nn.Module) -> None:
        super().__init__()
        self.head = head
        self.auxiliary = auxiliary

    def forward(self, inputs: Tensor) -> Tensor:
        """Give z."""
        z: Tensor = self.head(inputs)
        return z


def own_layers(head: nn.Module) -> nn.Module:
    """Give a head without the auxiliary tail behind it, if there is one."""
    return head.head if isinstance(head, WithAuxiliary) else head


class PooledLinear(nn.Module):
    """One linear layer, z (n, d) -> outputs (n, ...), on means over parts of the cut's axes.

    Outputs for each place of the cut, such as for each word, are made of that place alone.

    A row of its weight is of one output and of one part along the first axes of the cut, so many of them that
    the weight is as near to a square as can be: then codecs such as low_rank have the fewest values to send.

    Args:
        cut_shape: of one sample's activation, channels last.
        output_shape: of one sample's outputs.
    """

    def __init__(self, cut_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> None:
        super().__init__()
        *places, channels = cut_shape
        self._cut_shape, self._output_shape = cut_shape, output_shape
        self._each_place = bool(places) and output_shape[:-1] == cut_shape[:-1]
        self._grid = [1 if self._each_place else min(GRID, size) for size in places]
        outputs = output_shape[-1:] if self._each_place else output_shape
        linear = nn.Linear(math.prod(self._grid) * channels, math.prod(outputs))
        rows = [linear.out_features * math.prod(self._grid[:axes]) for axes in range(len(self._grid) + 1)]
        nearest = min(rows, key=lambda count: count + linear.weight.numel() // count)
        self.weight = nn.Parameter(linear.weight.detach().reshape(nearest, -1))
        self.bias = linear.bias

    def forward(self, z: Tensor) -> Tensor:
        """Give the outputs."""
        maps = z.reshape(len(z), *self._cut_shape)
        if self._each_place:
            return functional.linear(maps, self.weight, self.bias)
        for axis, parts in enumerate(self._grid, start=1):
            means = [part.mean(axis, keepdim=True) for part in maps.tensor_split(parts, axis)]
            maps = torch.cat(means, axis)
        flat = functional.linear(maps.flatten(1), self.weight.view(len(self.bias), -1), self.bias)
        return flat.reshape(len(z), *self._output_shape)


def with_auxiliary(task: Task, seed: int) -> Task:
    """Put an auxiliary tail behind a task's head: the task's own one, or a PooledLinear.

    Its first weights follow from the seed, and those of head and tail are what they would be without it.

    Raises:
        ScenarioError: the task names none, and what its tail gives is no tensor.
    """
    auxiliary = task.auxiliary or _made_for(task)

    def head() -> nn.Module:
        own = task.head()
        with seeded(derive_seed(seed, "auxiliary")):
            return WithAuxiliary(own, auxiliary())

    return replace(task, head=head)


def _made_for(task: Task) -> Callable[[], nn.Module]:
    """Find the shape of the tail's outputs; gives what makes a PooledLinear for it.

    First without numbers, which takes no memory: a device may not be able to hold the tail. One that was cut
    out of a model by a layer's name needs numbers, but then the device makes the whole model anyway.
    """
    with torch.device("meta"):
        outputs = _outputs_of(task)
    if outputs is None:
        with seeded(0):
            outputs = _outputs_of(task)
    if not isinstance(outputs, Tensor):
        raise ScenarioError(
            f"one with rounds without gradients needs an auxiliary tail on devices: {task.name} names no "
            "`auxiliary`, and for its tail, whose outputs are no single tensor, none can be made",
            key="training.gradients_every",
        )
    shape = tuple(outputs.shape[1:])
    return lambda: PooledLinear(task.cut_shape, shape)


def _outputs_of(task: Task) -> Any:
    """Give what the tail makes of two samples, where tensors are made by default; None: it fails."""
    z = torch.zeros(2, task.cut_size)
    try:
        with torch.no_grad():
            return task.tail().to(z.device).eval()(z)
    except Exception:  # noqa: BLE001  whatever a user's tail raises
        return None
