"""Small tasks of the kinds of models and data that people have: they train, or are refused in a sentence."""

import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scenarios.task import Dataset, Split, Task

F = nn.functional
Make = Callable[[], nn.Module]


def numbers(*shape: int) -> Callable[[int, int], Tensor]:
    return lambda count, seed: torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def pixels(*shape: int) -> Callable[[int, int], Tensor]:
    def made(count: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8)

    return made


def words(known: int, length: int) -> Callable[[int, int], Tensor]:
    return lambda count, seed: torch.randint(
        0, known, (count, length), generator=torch.Generator().manual_seed(seed)
    )


def which_quarter(inputs: Tensor) -> Tensor:
    flat = inputs.flatten(1).float()
    return 2 * (flat[:, 0] > flat[:, 1]) + (flat[:, -1] > flat[:, -2])


def each_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none")


def right(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) == targets).float()


def family(
    inputs: Callable[[int, int], Tensor],
    head: Make,
    cut: tuple[int, ...],
    tail: Make | None = None,
    of: Callable[[Tensor], Any] = which_quarter,
    **changes: Any,
) -> Callable[[], Task]:
    """Make a task: 60 training and 40 test rows, by default of four classes."""

    def split(count: int, seed: int) -> Split:
        rows = inputs(count, seed)
        return Split(rows, of(rows))

    size = int(np.prod(cut))
    usual: dict[str, Any] = {"metric": "accuracy", "classes": 4, "loss": each_loss, "score": right}
    usual["load"] = lambda: Dataset(split(60, 1), split(40, 2))
    usual["tail"] = tail or (lambda: nn.Linear(size, 4))
    return lambda: Task(name="kind", cut_shape=cut, head=head, **(usual | changes))


class Flat(nn.Module):
    """Lays a map out with its channels last, one row a sample."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.movedim(1, -1).flatten(1)


class Pick(nn.Module):
    """Takes what a recurrent layer gives, and leaves its state."""

    def forward(self, given: tuple[Tensor, Any]) -> Tensor:
        return given[0].flatten(1)


class Residual(nn.Module):
    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        return x + y


class Unflat(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, rows: Tensor) -> Tensor:
        return rows.reshape(-1, *self.shape)


class Positions(nn.Module):
    """Words and learned positions."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 8), nn.Parameter(torch.randn(6, 8) / 10)

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.words(x)
        return z + self.places


class Waves(nn.Module):
    """Words and positions that are a constant table."""

    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8)
        self.register_buffer("table", torch.sin(torch.arange(48.0)).reshape(6, 8))

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.words(x)
        return z + self.table


