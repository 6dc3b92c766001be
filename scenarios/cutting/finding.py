"""Finds out, with a few rows, what each side of a cut has, and how its values are laid out."""

import copy
import difflib
from typing import Any

import torch
from torch import Tensor, nn

from scenarios.cutting.cut import Build, Cut, CutError, three_rows, whole
from scenarios.cutting.layout import Layout, layout_of
from scenarios.cutting.sides import META, AroundError
from scenarios.cutting.trees import Path, mapped, tensors
from scenarios.cutting.watching import Call, Seen, watch
from scenarios.seeded import seeded

TOLERANCE = 1e-3
"""Of head and tail together against the whole model; sums in another order differ far less."""
MOST_NAMES = 12
"""Of layers, in a message."""


def find_cut(build: Build, layer: str, inputs: Tensor) -> Cut:
    """Cut a model behind the layer that is named.

    Args:
        build: makes the whole model.
        layer: its name, as in `named_modules()`.
        inputs: at least one row, shape (n, ...).

    Raises:
        CutError: there is no such layer, or more than its output would have to cross the cut.
    """
    inputs = three_rows(inputs)
    model = whole(build, inputs)
    trained = {name for name, value in model.named_parameters(remove_duplicate=False) if value.requires_grad}
    model.eval().requires_grad_(requires_grad=False)
    found = dict(model.named_modules())
    if not layer or layer not in found:
        raise CutError(f"no layer '{layer}'{_nearest(layer, model, inputs)}")
    with seeded(0):
        seen, two = _passes(model, inputs, found[layer], layer)
    layout = _crossing(found[layer], seen, two, layer)
    head_keeps, tail_keeps = _shares(model, seen, trained, layer)
    cut = Cut(
        layer,
        layout,
        head_keeps,
        tail_keeps,
        mapped(seen.output, lambda _path, tensor: tensor.detach().to(META)),
        build,
        inputs,
        _answers(model, seen, two, layer),
    )
    _try(cut, model, seen)
    return cut


def _passes(model: nn.Module, inputs: Tensor, module: nn.Module, layer: str) -> tuple[Seen, Seen]:
    """Watch three rows and two go through a model, to tell the rows from other dimensions."""
    try:
        seen = watch(model, inputs, module)
    except Exception as error:  # whatever the user's code raises
        text = " ".join(str(error).split())
        raise CutError(
            f"fails, given inputs of shape {tuple(inputs.shape)}: {type(error).__name__}: {text}"
        ) from error
    times = len(seen.called(module))
    if times != 1:
        how = f"called {times} times" if times else "not called itself"
        raise CutError(f"'{layer}' is {how} when a batch goes through; name a layer that is called once")
    return seen, watch(model, inputs[:2], module)


def _crossing(module: nn.Module, seen: Seen, two: Seen, layer: str) -> Layout:
    """Give the one tensor that crosses the cut."""
    if not seen.used:
        raise CutError(
            f"the output does not depend on what '{layer}' gives; name a layer before the last one"
        )
    if len(seen.used) > 1:
        raise CutError(
            f"'{layer}' gives {len(seen.used)} tensors that are used after it, one can be sent; "
            "name a layer after those that take them"
        )
    (path,) = seen.used
    (call,), (smaller,) = seen.called(module), two.called(module)
    three = dict(tensors(call.output))[path]
    last = next(
        (
            each.module
            for each in reversed(seen.calls)
            if each.before and list(each.module.parameters(recurse=False))
        ),
        None,
    )
    layout = layout_of(path, dict(tensors(smaller.output))[path], three, last)
    if layout is None:
        shape = tuple(three.shape)
        raise CutError(f"'{layer}' gives shape {shape} for 3 samples: one dimension must be that of samples")
    return layout


