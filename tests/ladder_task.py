"""The small task with a deeper head: a ladder of layers to cut it at, batch norm and dropout among them."""

from dataclasses import replace

from torch import nn

from scenarios.task import Task
from tests import small_task


def head() -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, 12),
        nn.BatchNorm1d(12),
        nn.ReLU(inplace=True),
        nn.Linear(12, 8),
        nn.BatchNorm1d(8),
        nn.Dropout(0.2),
        nn.Tanh(),
        nn.Linear(8, 16),
    )


def task() -> Task:
    return replace(small_task.task(), head=head)
