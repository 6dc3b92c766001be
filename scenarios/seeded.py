"""Random numbers of torch that hang on a seed alone, in threads side by side.

torch draws from one generator for the whole process unless an operation is given another. Two forward passes
at the same time would take numbers from each other, and a run would come out differently each time.
"""

import threading
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

_PROCESS_GENERATOR = threading.Lock()


class seeded(TorchDispatchMode):  # type: ignore[no-untyped-call]  # noqa: N801  # used like a function
    """Context manager in which all that this thread draws from torch comes from a generator of its own.

    It holds for dropout in all its forms (modules, functions, inside an LSTM or attention) and for
    `torch.rand` and its kin, and gives the very numbers that follow `torch.manual_seed(seed)`. Other threads
    draw at the same time, undisturbed, and the process's generator stays as it was. An operation to which
    the caller passes a generator draws from that one.

    torch hands each operation of the thread to `__torch_dispatch__`, about 10 us each. Most operations that
    draw take a generator. To those that take none, such as `torch.rand`, the process's generator is lent,
    with the state of ours, while that one operation runs.

    Args:
        seed: of all draws, a non-negative integer below 2**64.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seed = seed

    @cached_property
    def _generator(self) -> torch.Generator:
        """Is made when it is first needed: most forward passes draw nothing."""
        return torch.Generator().manual_seed(self._seed)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keep torch from loading its compiler just to tell it to leave us alone: 70 MB and a second."""
        return False

    def __torch_dispatch__(
        self,
        func: OpOverload[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded not in func.tags or given.get("generator") is not None:
            return func(*args, **given)
        if any(argument.name == "generator" for argument in func._schema.arguments):  # noqa: SLF001
            return func(*args, **given | {"generator": self._generator})
        with _PROCESS_GENERATOR:
            others = torch.get_rng_state()
            torch.set_rng_state(self._generator.get_state())
            try:
                return func(*args, **given)
            finally:
                self._generator.set_state(torch.get_rng_state())
                torch.set_rng_state(others)
