"""What of a head is trained, what is sent, and what stays where it is.

Parameters that are frozen (requires_grad=False) and constant buffers are never sent: both sides make them.
The running statistics of batch norm travel with the parameters; or, as in FedBN (Li et al. 2021, arXiv
2102.07623), all that belongs to batch norm stays on each device.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from broker.codecs.heads.matrices import Shape, matrix_shape
from scenarios.computing.placing import on_cpu
from scenarios.heads.auxiliary import WithAuxiliary
from scenarios.heads.masters import exact, set_exact
from scenarios.task import Task
from scenarios.u_shape import Ends

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_HOME = "stays_on_device"
"""Attribute of a layer whose parameters and statistics are each device's own."""
_PAUSED = "takes_one_now"
"""Attribute of a layer that take_one has seen to."""


def norms(module: nn.Module) -> list[_NormBase]:
    """Give the layers that keep running statistics, or normalise a batch by its own."""
    return [layer for layer in module.modules() if isinstance(layer, _NormBase)]


def learns(module: nn.Module) -> bool:
    """Say whether any parameter is trained."""
    return any(parameter.requires_grad for parameter in module.parameters())


def trained(head: nn.Module) -> list[nn.Parameter]:
    """Give the parameters that a device trains."""
    return [parameter for parameter in head.parameters() if parameter.requires_grad]


def sent_parameters(head: nn.Module) -> list[nn.Parameter]:
    """Give the parameters that devices and server exchange."""
    at_home = {id(tensor) for layer in _at_home(head) for tensor in layer.parameters(recurse=False)}
    return [parameter for parameter in trained(head) if id(parameter) not in at_home]


def sent_statistics(head: nn.Module) -> list[Tensor]:
    """Give the running statistics that devices and server exchange: those of layers that are not frozen."""
    at_home = {id(layer) for layer in _at_home(head)}
    layers = [layer for layer in norms(head) if id(layer) not in at_home and not _is_frozen(layer, head)]
    return [tensor for layer in layers for tensor in _statistics(layer)]


def kept_at_home(head: nn.Module) -> list[Tensor]:
    """Give what each device has for itself, parameters and statistics; not copies."""
    layers = _at_home(head)
    return [tensor for layer in layers for tensor in (*layer.parameters(recurse=False), *_statistics(layer))]


def constants(head: nn.Module) -> dict[str, Tensor]:
    """Give the buffers that are no running statistics, by name; nobody sends them: they must not change."""
    counted = {id(tensor) for layer in norms(head) for tensor in _statistics(layer)}
    return {name: buffer for name, buffer in head.named_buffers() if id(buffer) not in counted}


def with_norms_at_home(task: Task) -> Task:
    """Let every device keep its batch norm, parameters and statistics, for itself."""

    def head() -> nn.Module:
        made = task.head()
        for layer in norms(made):
            if isinstance(layer, _BatchNorm):
                setattr(layer, _HOME, True)
        return made

    return replace(task, head=head)


def to_train(head: nn.Module) -> None:
    """Set the mode for training: layers whose parameters are frozen keep their statistics as they are."""
    head.train()
    for layer in norms(head):
        if _is_frozen(layer, head):
            layer.eval()


def take_one(module: nn.Module) -> nn.Module:
    """Let batch norm take a batch of one value for each channel, which has no statistics: it uses its own.

    torch refuses such a batch in training. Others are normalised as ever.
    """
    for layer in norms(module):
        if isinstance(layer, _BatchNorm) and not hasattr(layer, _PAUSED) and layer.track_running_stats:
            setattr(layer, _PAUSED, False)
            layer.register_forward_pre_hook(_pause)
            layer.register_forward_hook(_resume)
    return module


