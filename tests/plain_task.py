"""The small task without dropout: which batches go through the tail together does not matter for what is
learned.

With dropout in the tail it does: the batches that wait draw their masks together, and who waits depends on
time.
"""

from dataclasses import replace

from torch import nn

from scenarios.task import Task
from tests import small_task


def task() -> Task:
    return replace(
        small_task.task(),
        head=lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU()),
        tail=lambda: nn.Linear(16, 4),
    )
