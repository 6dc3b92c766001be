"""The small task, learned slowly, so that a fault hits the phase that it is aimed at."""

import time
from dataclasses import replace

from torch import Tensor, nn

from scenarios.task import Task
from tests import plain_task

WORK_S = 0.05


class Slowly(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        time.sleep(WORK_S)
        return inputs


def task() -> Task:
    plain = plain_task.task()
    return replace(
        plain,
        head=lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), Slowly()),
        tail=lambda: nn.Sequential(nn.Linear(16, 4), Slowly()),
    )
