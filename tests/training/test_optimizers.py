"""The rules by which parameters are moved, against torch.optim and the papers."""

import math
import subprocess
import sys
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from scenarios.computing.optimizers import Moment, Moments, moments_named, moved, named_moments, step
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

SHAPES = [(3,), (2, 5), (4, 1, 3, 3), (), (0,)]
decays = st.sampled_from([0.0, 1e-4, 0.1])
betas = st.tuples(st.sampled_from([0.0, 0.5, 0.9]), st.sampled_from([0.0, 0.9, 0.999]))
momenta = st.sampled_from([0.0, 0.5, 0.9])
norms = st.sampled_from([None, 1e-3, 1.0, 1e6])

rules: st.SearchStrategy[Optimizer] = st.one_of(
    st.builds(Sgd, momentum=momenta, weight_decay=decays, clip_norm=norms),
    st.builds(
        Sgd,
        momentum=st.sampled_from([0.5, 0.9]),
        nesterov=st.just(True),
        weight_decay=decays,
        clip_norm=norms,
    ),
    st.builds(Adam, betas=betas, eps=st.sampled_from([1e-8, 1e-3]), weight_decay=decays, clip_norm=norms),
    st.builds(AdamW, betas=betas, eps=st.sampled_from([1e-8, 1e-3]), weight_decay=decays, clip_norm=norms),
)
scales = st.sampled_from([1e-6, 1.0, 1e3])


def of_torch(optimizer: Optimizer, parameters: Sequence[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    said = optimizer.model_dump(exclude={"kind", "clip_norm"})
    kind: Callable[..., torch.optim.Optimizer] = {
        "sgd": torch.optim.SGD,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
    }[optimizer.kind]
    return kind(parameters, lr=lr, foreach=False, **said)


def parameters_of(seed: int) -> list[nn.Parameter]:
    rng = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=rng)) for shape in SHAPES]


def gradients_of(seed: int, number: int, scale: float) -> list[Tensor | None]:
    """Some parameters have none: those that a step did not use."""
    rng = torch.Generator().manual_seed(1000 * seed + number)
    return [
        None if torch.rand((), generator=rng) < 0.2 else scale * torch.randn(shape, generator=rng)
        for shape in SHAPES
    ]


