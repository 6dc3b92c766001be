"""A user's own task, small enough to train in a moment: which of four corners a noisy point lies in.

The data are made here, which tests of the protocol may do; no figure of the project comes from them.
"""

import torch
from torch import Tensor, nn

from scenarios.task import Dataset, Split, Task

CORNERS = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).repeat(1, 4)  # (4, 8)


def points(count: int, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 4, (count,), generator=generator)
    return Split(CORNERS[targets] + 0.5 * torch.randn((count, 8), generator=generator), targets)


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def score(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) == targets).float()


def task() -> Task:
    return Task(
        name="corners",
        metric="accuracy",
        classes=4,
        target_shape=(),
        cut_shape=(16,),
        head=lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1)),
        tail=lambda: nn.Sequential(nn.Dropout(0.2), nn.Linear(16, 4)),
        loss=loss,
        score=score,
        load=lambda: Dataset(points(200, 1), points(100, 2)),
    )