class Swap(nn.Module):
    """Exchanges the last two dimensions."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mT


def sequence(*parts: nn.Module) -> Make:
    return lambda: nn.Sequential(*parts)


def conv(*after: Callable[[], nn.Module]) -> Make:
    return lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), *(make() for make in after), nn.ReLU(), Flat()
    )


def encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)


PIXELS, SERIES, TEXT, TABLE = pixels(1, 6, 6), numbers(3, 12), words(20, 6), numbers(8)

GOOD: dict[str, Callable[[], Task]] = {
    "perceptron": family(
        TABLE,
        lambda: nn.Sequential(nn.Linear(8, 16), nn.GELU()),
        (16,),
        lambda: nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 4)),
    ),
    "residual perceptron": family(
        TABLE, lambda: nn.Sequential(nn.Linear(8, 16), Residual(nn.Linear(16, 16), nn.ReLU())), (16,)
    ),
    "convolutions of pixels": family(PIXELS, conv(), (6, 6, 4)),
    "group norm": family(PIXELS, conv(lambda: nn.GroupNorm(2, 4)), (6, 6, 4)),
    "layer norm": family(PIXELS, conv(lambda: nn.LayerNorm([4, 6, 6])), (6, 6, 4)),
    "residual network": family(
        PIXELS,
        conv(lambda: Residual(nn.Conv2d(4, 4, 3, padding=1), nn.GroupNorm(1, 4), nn.ReLU())),
        (6, 6, 4),
    ),
    "batch norm in the tail": family(
        PIXELS,
        conv(),
        (6, 6, 4),
        lambda: nn.Sequential(Unflat(6, 6, 4), nn.Flatten(), nn.BatchNorm1d(144), nn.Linear(144, 4)),
    ),
    "batch norm in the head": family(PIXELS, conv(lambda: nn.BatchNorm2d(4)), (6, 6, 4)),
    "a table of positions": family(
        TEXT, lambda: nn.Sequential(Waves(), encoder(), nn.Flatten()), (6, 8), lambda: nn.Linear(48, 4)
    ),
    "a frozen head": family(
        TABLE, lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU()).requires_grad_(requires_grad=False), (16,)
    ),
    "depthwise convolutions": family(
        PIXELS, conv(lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4), lambda: nn.Conv2d(4, 4, 1)), (6, 6, 4)
    ),
    "convolutions of a series": family(
        SERIES, lambda: nn.Sequential(nn.Conv1d(3, 4, 3, stride=2, padding=1), nn.ReLU(), Flat()), (6, 4)
    ),
    "long short-term memory": family(
        SERIES, lambda: nn.Sequential(Swap(), nn.LSTM(3, 4, batch_first=True), Pick()), (12, 4)
    ),
    "gated recurrent units": family(
        SERIES,
        lambda: nn.Sequential(Swap(), nn.GRU(3, 4, batch_first=True, dropout=0.0), Pick()),
        (12, 4),
        lambda: nn.Sequential(Unflat(12, 4), nn.GRU(4, 4, batch_first=True), Pick(), nn.Linear(48, 4)),
    ),
    "transformer": family(
        TEXT,
        lambda: nn.Sequential(Positions(), encoder(), nn.Flatten()),
        (6, 8),
        lambda: nn.Sequential(Unflat(6, 8), encoder(), nn.Flatten(), nn.Linear(48, 4)),
    ),
    "bag of words": family(TEXT, lambda: nn.EmbeddingBag(20, 16), (16,)),
    "embedded words": family(
        TEXT, lambda: nn.Sequential(nn.Embedding(20, 4, padding_idx=0), nn.Flatten()), (6, 4)
    ),
    "mixer": family(
        SERIES,
        lambda: nn.Sequential(
            Residual(nn.Linear(12, 12), nn.GELU()), Swap(), Residual(nn.Linear(3, 3)), nn.Flatten()
        ),
        (12, 3),
    ),
    "autoencoder": family(
        TABLE,
        lambda: nn.Sequential(nn.Linear(8, 4), nn.Tanh()),
        (4,),
        lambda: nn.Sequential(nn.Linear(4, 8)),
        of=lambda rows: (rows > 0).long(),
        classes=2,
        target_shape=(8,),
        loss=lambda outputs, targets: F.mse_loss(outputs, targets.float(), reduction="none").mean(1),
        score=lambda outputs, targets: ((outputs > 0.5) == targets).float().mean(1),
    ),
    "next letters": family(
        TEXT,
        lambda: nn.Sequential(nn.Embedding(20, 8), nn.Flatten()),
        (6, 8),
        lambda: nn.Sequential(Unflat(6, 8), nn.Linear(8, 20), Swap()),
        of=lambda rows: rows.roll(-1, 1),
        classes=20,
        target_shape=(6,),
        loss=lambda outputs, targets: each_loss(outputs, targets).mean(1),
        score=lambda outputs, targets: right(outputs, targets).mean(1),
    ),
    "a part is frozen": family(
        TABLE,
        lambda: nn.Sequential(
            nn.Linear(8, 16).requires_grad_(requires_grad=False), nn.ReLU(), nn.Linear(16, 16)
        ),
        (16,),
    ),
    "a head of 16 bits": family(TABLE, lambda: nn.Sequential(OfBits16(nn.Linear(8, 16)), nn.ReLU()), (16,)),
    "a weight that is used twice": family(TABLE, lambda: nn.Sequential(Twice(8), nn.ReLU()), (8,)),
    "a weight that is laid out by columns": family(
        TABLE, lambda: nn.Sequential(by_columns(nn.Linear(8, 16)), nn.ReLU()), (16,)
    ),
    "truths as inputs": family(
        lambda count, seed: TABLE(count, seed) > 0,
        lambda: nn.Sequential(Floats(), nn.Linear(8, 16), nn.ReLU()),
        (16,),
    ),
    "attention over a series": family(
        SERIES, lambda: nn.Sequential(Swap(), Attention(), nn.Flatten()), (12, 4)
    ),
}


class OfBits16(nn.Module):
    """A layer that computes in bfloat16, and gives float32."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer.to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x.to(torch.bfloat16)).float()
        return y


class Twice(nn.Module):
    """An encoder, and a decoder with the same weight."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.there, self.back = nn.Linear(size, size), nn.Linear(size, size)
        self.back.weight = self.there.weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.back(torch.tanh(self.there(x)))
        return y


def by_columns(layer: nn.Linear) -> nn.Linear:
    layer.weight = nn.Parameter(layer.weight.detach().T.contiguous().T)
    return layer


class Floats(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.float()


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.widen, self.attend = nn.Linear(3, 4), nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.widen(x)
        z: Tensor = self.attend(y, y, y, need_weights=False)[0]
        return z


# what goes wrong


class Remembers(nn.Module):
    """Goes on with the state of the batch before, as examples of text models do."""

    def __init__(self, *, cut_off: bool) -> None:
        super().__init__()
        self.cell, self.cut_off = nn.GRU(3, 4, batch_first=True), cut_off
        self.state: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        y, state = self.cell(x.mT, self.state)
        self.state = state.detach() if self.cut_off else state
        z: Tensor = y.flatten(1)
        return z


class Changed(nn.Module):
    """A layer after which something is done to the rows."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.change = nn.Linear(8, 16), change

    def forward(self, x: Tensor) -> Any:
        return self.change(self.layer(x))


class Counts(nn.Module):
    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 16)

    def forward(self, x: Tensor) -> Tensor:
        Counts.calls += 1
        z: Tensor = self.layer(x) * Counts.calls
        return z


