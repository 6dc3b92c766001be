"""Every operation of torch that a thread does, to be noted or done in another way."""

from collections.abc import Mapping
from typing import Any

from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context manager in which torch hands each operation of the thread to `operation`, about 10 us each."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()  # type: ignore[no-untyped-call]  # torch's has no types

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
        return self.operation(func, args, dict(kwargs or {}))

    def operation(self, func: OpOverload[..., Any], args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        """Do an operation, or something in its place, and give what comes of it.

        Args:
            func: the operation.
            args: its arguments by position.
            given: those by name; may be changed.
        """
        raise NotImplementedError
