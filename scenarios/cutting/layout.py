"""How the output of a layer becomes a row of values for each sample, and back.

Codecs cut a row into sub-vectors of neighbouring values, and neighbouring channels of one pixel compress far
better than neighbouring pixels of one channel. So channels come last.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from scenarios.cutting.trees import Path

CHANNELS_FIRST = (_ConvNd, _NormBase, nn.GroupNorm)
"""Layers whose second dimension is that of channels."""


@dataclass(frozen=True)
class Layout:
    """How a tensor that a layer gives is laid out.

    Attributes:
        path: where it is in the layer's output.
        shape: with some number of rows, as the layer gives it.
        rows: the dimension of the rows, which are samples.
        channels: that of channels, which come last in z; -1: it stays as it is.
        dtype: of the layer's output; z is float32.
    """

    path: Path
    shape: tuple[int, ...]
    rows: int
    channels: int
    dtype: torch.dtype

    @property
    def cut_shape(self) -> tuple[int, ...]:
        """Shape of one sample's activation, channels last."""
        return tuple(self.shape[place] for place in self._order[1:])

    @property
    def size(self) -> int:
        """Values of one sample's activation."""
        return math.prod(self.cut_shape)

    def shape_of(self, n: int) -> tuple[int, ...]:
        """Give the layer's own shape with n rows."""
        return tuple(n if place == self.rows else size for place, size in enumerate(self.shape))

    @property
    def _order(self) -> list[int]:
        rest = [place for place in range(len(self.shape)) if place not in {self.rows, self.channels}]
        return [self.rows, *rest, *([self.channels] if self.channels >= 0 else [])]

    def flat(self, output: Tensor) -> Tensor:
        """Make z, shape (n, d), float32."""
        return output.permute(self._order).reshape(output.shape[self.rows], -1).float()

    def unflat(self, z: Tensor) -> Tensor:
        """Make the layer's own shape and dtype of z."""
        back = [self._order.index(place) for place in range(len(self.shape))]
        return z.reshape(len(z), *self.cut_shape).permute(back).to(self.dtype).contiguous()


def layout_of(path: Path, two: Tensor, three: Tensor, last: nn.Module | None) -> Layout | None:
    """Find out how a tensor is laid out; None if its rows are not samples.

    Args:
        path: where it is in the layer's output.
        two: what the layer gave for two samples.
        three: what it gave for three.
        last: the last layer with parameters before it: it says where the channels are.
    """
    shapes = tuple(two.shape), tuple(three.shape)
    if len(shapes[0]) != len(shapes[1]):
        return None
    differing = [place for place, sizes in enumerate(zip(*shapes, strict=True)) if sizes[0] != sizes[1]]
    if len(differing) != 1 or shapes[0][differing[0]] != 2:  # noqa: PLR2004
        return None
    maps = two.ndim > 2 and differing[0] == 0  # noqa: PLR2004
    first = isinstance(last, CHANNELS_FIRST) or (last is None and two.ndim == 4)  # noqa: PLR2004
    return Layout(path, shapes[0], differing[0], 1 if maps and first else -1, two.dtype)
