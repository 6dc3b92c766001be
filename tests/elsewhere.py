"""A second place to compute, made of the CPU: tensors that say that they are elsewhere, and mind it.

As on a GPU, an operation takes tensors of one place only (single numbers apart), numpy does not see them, and
only `to` and `copy_` carry values over. What is computed there has the bits of the CPU. So code that is right
for a GPU gives the CPU's results here, and code that is not raises an error as on a GPU.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

PLACE = torch.device("lazy")
"""A kind of device that every build of torch knows, and that nothing else here uses."""


class ElsewhereTensor(Tensor):
    """A tensor of that place; `held` has its values, on the CPU."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: Tensor) -> Self:  # noqa: ANN001
        return Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=PLACE,
        )

    def __init__(self, inner: Tensor) -> None:
        self.held = inner

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: OpOverload[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given, name = dict(kwargs or {}), str(func)
        if name == "aten._to_copy.default":
            place = given.pop("device", None)
            copied = func(args[0].held, **given)
            return copied if place is not None and torch.device(place).type == "cpu" else cls(copied)
        tensors: list[Tensor] = []
        tree_map(lambda each: tensors.append(each) if isinstance(each, Tensor) else None, (args, given))
        if any(not isinstance(each, cls) and each.dim() for each in tensors) and name != "aten.copy_.default":
            raise RuntimeError(f"Expected all tensors to be on the same device, in {name}")
        if given.get("device") is not None:
            given["device"] = torch.device("cpu")
        known = {id(each.held): each for each in tensors if isinstance(each, cls)}

        def inner(value: Any) -> Any:
            return value.held if isinstance(value, cls) else value

        def outer(value: Any) -> Any:
            return known.get(id(value)) if id(value) in known else cls(value)

        result = func(*tree_map(inner, args), **tree_map(inner, given))
        if name == "aten.copy_.default" and not isinstance(args[0], cls):
            return args[0]
        return tree_map(lambda each: outer(each) if isinstance(each, Tensor) else each, result)


class elsewhere(TorchDispatchMode):  # type: ignore[no-untyped-call]  # noqa: N801  # used like a function
    """Context manager in which this thread may carry tensors to that place, or make them there."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self,
        func: OpOverload[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        place = given.get("device")
        is_there = args and isinstance(args[0], ElsewhereTensor)
        if place is None or torch.device(place) != PLACE or is_there:
            return func(*args, **given)
        return ElsewhereTensor(func(*args, **given | {"device": torch.device("cpu")}))