@settings(max_examples=60, deadline=None)
@given(
    rule=rules,
    seed=st.integers(0, 999),
    steps=st.integers(1, 5),
    scale=scales,
    lr=st.sampled_from([1e-3, 0.1]),
)
def test_a_rule_gives_the_bits_of_torch(
    rule: Optimizer, seed: int, steps: int, scale: float, lr: float
) -> None:
    ours, theirs = parameters_of(seed), parameters_of(seed)
    moments: Moments = []
    other = of_torch(rule, theirs, lr)
    exact = rule.clip_norm is None
    for number in range(steps):
        for own, parameter, gradient in zip(ours, theirs, gradients_of(seed, number, scale), strict=True):
            own.grad = None if gradient is None else gradient.clone()
            parameter.grad = gradient
        if rule.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(theirs, rule.clip_norm, foreach=False)
        step(ours, rule, moments, lr)
        other.step()
        for own, parameter in zip(ours, theirs, strict=True):
            if exact:
                assert torch.equal(own, parameter)
            else:
                torch.testing.assert_close(own, parameter, rtol=1e-5, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(rule=rules, seed=st.integers(0, 999), weight=st.sampled_from([0.5, 3.0, 20.0]))
def test_a_sum_over_samples_is_as_good_as_its_mean(rule: Optimizer, seed: int, weight: float) -> None:
    summed, mean = parameters_of(seed), parameters_of(seed)
    for own, other, gradient in zip(summed, mean, gradients_of(seed, 0, 1.0), strict=True):
        own.grad = None if gradient is None else gradient * weight
        other.grad = gradient
    step(summed, rule, [], 0.1, weight=weight)
    step(mean, rule, [], 0.1)
    for own, other in zip(summed, mean, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


@given(rule=rules)
@settings(max_examples=20, deadline=None)
def test_a_step_leaves_no_gradient_behind(rule: Optimizer) -> None:
    parameters = parameters_of(1)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    step(parameters, rule, [], 0.1)
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in parameters)


def test_a_long_gradient_of_all_parameters_together_is_scaled_to_the_norm() -> None:
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    step(parameters, Sgd(clip_norm=1.0), [], 1.0)
    moved_by = torch.cat([parameter.detach() for parameter in parameters])
    torch.testing.assert_close(moved_by, torch.tensor([-0.6, 0.0, -0.8]))


def test_a_gradient_whose_square_is_infinite_in_float32_is_scaled_too() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.tensor([2.0**100])
    step([parameter], Sgd(clip_norm=1.0), [], 1.0)
    torch.testing.assert_close(parameter.detach(), torch.tensor([-1.0]))


@pytest.mark.parametrize("rule", [Sgd(momentum=0.9), Adam(), AdamW()])
@pytest.mark.parametrize("bad", [2.0**100, math.inf, math.nan])
def test_a_rule_learns_on_after_a_gradient_that_no_average_can_hold(rule: Optimizer, bad: float) -> None:
    parameter, moments = nn.Parameter(torch.zeros(2)), list[Moment]()
    for gradient in ([1.0, 1.0], [bad, 1.0], [1.0, 1.0], [1.0, 1.0]):
        before = parameter.detach().clone()
        with torch.no_grad():
            parameter.copy_(torch.nan_to_num(parameter, posinf=0.0, neginf=0.0))  # a device gets a new head
        parameter.grad = torch.tensor(gradient)
        step([parameter], rule, moments, 0.1)
    assert all(bool(torch.isfinite(each).all()) for each in moments[0].averages)
    assert (parameter[1] - before[1]).abs() > 0.05


@pytest.mark.parametrize("rule", [ServerSgd(momentum=0.9), ServerAdam(lr=0.1), ServerYogi(lr=0.1)])
def test_the_server_moves_on_after_a_change_that_no_average_can_hold(rule: ServerOptimizer) -> None:
    head, change = torch.zeros(2), torch.tensor([1.0, 1.0])
    _, moments = moved(head, torch.tensor([2.0**100, math.inf]), rule, [])
    after, _ = moved(head, change, rule, moments)
    assert bool((after.abs() > 0.01).all())


def expected_of_server(rule: ServerOptimizer, changes: Sequence[np.ndarray]) -> np.ndarray:
    """Do what the papers say, in float64."""
    head = np.zeros(changes[0].shape)
    average = np.zeros_like(head)
    square = np.full_like(head, 0.0 if isinstance(rule, ServerSgd) else rule.eps**2)
    for delta in changes:
        if isinstance(rule, ServerSgd):  # arXiv 1909.06335
            average = rule.momentum * average + delta
            head = head + rule.lr * average
            continue
        beta1, beta2 = rule.betas  # arXiv 2003.00295, algorithm 2
        average = beta1 * average + (1 - beta1) * delta
        if isinstance(rule, ServerAdam):
            square = beta2 * square + (1 - beta2) * delta**2
        else:
            square = square - (1 - beta2) * delta**2 * np.sign(square - delta**2)
        head = head + rule.lr * average / (np.sqrt(square) + rule.eps)
    return head


servers: st.SearchStrategy[ServerOptimizer] = st.one_of(
    st.builds(ServerSgd, lr=st.sampled_from([0.5, 1.0]), momentum=momenta),
    st.builds(ServerAdam, lr=st.sampled_from([0.01, 1.0]), betas=betas),
    st.builds(ServerYogi, lr=st.sampled_from([0.01, 1.0]), betas=betas),
)


@settings(max_examples=60, deadline=None)
@given(rule=servers, seed=st.integers(0, 999), rounds=st.integers(1, 5), scale=st.sampled_from([1e-3, 1.0]))
def test_the_server_moves_its_head_as_the_papers_say(
    rule: ServerOptimizer, seed: int, rounds: int, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    changes = [scale * rng.standard_normal(6) for _ in range(rounds)]
    head, moments = torch.zeros(6), list[Moment]()
    for change in changes:
        head, moments = moved(head, torch.tensor(change, dtype=torch.float32), rule, moments)
    np.testing.assert_allclose(head.numpy(), expected_of_server(rule, changes), rtol=1e-3, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(rule=servers)
def test_a_move_that_is_taken_back_leaves_no_trace(rule: ServerOptimizer) -> None:
    head, change = torch.ones(3), torch.tensor([0.1, -0.2, 0.3])
    once, remembered = moved(head, change, rule, [])
    kept = [tensor.clone() for tensor in remembered[0].averages]
    moved(once, torch.full((3,), 1e9), rule, remembered)
    assert torch.equal(head, torch.ones(3))
    assert all(torch.equal(a, b) for a, b in zip(kept, remembered[0].averages, strict=True))


def test_by_default_the_average_moves_the_head_by_itself_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    head, change = (rng.standard_normal(1000).astype(np.float32) for _ in range(2))
    result, _ = moved(torch.from_numpy(head), torch.from_numpy(change), ServerSgd(), [])
    assert np.array_equal(result.numpy(), head + change)


@settings(max_examples=20, deadline=None)
@given(rule=rules, seed=st.integers(0, 9))
def test_moments_that_were_laid_by_go_on_to_the_bit(rule: Optimizer, seed: int) -> None:
    parameters: list[nn.Parameter] = parameters_of(seed)
    moments: Moments = []

    def one(number: int, remembered: Moments) -> None:
        for parameter, gradient in zip(parameters, gradients_of(seed, number, 1.0), strict=True):
            parameter.grad = gradient
        step(parameters, rule, remembered, 0.1)

    one(0, moments)
    before = [parameter.detach().clone() for parameter in parameters]
    laid_by = named_moments("tail", moments) | named_moments("other", [])
    one(1, moments)
    through = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        for parameter, value in zip(parameters, before, strict=True):
            parameter.copy_(value)
    one(1, moments_named("tail", laid_by))
    assert all(torch.equal(a, b) for a, b in zip(parameters, through, strict=True))
    assert moments_named("other", laid_by) == []


def test_no_rule_loads_more_of_torch() -> None:
    code = """
import sys, torch
from scenarios.computing.optimizers import step
from scenarios.schema.optimizers import Adam, AdamW, Sgd
before = set(sys.modules)
for rule in (Sgd(momentum=0.9, clip_norm=1), Adam(clip_norm=1), AdamW()):
    p = torch.nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    step([p], rule, [], 0.1)
print(sorted(set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
