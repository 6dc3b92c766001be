"""Where torch computes: on the CPU, or on a GPU. What crosses from one to the other does so here.

Messages, codecs, data, metrics and checkpoints are always on the CPU. So a batch is copied to where a module
is, and what comes out is copied back.
"""

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from scenarios.errors import ScenarioError
from scenarios.schema.scenario import Place

CPU = torch.device("cpu")


def place_named(name: Place, key: str) -> torch.device:
    """Give the place that a scenario names.

    Args:
        name: auto is the first GPU that is there, else the CPU.
        key: of the scenario that names it, for the message.

    Raises:
        ScenarioError: there is no such GPU here, or this build of torch knows none.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, is_there in there.items() if is_there))
    if not there[name]:
        build = f"torch {torch.__version__} finds none"
        raise ScenarioError(f"{name} is asked for, but {build} on this machine; write cpu, or auto", key=key)
    return torch.device(name)


def place_of(*modules: nn.Module) -> torch.device:
    """Give the place of the first parameter or buffer of some modules; the CPU if they have none."""
    tensors = itertools.chain.from_iterable((*module.parameters(), *module.buffers()) for module in modules)
    return next((tensor.device for tensor in tensors), CPU)


def placed(values: Any, place: torch.device) -> Any:
    """Give a tensor, or a dict, tuple or list of them, at a place; each itself if it is there already."""
    match values:
        case Tensor():
            return values.to(place)
        case dict():
            return {name: placed(each, place) for name, each in values.items()}
        case tuple() | list():
            moved = [placed(each, place) for each in values]
            return type(values)(*moved) if hasattr(values, "_fields") else type(values)(moved)
        case _:
            return values


def on_cpu(tensor: Tensor) -> Tensor:
    """Give a tensor without its history on the CPU; it shares the memory of one that is there already."""
    return tensor.detach().to(CPU)
