"""What torch draws within `seeded` depends on the seed alone, whatever other threads do."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from scenarios.seeded import seeded

X = torch.linspace(-1, 1, 72).reshape(2, 4, 9)
Draw = Callable[[], object]

LSTM = nn.LSTM(9, 8, num_layers=3, dropout=0.5)

DRAWS: dict[str, Draw] = {
    "nn.Dropout": lambda: nn.Dropout(0.5)(X),
    "F.dropout": lambda: F.dropout(X, 0.3),
    "F.dropout2d": lambda: F.dropout2d(X[None], 0.5),
    "F.alpha_dropout": lambda: F.alpha_dropout(X, 0.3, training=True),
    "nn.RReLU": lambda: nn.RReLU()(X),
    "dropout inside an LSTM": lambda: LSTM(X)[0],
    "dropout inside attention": lambda: F.scaled_dot_product_attention(X, X, X, dropout_p=0.5),
    "torch.rand": lambda: torch.rand(3, 4),
    "torch.rand_like": lambda: torch.rand_like(X),
    "torch.randn": lambda: torch.randn(3, 4),
    "torch.randint": lambda: torch.randint(0, 99, (8,)),
    "torch.randperm": lambda: torch.randperm(9),
    "torch.multinomial": lambda: torch.multinomial(torch.ones(9), 3),
    "torch.bernoulli": lambda: torch.bernoulli(torch.full((8,), 0.5)),
    "Tensor.normal_": lambda: torch.empty(3).normal_(),
}
every_draw = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)


@every_draw
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_it_gives_the_numbers_that_follow_manual_seed(draw: Draw, mode: Callable[[], Any]) -> None:
    with mode():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(77)
            expected = [draw(), draw()]
        with seeded(77):
            drawn = [draw(), draw()]
    torch.testing.assert_close(drawn, expected, rtol=0, atol=0)


@every_draw
def test_the_process_generator_stays_as_it_was(draw: Draw) -> None:
    before = torch.get_rng_state()
    with seeded(77):
        draw()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_process_generator_stays_as_it_was_when_a_draw_fails() -> None:
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), seeded(77):
        torch.rand(-1)
    assert torch.equal(torch.get_rng_state(), before)


@every_draw
def test_forward_passes_that_overlap_do_not_take_numbers_from_each_other(draw: Draw) -> None:
    """Two threads draw in turns, both within `seeded` from the first draw to the last."""
    turns = threading.Barrier(2)

    def alone(seed: int) -> list[object]:
        with seeded(seed):
            return [draw() for _ in range(3)]

    def in_turns(seed: int) -> list[object]:
        def draws() -> Iterator[object]:
            for _ in range(3):
                turns.wait()
                yield draw()

        with seeded(seed):
            return list(draws())

    expected = [alone(1), alone(2)]
    with ThreadPoolExecutor(2) as pool:
        drawn = list(pool.map(in_turns, (1, 2)))
    torch.testing.assert_close(drawn, expected, rtol=0, atol=0)


def test_draws_that_take_no_generator_are_made_one_after_another() -> None:
    """While the process's generator is lent to one thread's draw, no other thread's draw may use it."""

    def draws(seed: int) -> Tensor:
        with seeded(seed):
            return torch.cat([torch.rand(2) for _ in range(2_000)])

    expected = [draws(seed) for seed in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            drawn = list(pool.map(draws, range(4)))
    finally:
        sys.setswitchinterval(interval)
    for ours, alone in zip(drawn, expected, strict=True):
        assert torch.equal(ours, alone)


def test_a_generator_of_the_callers_own_is_respected() -> None:
    own = torch.Generator().manual_seed(5)
    with seeded(77):
        drawn = torch.empty(4).uniform_(generator=own), torch.rand(4, generator=own)
    again = torch.Generator().manual_seed(5)
    assert torch.equal(drawn[0], torch.empty(4).uniform_(generator=again))
    assert torch.equal(drawn[1], torch.rand(4, generator=again))


def test_it_does_not_load_torchs_compiler() -> None:
    """A small device has no memory to spare for it."""
    program = (
        "import sys, torch; from torch import nn; from scenarios.seeded import seeded\n"
        "with seeded(1): y = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))(torch.ones(2, 4))\n"
        "y.sum().backward(); assert not {'torch._dynamo', 'sympy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
