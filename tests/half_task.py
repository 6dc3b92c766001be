"""The small task with a head and a tail of 16 bits, whose small steps are kept in masters.

A run that goes on without the masters that it had comes out differently.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from scenarios.task import Task
from tests import small_task


class Half(nn.Module):
    """A layer that computes in bfloat16, between others that do not."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, outputs).to(torch.bfloat16)

    def forward(self, inputs: Tensor) -> Tensor:
        y: Tensor = self.layer(inputs.to(torch.bfloat16)).float()
        return y


def task() -> Task:
    return replace(
        small_task.task(),
        head=lambda: nn.Sequential(Half(8, 16), nn.ReLU()),
        tail=lambda: nn.Sequential(nn.Dropout(0.2), Half(16, 4)),
    )
