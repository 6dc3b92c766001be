"""The small task with its last layers named, without dropout: in a U-shape a plain loop learns the same."""

from dataclasses import replace

from torch import nn

from scenarios.task import Task
from tests import plain_task


def task() -> Task:
    return replace(
        plain_task.task(),
        tail=lambda: nn.Sequential(nn.Linear(16, 12), nn.ReLU()),
        top=lambda: nn.Linear(12, 4),
        features_shape=(12,),
    )
