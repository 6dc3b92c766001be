"""ResNet-18 (He et al. 2016, arXiv 1512.03385) for pictures of 28 x 28, with a quarter of its channels.

As usual for small pictures the first convolution is 3 x 3, and no pooling follows it. 701,178 parameters.
"""

import itertools

from torch import Tensor, nn

from scenarios.task import Dataset
from scenarios.tasks import fashion_mnist

WIDTH = 16
CLASSES = 10


class Block(nn.Module):
    """Two convolutions with batch norm, and a way around them."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.relu = nn.ReLU(inplace=True)
        self.around: nn.Module = nn.Identity()
        if stride != 1 or inside != outside:
            convolution = nn.Conv2d(inside, outside, 1, stride, bias=False)
            self.around = nn.Sequential(convolution, nn.BatchNorm2d(outside))

    def forward(self, maps: Tensor) -> Tensor:
        """Give the next maps."""
        inner = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(maps)))))
        outputs: Tensor = self.relu(inner + self.around(maps))
        return outputs


class ResNet(nn.Module):
    """The whole network, with torchvision's names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, WIDTH, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTH)
        self.relu = nn.ReLU(inplace=True)
        widths = [WIDTH, WIDTH, 2 * WIDTH, 4 * WIDTH, 8 * WIDTH]
        for number, (inside, outside) in enumerate(itertools.pairwise(widths), start=1):
            stride = 1 if number == 1 else 2
            layer = nn.Sequential(Block(inside, outside, stride), Block(outside, outside, 1))
            self.add_module(f"layer{number}", layer)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8 * WIDTH, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Give a value for each class."""
        maps = self.relu(self.bn1(self.conv1(images)))
        for number in range(1, 5):
            maps = self.get_submodule(f"layer{number}")(maps)
        outputs: Tensor = self.fc(self.avgpool(maps).flatten(1))
        return outputs


build = ResNet


def data() -> Dataset:
    """Read Fashion-MNIST."""
    return fashion_mnist.task(None).load()
