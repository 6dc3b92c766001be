"""The small task with a tail whose buffers change with each batch and change the outputs.

A run that goes on with other buffers than it had comes out differently.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from scenarios.task import Task
from tests import small_task


class Drift(nn.Module):
    """Scales by how many batches it has seen in training."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.seen += 1
        return inputs * (1 + 0.01 * self.seen)


def task() -> Task:
    return replace(
        small_task.task(),
        tail=lambda: nn.Sequential(nn.BatchNorm1d(16), nn.Dropout(0.2), Drift(), nn.Linear(16, 4)),
    )
