"""Pictures of digits made 4 x 4 pixels small, and next to nothing to compute: for benchmarks of messages."""

from dataclasses import replace

from torch import nn

from scenarios.task import Task
from scenarios.tasks import digits28

CUT = 32


def task() -> Task:
    """Give the task `tiny`: a linear head with 544 parameters, a linear tail with 330."""
    return replace(
        digits28.task(None),
        name="tiny",
        cut_shape=(CUT,),
        head=lambda: nn.Sequential(nn.AvgPool2d(7), nn.Flatten(), nn.Linear(16, CUT)),
        tail=lambda: nn.Linear(CUT, 10),
        top=None,
        features_shape=(),
    )
