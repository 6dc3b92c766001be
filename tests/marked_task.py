"""A task whose labels can be found again in whatever a device says: each is some numbers, and a class."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from scenarios.task import Dataset, Numbers, Split, Task
from tests import u_task
from tests.small_task import CORNERS, loss, points, score

MARK = b"what is written here stays at home.."
"""The numbers, as float32."""


def marked(split: Split) -> Split:
    corner = (split.inputs @ CORNERS.T).argmax(1).float()
    numbers = torch.tensor(np.frombuffer(MARK, np.float32)).repeat(len(corner), 1)
    return Split(split.inputs, torch.cat([numbers, corner[:, None]], 1))


def task() -> Task:
    return replace(
        u_task.task(),
        classes=0,
        targets=Numbers((len(MARK) // 4 + 1,)),
        loss=_loss,
        score=_score,
        load=lambda: Dataset(marked(points(200, 1)), marked(points(100, 2))),
    )


def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return loss(outputs, targets[:, -1].long())


def _score(outputs: Tensor, targets: Tensor) -> Tensor:
    return score(outputs, targets[:, -1].long())