def changed(change: Callable[[Tensor], Any], **changes: Any) -> Callable[[], Task]:
    return family(TABLE, lambda: Changed(change), (16,), **changes)


def plain(**changes: Any) -> Callable[[], Task]:
    return family(TABLE, lambda: nn.Linear(8, 16), (16,), **changes)


def without_gradient(z: Tensor) -> Tensor:
    return torch.from_numpy(z.detach().numpy())


def unseeded() -> Dataset:
    rows = torch.from_numpy(np.random.default_rng().standard_normal((60, 8), np.float32))
    return Dataset(Split(rows, which_quarter(rows)), Split(rows, which_quarter(rows)))


UNSTEADY = "give something else for the same batch and the same seed: a module keeps state between calls"

BROKEN: dict[str, tuple[Callable[[], Task], str]] = {
    "state of the batch before": (
        family(SERIES, lambda: Remembers(cut_off=True), (12, 4)),
        f"head {UNSTEADY}",
    ),
    "graph of the batch before": (
        family(SERIES, lambda: Remembers(cut_off=False), (12, 4)),
        "in a second step the way back through the head fails: RuntimeError: Trying to backward through the ",
    ),
    "noise of numpy": (
        changed(lambda z: z + torch.from_numpy(np.random.default_rng().normal(size=z.shape)).float()),
        f"head {UNSTEADY}",
    ),
    "noise of Python": (
        plain(loss=lambda outputs, targets: each_loss(outputs, targets) * random.random()),
        f"tail or loss {UNSTEADY}",
    ),
    "the clock": (changed(lambda z: z + time.perf_counter() % 1 * 100), f"head {UNSTEADY}"),
    "a counter of the class": (family(TABLE, Counts, (16,)), f"head {UNSTEADY}"),
    "data without a seed": (
        plain(load=unseeded),
        "load() gives other data each time, yet all processes must have the same: seed its random numbers",
    ),
    "output and state": (
        family(SERIES, lambda: nn.Sequential(Swap(), nn.LSTM(3, 4, batch_first=True)), (12, 4)),
        "the head gives a tuple, it must give one tensor of shape (n, 48)",
    ),
    "a dict": (
        changed(lambda z: {"z": z}),
        "the head gives a dict, it must give one tensor of shape (n, 16)",
    ),
    "no return": (changed(lambda _: None), "the head gives a NoneType, it must give one tensor"),
    "a map that is not flat": (
        family(PIXELS, lambda: nn.Conv2d(1, 4, 3, padding=1), (6, 6, 4)),
        "it must give a row for each, (N, 144); x.permute(0, 2, 3, 1).flatten(1) puts channels last",
    ),
    "batch second": (
        family(SERIES, lambda: nn.Sequential(Swap(), nn.GRU(3, 4), Pick()), (12, 3)),
        "cut_shape says 36 values a sample, the head gives 48",
    ),
    "64 bits at the cut": (
        changed(lambda z: z.double()),
        "the head gives float64 on cpu, it must give float32 on the CPU",
    ),
    "a detached output": (
        changed(lambda z: z.detach()),
        "the head has parameters to train, but its output has no gradient (detach, no_grad)",
    ),
    "by way of numpy": (
        changed(without_gradient),
        "the head has parameters to train, but its output has no gradient (detach, no_grad)",
    ),
    "a logarithm of what is below 0": (changed(torch.log), "the head gives values that are not finite"),
    "fewer outputs than classes": (
        plain(tail=lambda: nn.Linear(16, 3)),
        "dtype float32 fails: IndexError: Target 3 is out of bounds. (families.py:N)",
    ),
    "words beyond the table": (
        family(TEXT, lambda: nn.Sequential(nn.Embedding(19, 4), nn.Flatten()), (6, 4)),
        "fails: IndexError: index out of range in self",
    ),
    "a loss of one argument": (
        plain(loss=lambda outputs: outputs.sum(1)),
        "fails: TypeError: <lambda>() takes 1 positional argument but 2 were given",
    ),
    "a loss with a sign": (
        plain(loss=lambda outputs, targets: (outputs.argmax(1) - targets).abs().float()),
        "the loss has no gradient: it must be computed from the outputs by torch",
    ),
    "a loss in a list": (
        plain(loss=lambda outputs, targets: each_loss(outputs, targets).tolist()),
        "loss gives a list, it must give one value for each sample, shape (N,)",
    ),
    "a score as text": (
        plain(score=lambda *_: "good"),
        "score gives a str, it must give one value for each sample, shape (N,)",
    ),
    "pictures without their channel": (
        family(pixels(6, 6), conv(), (6, 6, 4)),
        "the head, given inputs of shape (N, 6, 6) and dtype float32, fails: RuntimeError: ",
    ),
    "an exception of one's own": (
        changed(lambda _: dict[str, int]()["key"]),
        "and dtype float32, fails: KeyError: 'key' (families.py:N)",
    ),
    "no data": (
        plain(load=lambda: open("/nowhere/data.csv")),  # noqa: SIM115, PTH123
        "load() of the task fails: FileNotFoundError: [Errno 2] No such file or directory: '/nowhere/",
    ),
}
