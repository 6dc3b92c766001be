"""The digits with the activations of the paper's CNN, 12 x 12 x 64, and next to no computation around them.

For benchmarks of the network: what travels is as large as ever, and a busy machine hardly disturbs.
"""

from dataclasses import replace

from torch import nn

from scenarios.models.femnist_cnn import FlattenChannelsLast
from scenarios.task import Task
from scenarios.tasks import digits28


def task() -> Task:
    """Give the task `wide`: one convolution as head, a linear tail."""
    return replace(
        digits28.task(None),
        name="wide",
        head=lambda: nn.Sequential(nn.Conv2d(1, 64, 5, stride=2), nn.ReLU(), FlattenChannelsLast()),
        tail=lambda: nn.Linear(9216, 10),
        top=None,
        features_shape=(),
    )
