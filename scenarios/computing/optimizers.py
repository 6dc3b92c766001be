"""How parameters are moved: SGD, Adam and AdamW on either side, and the server's move of its averaged head.

The rules are torch.optim's, operation by operation, so that they give the same bits. They are written out
because an optimizer of torch.optim loads torch's compiler: 80 MB and more than a second in every process, too
much for a small device.
"""

import math
from collections.abc import Mapping, Sequence

import msgspec
import torch
from torch import Tensor, nn

from scenarios.schema.optimizers import (
    Adam,
    AdamW,
    Optimizer,
    ServerAdam,
    ServerOptimizer,
    ServerSgd,
    ServerYogi,
    Sgd,
)


class Moment(msgspec.Struct):
    """What a rule remembers of one parameter.

    Attributes:
        steps: that the parameter has taken.
        averages: shaped like the parameter. Of SGD with momentum its last move; of Adam, AdamW and Yogi the
            averages of the gradient and of its square; none before the first step.
    """

    steps: int = 0
    averages: list[Tensor] = []


Moments = list[Moment]
"""Of each parameter, in their order; empty before the first step."""


PLAIN = Sgd()
"""SGD that remembers nothing and takes the gradient as it is."""


@torch.no_grad()
def step(
    parameters: Sequence[nn.Parameter],
    optimizer: Optimizer,
    moments: Moments,
    lr: float,
    *,
    weight: float = 1.0,
) -> None:
    """Move parameters by one step of a rule against their gradients, and clear these for the next step.

    A parameter without a gradient stays, and what is remembered of it does, too. What would be remembered but
    is not finite, as the square of a huge gradient, is forgotten: the parameter would never move again.

    Args:
        parameters: of a head or a tail. Their gradients may be written over.
        optimizer: the rule.
        moments: what it remembers of them; it is changed.
        lr: the learning rate.
        weight: the gradients are sums over samples of so much weight together, and the rule is for a mean.
    """
    if optimizer == PLAIN:
        _descend(parameters, lr / weight)
        return
    if not moments:
        moments.extend(Moment(0, []) for _ in parameters)
    moving = [(p, p.grad, m) for p, m in zip(parameters, moments, strict=True) if p.grad is not None]
    if weight != 1.0:
        for _, gradient, _ in moving:
            gradient.div_(weight)
    if optimizer.clip_norm is not None:
        _clip([gradient for _, gradient, _ in moving], optimizer.clip_norm)
    for parameter, gradient, moment in moving:
        moment.steps += 1
        if isinstance(optimizer, Sgd):
            _sgd(parameter, gradient, moment, optimizer, lr)
        else:
            _adam(parameter, gradient, moment, optimizer, lr)
        if not _is_finite(moment):
            moment.steps, moment.averages = 0, []
        parameter.grad = None


def _descend(parameters: Sequence[nn.Parameter], lr: float) -> None:
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.add_(parameter.grad, alpha=-lr)
            parameter.grad.zero_()


def _is_finite(moment: Moment) -> bool:
    return all(bool(torch.isfinite(average).all()) for average in moment.averages)


def sgd_step(module: nn.Module, lr: float) -> None:
    """Take a step of plain SGD with all parameters of a module."""
    step(list(module.parameters()), PLAIN, [], lr)


def _clip(gradients: Sequence[Tensor], clip_norm: float) -> None:
    """Scale gradients down to a length, if all of them together are longer.

    As torch.nn.utils.clip_grad_norm_, but that squares are taken of shares of the largest value: those of
    large values themselves are infinite in float32. What is not finite makes all gradients NaN.
    """
    largest = max((float(each.abs().max()) for each in gradients if each.numel()), default=0.0)
    if largest == 0.0:
        return
    norm = largest * math.hypot(*(float(torch.linalg.vector_norm(each / largest)) for each in gradients))
    if not norm <= clip_norm:
        for gradient in gradients:
            gradient.mul_(clip_norm / norm if math.isfinite(norm) else math.nan)


