"""Random numbers of torch that hang on a seed alone, in threads side by side.

torch draws from one generator for the whole process unless an operation is given another. Two forward passes
at the same time would take numbers from each other, and a run would come out differently each time.
"""

import threading
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from scenarios.dispatch import Operations

_PROCESS_GENERATOR = threading.Lock()
CPU = torch.device("cpu")


class seeded(Operations):  # noqa: N801  # used like a function
    """Context manager in which all that this thread draws from torch comes from a generator of its own.

    It holds for dropout in all its forms (modules, functions, inside an LSTM or attention) and for
    `torch.rand` and its kin, and gives the very numbers that follow `torch.manual_seed(seed)`. Other threads
    draw at the same time, undisturbed, and the process's generator stays as it was. An operation to which
    the caller passes a generator draws from that one. A GPU has a generator of its own, whose numbers are
    others than the CPU's.

    Most operations that draw take a generator. To those that take none, such as `torch.rand`, the process's
    generator is lent, with the state of ours, while that one operation runs.

    Args:
        seed: of all draws, a non-negative integer below 2**64.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}  # by where the numbers are drawn

    def operation(self, func: OpOverload[..., Any], args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        """Draw from the generator of our own."""
        if torch.Tag.nondeterministic_seeded not in func.tags or given.get("generator") is not None:
            return func(*args, **given)
        place = given.get("device") or next((each.device for each in args if isinstance(each, Tensor)), CPU)
        if place.type == "meta":  # shapes without values: nothing is drawn
            return func(*args, **given)
        if place not in self._generators:
            self._generators[place] = generator_at(place).manual_seed(self._seed)
        own = self._generators[place]
        if any(argument.name == "generator" for argument in func._schema.arguments):  # noqa: SLF001
            return func(*args, **given | {"generator": own})
        process = process_generator(place)
        with _PROCESS_GENERATOR:
            others = process.get_rng_state()
            process.set_rng_state(own.get_state())
            try:
                return func(*args, **given)
            finally:
                own.set_state(process.get_rng_state())
                process.set_rng_state(others)


def generator_at(place: torch.device) -> torch.Generator:
    """Make a generator of numbers that are drawn at a place."""
    return torch.Generator(place)


def process_generator(place: torch.device) -> Any:
    """Give the module that has the state of the process's generator for a place."""
    return torch if place.type == "cpu" else torch.get_device_module(place)