def _shares(
    model: nn.Module, seen: Seen, trained: set[str], layer: str
) -> tuple[frozenset[str], frozenset[str]]:
    """Give the names of the parameters and buffers of both sides.

    What no operation has used goes where the rest of its module is, or to the tail.
    """
    head, tail = set[str](), set[str]()
    for prefix, module in model.named_modules(remove_duplicate=False):
        own = {
            f"{prefix}.{name}".lstrip("."): tensor
            for name, tensor in (*module._parameters.items(), *module._buffers.items())  # noqa: SLF001
            if tensor is not None
        }
        begins = {id(tensor) for tensor in own.values()}
        only_before = bool(begins & seen.before) and not begins & seen.after
        for name, tensor in own.items():
            before, after = id(tensor) in seen.before, id(tensor) in seen.after
            if before and after and name in trained:
                raise CutError(
                    f"{name} is used before and after '{layer}', but devices train the head, the server the "
                    "tail; untie it, freeze it (requires_grad=False), or cut elsewhere"
                )
            if before or (only_before and not after):
                head.add(name)
            if after or not (before or only_before):
                tail.add(name)
            if before and isinstance(tensor, Tensor) and name not in trained and not _is_called(seen, module):
                tail.add(name)  # masks and positions of a module that contains the cut
    return frozenset(head), frozenset(tail)


def _is_called(seen: Seen, module: nn.Module) -> bool:
    """Say whether all calls of a module, of which there are some, were over before the cut."""
    calls = seen.called(module)
    return bool(calls) and all(call.ended_before for call in calls)


def _answers(
    model: nn.Module, seen: Seen, two: Seen, layer: str
) -> dict[str, tuple[Any, dict[Path, Layout]]]:
    """Give what the tail needs of the layers before the cut, and of the cut: the forms of their outputs."""
    answers: dict[str, tuple[Any, dict[Path, Layout]]] = {}
    for name, module in model.named_modules():
        calls, smaller = seen.called(module), two.called(module)
        if len(calls) != 1 or len(smaller) != 1 or not calls[0].ended_before or not name:
            continue
        if any(name.startswith(f"{outer}.") for outer in answers):
            continue
        layouts = _layouts(calls[0], smaller[0])
        if layouts is not None or name == layer:
            form = mapped(calls[0].output, lambda _path, tensor: tensor.detach().to(META))
            answers[name] = form, layouts or {}
    return answers


def _layouts(three: Call, two: Call) -> dict[Path, Layout] | None:
    """Give the layouts of the tensors in an output; None if there is one whose rows are not samples."""
    smaller = dict(tensors(two.output))
    layouts = {}
    for path, tensor in tensors(three.output):
        layout = layout_of(path, smaller[path], tensor, None) if path in smaller else None
        if layout is None:
            return None
        layouts[path] = layout
    return layouts


def _nearest(layer: str, model: nn.Module, inputs: Tensor) -> str:
    """Give the end of a sentence about a layer that is none: names of layers, the nearest first."""
    with seeded(0):
        seen = watch(model, inputs)
    named = [name for name, module in model.named_modules() if name and len(seen.called(module)) == 1]
    named.sort(key=lambda name: -difflib.SequenceMatcher(None, layer.lower(), name.lower()).ratio())
    more = f" and {len(named) - MOST_NAMES} more" if len(named) > MOST_NAMES else ""
    return f"; layers, the nearest name first: {', '.join(named[:MOST_NAMES])}{more}"


def _try(cut: Cut, model: nn.Module, seen: Seen) -> None:
    """Send rows through head and tail, and compare with the whole model."""
    with torch.no_grad(), seeded(0):
        z = cut.head_of(copy.deepcopy(model))(cut.inputs)
        try:
            outputs = cut.tail_of(copy.deepcopy(model))(z)
        except AroundError as error:
            raise CutError(
                f"a value from before '{cut.layer}' is used after it, too (in {error}), as by a skip "
                "connection or a mask made of the inputs; name a layer that everything goes through"
            ) from error
        except Exception as error:  # whatever the user's code does with tensors without values
            text = " ".join(str(error).split())[:200]
            raise CutError(
                f"what comes before '{cut.layer}' must not look at values outside of layers: the server has "
                f"none of them ({type(error).__name__}: {text})"
            ) from error
    pairs = zip(tensors(outputs), tensors(seen.output), strict=True)
    if not all(_alike(one, other) for (_, one), (_, other) in pairs):
        with torch.no_grad(), seeded(0):
            again = model(cut.inputs)
        if all(
            _alike(one, other)
            for (_, one), (_, other) in zip(tensors(again), tensors(seen.output), strict=True)
        ):
            raise CutError(
                f"cut at '{cut.layer}', head and tail give other outputs than the whole model: something "
                "else than the layer's output goes from one side to the other; name another layer"
            )


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(
        one.detach().float(), other.detach().float(), rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True
    )