def _sgd(parameter: Tensor, gradient: Tensor, moment: Moment, rule: Sgd, lr: float) -> None:
    if rule.weight_decay:
        gradient = gradient.add(parameter, alpha=rule.weight_decay)
    if rule.momentum:
        if moment.averages:
            moment.averages[0].mul_(rule.momentum).add_(gradient)
        else:
            moment.averages = [gradient.clone()]
        (last,) = moment.averages
        gradient = gradient.add(last, alpha=rule.momentum) if rule.nesterov else last
    parameter.add_(gradient, alpha=-lr)


def _adam(parameter: Tensor, gradient: Tensor, moment: Moment, rule: Adam | AdamW, lr: float) -> None:
    if isinstance(rule, AdamW):
        parameter.mul_(1 - lr * rule.weight_decay)
    elif rule.weight_decay:
        gradient = gradient.add(parameter, alpha=rule.weight_decay)
    if not moment.averages:
        moment.averages = [torch.zeros_like(parameter), torch.zeros_like(parameter)]
    average, of_square = moment.averages
    beta1, beta2 = rule.betas
    average.lerp_(gradient, 1 - beta1)
    of_square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    bias1, bias2 = 1 - beta1**moment.steps, 1 - beta2**moment.steps
    denominator = (of_square.sqrt() / bias2**0.5).add_(rule.eps)
    parameter.addcdiv_(average, denominator, value=-(lr / bias1))


def moved(
    parameters: Tensor, change: Tensor, optimizer: ServerOptimizer, moments: Moments
) -> tuple[Tensor, Moments]:
    """Give the head that an average of changes makes of another one; nothing is changed.

    Args:
        parameters: of the head, shape (P,).
        change: the average of the clients' changes, shape (P,).
        optimizer: the rule.
        moments: what it remembers; of one parameter, the whole head.

    Returns:
        The head, a new tensor, and what the rule remembers now; nothing if that is not finite.
    """
    (before,) = moments or [Moment(0, [])]
    match optimizer:
        case ServerSgd(lr=lr, momentum=momentum):
            averages = []
            if momentum:
                change = change.add(before.averages[0], alpha=momentum) if before.averages else change
                averages = [change]
            result = parameters.add(change, alpha=lr)
        case (
            ServerAdam(lr=lr, betas=(beta1, beta2), eps=eps)
            | ServerYogi(lr=lr, betas=(beta1, beta2), eps=eps)
        ):
            first = [torch.zeros_like(change), torch.full_like(change, eps**2)]
            average, of_square = before.averages or first
            average, square = average.lerp(change, 1 - beta1), change.square()
            if isinstance(optimizer, ServerAdam):
                of_square = of_square.lerp(square, 1 - beta2)
            else:
                of_square = of_square.addcmul(square, torch.sign(of_square - square), value=beta2 - 1)
            averages = [average, of_square]
            result = parameters.addcdiv(average, of_square.sqrt().add_(eps), value=lr)
    moment = Moment(before.steps + 1, averages)
    return result, [moment] if _is_finite(moment) else []


def placed_moments(moments: Moments, place: torch.device) -> Moments:
    """Give moments whose tensors are at a place."""
    return [Moment(each.steps, [average.to(place) for average in each.averages]) for each in moments]


def named_moments(name: str, moments: Moments) -> dict[str, Tensor]:
    """Give copies of moments on the CPU, named for a file: NAME.0.steps, NAME.0.0, NAME.0.1, NAME.1.steps."""
    return {
        f"{name}.{number}.{part}": tensor.detach().to("cpu", copy=True)
        for number, moment in enumerate(moments)
        for part, tensor in (("steps", torch.tensor(moment.steps)), *enumerate(moment.averages))
    }


def moments_named(name: str, tensors: Mapping[str, Tensor]) -> Moments:
    """Find in a file's tensors what `named_moments` gave under a name; the inverse."""
    moments: Moments = []
    while (steps := tensors.get(f"{name}.{len(moments)}.steps")) is not None:
        of_parameter = f"{name}.{len(moments)}"
        averages = [tensors[key] for part in range(2) if (key := f"{of_parameter}.{part}") in tensors]
        moments.append(Moment(int(steps), averages))
    return moments
