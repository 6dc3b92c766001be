"""Idle heads: their parameters have no memory of their own.

A simulation has hundreds of devices in one process, of which a few train at a time. What an idle one learned
in its last round is not used again, so its parameters are views of the head as the run starts, which all
devices share.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn


class Resting:
    """Takes the memory of parameters away, and gives them new memory.

    Parameters that are not all float32 on the CPU keep their memory.

    Args:
        parameters: what is sent of a head.
        initial: their values, and maybe more, as the run starts, shape (P + S,); nobody writes to them.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], initial: npt.NDArray[np.float32]) -> None:
        self._parameters = parameters
        self._strides = [parameter.stride() for parameter in parameters]
        self._initial = initial
        self._rests = False

    def rest(self) -> None:
        """Let the parameters share the memory of the initial ones; nobody may write to them now."""
        if self._rests or not all(_takes_part(parameter) for parameter in self._parameters):
            return
        sizes = [parameter.numel() for parameter in self._parameters]
        shared = torch.split(torch.from_numpy(self._initial)[: sum(sizes)], sizes)
        for parameter, values in zip(self._parameters, shared, strict=True):
            parameter.data = values.view(parameter.shape)
        self._rests = True

    def wake(self) -> None:
        """Give the parameters memory of their own again, laid out as it was; their values are not set."""
        if self._rests:
            for parameter, strides in zip(self._parameters, self._strides, strict=True):
                parameter.data = torch.empty_strided(parameter.shape, strides)
        self._rests = False


def _takes_part(parameter: nn.Parameter) -> bool:
    return parameter.dtype == torch.float32 and parameter.device.type == "cpu"