def _pause(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
    if layer.training and args[0].numel() == args[0].shape[1]:
        setattr(layer, _PAUSED, True)
        layer.training = False


def _resume(layer: nn.Module, _args: object, _output: object) -> None:
    if getattr(layer, _PAUSED):
        setattr(layer, _PAUSED, False)
        layer.training = True


@contextmanager
def by_batch(head: nn.Module) -> Iterator[None]:
    """Let batch norm that devices have for themselves, and the server has not, normalise by the batch.

    That is what a device would have that joins now, with a first batch like the test's.
    """
    layers = [layer for layer in _at_home(head) if layer.track_running_stats]
    for layer in layers:
        layer.train()
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.eval()
            layer.track_running_stats = True


@contextmanager
def buffers_kept(head: nn.Module) -> Iterator[None]:
    """Have the same buffers afterwards, whatever was sent through; a way back is still open."""
    before = [buffer.clone() for buffer in head.buffers()]
    yield
    for buffer, value in zip(head.buffers(), before, strict=True):
        buffer.data.copy_(value)  # not an operation on the buffer, of which the way back would complain


def _at_home(head: nn.Module) -> list[_NormBase]:
    return [layer for layer in norms(head) if getattr(layer, _HOME, False)]


def _is_frozen(layer: nn.Module, head: nn.Module) -> bool:
    own = list(layer.parameters(recurse=False))
    return not learns(head) if not own else not any(parameter.requires_grad for parameter in own)


def _statistics(layer: nn.Module) -> list[Tensor]:
    found = (layer._buffers.get(name) for name in STATISTICS)  # noqa: SLF001
    return [tensor for tensor in found if tensor is not None]


def embeddings(head: nn.Module, parameters: Sequence[nn.Parameter]) -> dict[int, nn.Module]:
    """Give the embeddings whose weights are among parameters and are nobody else's, by the place there."""
    owners = Counter(id(parameter) for _, parameter in head.named_parameters(remove_duplicate=False))
    places = {id(parameter): number for number, parameter in enumerate(parameters)}
    found = [layer for layer in head.modules() if isinstance(layer, nn.Embedding | nn.EmbeddingBag)]
    return {
        places[id(layer.weight)]: layer
        for layer in found
        if id(layer.weight) in places and owners[id(layer.weight)] == 1
    }


class HeadForm(NamedTuple):
    """How much is sent of a head.

    Attributes:
        parameters: P.
        statistics: S, of batch norm.
        learns: the gradient at the cut is of use; not if all before it is frozen.
        shapes: of the parameter tensors that are sent, as matrices; see broker.codecs.heads.matrices.
    """

    parameters: int
    statistics: int = 0
    learns: bool = True
    shapes: tuple[Shape, ...] = ()


def form_of(head: nn.Module) -> HeadForm:
    """Give how much is sent of a head."""
    sent = sent_parameters(head)
    looked_up = embeddings(head, sent)
    return HeadForm(
        sum(parameter.numel() for parameter in sent),
        sum(tensor.numel() for tensor in sent_statistics(head)),
        learns(head.head if isinstance(head, Ends | WithAuxiliary) else head),
        tuple(
            matrix_shape(parameter.shape, embedding=number in looked_up)
            for number, parameter in enumerate(sent)
            if parameter.numel()
        ),
    )


def vector_of(head: nn.Module) -> Tensor:
    """Copy what is sent of a head into one vector, shape (P + S,), float32: parameters, then statistics."""
    with torch.no_grad():
        parts = [*sent_parameters(head), *sent_statistics(head)]
        return torch.cat([torch.empty(0), *(on_cpu(exact(part)).reshape(-1).float() for part in parts)])


@torch.no_grad()
def load_vector(head: nn.Module, vector: Tensor) -> None:
    """Set what is sent of a head from a vector as `vector_of` gives it; memory layouts stay.

    Counters become whole numbers, and nothing that must not be below 0 is.

    Raises:
        ValueError: the vector is of another length.
    """
    parameters, statistics = sent_parameters(head), sent_statistics(head)
    sizes = [part.numel() for part in (*parameters, *statistics)]
    if vector.shape != (sum(sizes),):
        raise ValueError(f"a vector of shape {tuple(vector.shape)} for {sum(sizes)} parameters")
    parts = torch.split(vector, sizes)
    means = {id(layer.running_mean) for layer in norms(head)}
    for own, values in zip((*parameters, *statistics), parts, strict=True):
        shaped = values.view(own.shape)
        if not isinstance(own, nn.Parameter) and id(own) not in means:
            shaped = shaped.clamp(min=0)
        set_exact(own, shaped if own.is_floating_point() else shaped.round())
