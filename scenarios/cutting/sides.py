"""Head and tail of a model that is cut at a layer: both run the model's own code, each a part of it.

The head leaves the model's forward pass when the layer has given its output. The tail runs the forward pass
from its beginning, but what comes before the cut has shapes only: its layers answer with empty tensors of
torch's device "meta", and the layer of the cut with what the device sent. So loops, branches, and whatever
else a forward pass may do need not be understood by anybody.
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.nn.modules.batchnorm import _NormBase

from scenarios.cutting.layout import Layout
from scenarios.cutting.trees import Path, at, mapped, tensors
from scenarios.dispatch import Operations

META = torch.device("meta")


class AroundError(Exception):
    """Something that was computed before the cut is used after it, and is not what crosses the cut."""


class _Reached(BaseException):
    """Leaves a forward pass; no `except Exception` of the model's holds it up, nor a head around it."""

    def __init__(self, layer: nn.Module, output: Any) -> None:
        self.layer = layer
        self.output = output


def _stop(layer: nn.Module, _args: object, output: Any) -> None:
    raise _Reached(layer, output)


class CutHead(nn.Module):
    """What a model does up to a layer: inputs (n, ...) -> z (n, d), float32, channels last.

    Args:
        model: the whole one; it is this head's from now on, and loses the parameters that the tail has.
        layer: name of the layer whose output crosses the cut.
        layout: how that becomes z.
        keep: names of the head's parameters and buffers.

    Attributes:
        layer: see Args.
    """

    def __init__(self, model: nn.Module, layer: str, layout: Layout, keep: Collection[str]) -> None:
        super().__init__()
        leave_only(model, keep)
        model.get_submodule(layer).register_forward_hook(_stop)
        self.model = model
        self.layer = layer
        self._layout = layout

    def forward(self, inputs: Tensor) -> Tensor:
        """Give what crosses the cut."""
        try:
            self.model(inputs)
        except _Reached as reached:
            if reached.layer is not self.model.get_submodule(self.layer):
                raise  # a head may be cut once more
            return self._layout.flat(at(reached.output, self._layout.path))
        raise RuntimeError("the layer of the cut was not called")


class _Answer:
    """Takes the place of a layer's forward: gives empty tensors, or at the cut what crossed it.

    Args:
        crossing: see there.
        layouts: of each tensor that the layer gives, in the form in which it gives them.
        form: what it gave when it was watched, as tensors without values.
        at_cut: where in it is what crosses the cut; None: the layer is not that of the cut.
    """

    def __init__(
        self, crossing: "Crossing", form: Any, layouts: Mapping[Path, Layout], at_cut: Path | None
    ) -> None:
        self._crossing = crossing
        self._form = form
        self._layouts = layouts
        self._at_cut = at_cut

    def __call__(self, *_args: object, **_kwargs: object) -> Any:
        def give(path: Path, tensor: Tensor) -> Tensor:
            if path == self._at_cut:
                return self._crossing.value
            if path not in self._layouts:  # does not hang on the rows
                return tensor
            return tensor.new_empty(self._layouts[path].shape_of(self._crossing.n))

        answer = mapped(self._form, give)
        if self._at_cut is not None:
            self._crossing.reached = True
        return answer


class Crossing:
    """What crosses the cut in the pass under way.

    Attributes:
        value: in the layer's own shape.
        n: rows of it.
        reached: whether the layer of the cut has been called.
    """

    value: Tensor
    n: int
    reached: bool = False


class _Shapes(Operations):
    """Computes only shapes of what hangs on tensors without values, and all else as ever."""

    _SHAPED = ("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full")

    def __init__(self, crossing: Crossing) -> None:
        super().__init__()
        self._crossing = crossing

    def operation(self, func: OpOverload[..., Any], args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        """Compute an operation, or its shape alone."""
        found = [tensor for _, tensor in tensors((args, given))]
        empty = [tensor for tensor in found if tensor.is_meta]
        name = func.__name__.partition(".")[0]
        if name in self._SHAPED:  # not their argument's values, only its shape
            return func(*args, **given | {"device": self._crossing.value.device})
        if not empty or (name == "_to_copy" and len(empty) < len(found)):
            if given.get("device") == META:  # device=inputs.device: positions, masks
                given["device"] = self._crossing.value.device
            return func(*args, **given)
        real = [tensor for tensor in found if not tensor.is_meta]
        if self._crossing.reached and any(tensor.ndim for tensor in real):
            raise AroundError(name)
        if real:
            args, given = mapped((args, given), lambda _path, tensor: tensor.to(META))
        return func(*args, **given)


class CutTail(nn.Module):
    """What a model does after a layer: z (n, d) -> the model's outputs.

    Args:
        model: the whole one; it is this tail's from now on, and loses the parameters that the head has.
        layer: name of the layer whose output crosses the cut.
        layout: how that became z.
        keep: names of the tail's parameters and buffers.
        answers: what the layers give that lie before the cut, and that of the cut, by name.
        inputs: an empty tensor like the model's inputs, any number of rows.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: str,
        layout: Layout,
        keep: Collection[str],
        answers: Mapping[str, tuple[Any, Mapping[Path, Layout]]],
        inputs: Tensor,
    ) -> None:
        super().__init__()
        leave_only(model, keep)
        self._crossing = Crossing()
        self._layout = layout
        self._inputs = inputs
        for name, (form, layouts) in answers.items():
            at_cut = layout.path if name == layer else None
            model.get_submodule(name).forward = _Answer(self._crossing, form, layouts, at_cut)
        self.model = model

    def forward(self, z: Tensor) -> Any:
        """Give the model's outputs.

        Raises:
            AroundError: something else than z would have to cross the cut.
        """
        crossing = self._crossing
        if z.requires_grad and z.is_leaf:
            z = z.clone()  # the next layer may work in place
        crossing.n, crossing.value, crossing.reached = len(z), self._layout.unflat(z), False
        inputs = torch.empty((len(z), *self._inputs.shape[1:]), dtype=self._inputs.dtype, device=META)
        with _Shapes(crossing):
            outputs = self.model(inputs)
        del crossing.value
        if any(tensor.is_meta for _, tensor in tensors(outputs)):
            raise AroundError("the output")
        return outputs


def leave_only(model: nn.Module, keep: Collection[str]) -> None:
    """Take parameters and buffers from a model, which then has empty tensors without values in their place.

    Those are no parameters: they need no memory, and code that asks for their shape or dtype goes on.
    """
    for prefix, module in list(model.named_modules(remove_duplicate=False)):
        if isinstance(module, _NormBase) and f"{prefix}.num_batches_tracked".lstrip(".") not in keep:
            module.track_running_stats = False  # else it adds its counter to every state that is loaded
        for own in (module._parameters, module._buffers):  # noqa: SLF001
            for name, tensor in list(own.items()):
                if tensor is None or f"{prefix}.{name}".lstrip(".") in keep:
                    continue
                del own[name]
                setattr(module, name, tensor.detach().to(META))
