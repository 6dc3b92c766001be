"""Parameters of 16 bits: what they lose of a small step is kept in a float32 master beside each.

So it is with mixed precision (Micikevicius et al. 2018, arXiv 1710.03740): a step at a usual learning rate is
smaller than half of a 16-bit number's last place, and would be lost. Devices and server exchange masters.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

HALF = (torch.float16, torch.bfloat16)
_MASTER = "master_of_16_bits"
"""Attribute of a parameter that has one."""


def exact(tensor: Tensor) -> Tensor:
    """Give a parameter's master; a tensor that has none as it is."""
    master: Tensor = getattr(tensor, _MASTER, tensor)
    return master


@torch.no_grad()
def set_exact(tensor: Tensor, values: Tensor) -> None:
    """Set a tensor, and the master of one of 16 bits, to float32 values of its shape."""
    tensor.copy_(values)
    if isinstance(tensor, nn.Parameter) and tensor.dtype in HALF:
        setattr(tensor, _MASTER, nn.Parameter(values.to(tensor.device, torch.float32, copy=True)))


def masters(module: nn.Module) -> dict[str, Tensor]:
    """Give the masters of a module's parameters by their names."""
    named = dict(module.named_parameters(remove_duplicate=False))
    return {name: exact(own) for name, own in named.items() if exact(own) is not own}


def load_masters(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Set the parameters of 16 bits, and their masters, to what a state has as float32."""
    for name, own in module.named_parameters(remove_duplicate=False):
        if own.dtype in HALF and state[name].dtype == torch.float32:
            set_exact(own, state[name])


@contextmanager
def mastered(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Give what is to be moved, with gradients: masters in place of those of 16 bits, which follow them."""
    moving: list[nn.Parameter] = []
    for parameter in parameters:
        if parameter.dtype in HALF:
            if exact(parameter) is parameter:
                set_exact(parameter, parameter.detach().float())
            master = exact(parameter)
            assert isinstance(master, nn.Parameter)
            master.grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None
            moving.append(master)
        else:
            moving.append(parameter)
    yield moving
    with torch.no_grad():
        for parameter, moved in zip(parameters, moving, strict=True):
            if moved is not parameter:
                parameter.copy_(moved)
                moved.grad = None
