"""ResNets (He et al. 2016, arXiv 1512.03385) for pictures of 28 x 28, with 18 layers or other depths.

The one of 18 layers has a quarter of the usual channels: 701,178 parameters.
"""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from scenarios.task import Dataset
from scenarios.tasks import fashion_mnist

CLASSES = 10

Norm = Callable[[int], nn.Module]
"""Makes a layer that normalises so many channels."""


class Block(nn.Module):
    """Two convolutions with norms, and a way around them."""

    def __init__(self, inside: int, outside: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = norm(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = norm(outside)
        self.relu = nn.ReLU(inplace=True)
        self.around: nn.Module = nn.Identity()
        if stride != 1 or inside != outside:
            convolution = nn.Conv2d(inside, outside, 1, stride, bias=False)
            self.around = nn.Sequential(convolution, norm(outside))

    def forward(self, maps: Tensor) -> Tensor:
        """Give the next maps."""
        inner = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(maps)))))
        outputs: Tensor = self.relu(inner + self.around(maps))
        return outputs


class ResNet(nn.Module):
    """The whole network, with torchvision's names.

    As usual for small pictures the first convolution is 3 x 3, and no pooling follows it. Each stage has two
    blocks. All stages but the first halve height and width.

    Args:
        widths: channels of each stage.
        stride: of the first convolution.
        norm: makes the norms.
    """

    def __init__(self, widths: Sequence[int], stride: int = 1, norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, widths[0], 3, stride, 1, bias=False)
        self.bn1 = norm(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.stages = [f"layer{number}" for number in range(1, len(widths) + 1)]
        for name, (inside, outside) in zip(
            self.stages, itertools.pairwise([widths[0], *widths]), strict=True
        ):
            first = Block(inside, outside, 1 if name == "layer1" else 2, norm)
            self.add_module(name, nn.Sequential(first, Block(outside, outside, 1, norm)))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[-1], CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Give a value for each class."""
        maps = self.relu(self.bn1(self.conv1(images)))
        for name in self.stages:
            maps = self.get_submodule(name)(maps)
        outputs: Tensor = self.fc(self.avgpool(maps).flatten(1))
        return outputs


def build() -> nn.Module:
    """Make ResNet-18 with a quarter of its channels, and with batch norm."""
    return ResNet((16, 32, 64, 128))


def example() -> Tensor:
    """Give a few rows of inputs, for which no data are read."""
    return torch.zeros((3, 1, 28, 28))


def data() -> Dataset:
    """Read Fashion-MNIST."""
    return fashion_mnist.task(None).load()
