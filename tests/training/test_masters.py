"""Heads of 16 bits: small steps are not lost, and a run is the same live, simulated and gone on with."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from scenarios.computing.optimizers import step
from scenarios.heads.masters import HALF, exact, load_masters, mastered, masters, set_exact
from scenarios.heads.parts import load_vector, vector_of
from scenarios.schema.optimizers import Adam, Optimizer, Sgd
from scenarios.training import load_module_tensors, module_tensors
from server_node.checkpoint import tensors_of

OPTIMIZERS: list[Optimizer] = [Sgd(), Sgd(momentum=0.9), Adam()]


def small(dtype: torch.dtype = torch.bfloat16) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 3).to(dtype), nn.Linear(3, 2))


@given(
    st.sampled_from(HALF),
    st.sampled_from(OPTIMIZERS),
    st.lists(st.floats(-4, 4, width=16), min_size=1, max_size=12),
)
def test_masters_move_as_float32_parameters_do(
    dtype: torch.dtype, optimizer: Optimizer, gradients: list[float]
) -> None:
    half, full = nn.Parameter(torch.ones(3, dtype=dtype)), nn.Parameter(torch.ones(3))
    moments: tuple[list, list] = ([], [])  # type: ignore[type-arg]
    for gradient in gradients:
        half.grad = torch.full((3,), gradient, dtype=dtype)
        full.grad = half.grad.float()
        with mastered([half]) as moving:
            step(moving, optimizer, moments[0], 1e-4)
        step([full], optimizer, moments[1], 1e-4)
        assert half.grad is None
    assert torch.equal(exact(half), full)
    assert torch.equal(half, full.to(dtype))


def test_steps_too_small_for_16_bits_add_up() -> None:
    half = nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    for _ in range(100):
        half.grad = torch.ones(1, dtype=torch.bfloat16)
        with mastered([half]) as moving:
            step(moving, Sgd(), [], 1e-3)  # the next smaller number of bfloat16 is 0.996
    assert half.item() == pytest.approx(0.9, abs=0.003)


def test_float32_parameters_have_no_master() -> None:
    head = small(torch.float32)
    with mastered(list(head.parameters())) as moving:
        assert all(one is other for one, other in zip(moving, head.parameters(), strict=True))
    set_exact(next(head.parameters()), torch.zeros(3, 4))
    assert masters(head) == {}


@pytest.mark.parametrize("dtype", HALF)
def test_what_is_sent_and_kept_of_a_head_is_exact(dtype: torch.dtype) -> None:
    head, other = small(dtype), small(dtype)
    vector = torch.linspace(-1, 1, vector_of(head).numel())
    load_vector(head, vector)
    assert torch.equal(vector_of(head), vector)
    assert next(head.parameters()).dtype == dtype
    load_module_tensors(other, [tensor.clone() for tensor in module_tensors(head)])
    assert torch.equal(vector_of(other), vector)


def test_a_checkpoint_has_the_masters() -> None:
    head, other = small(), small()
    load_vector(head, torch.linspace(-1, 1, vector_of(head).numel()))
    tensors = {name.removeprefix("head."): value for name, value in tensors_of(head, nn.Identity()).items()}
    other.load_state_dict(copy.deepcopy(tensors))
    load_masters(other, tensors)
    assert torch.equal(vector_of(other), vector_of(head))
    assert torch.equal(next(other.parameters()), next(head.parameters()))
