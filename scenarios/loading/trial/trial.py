"""Sends rows through head, cut, tail, loss, score and back; whatever goes wrong becomes a sentence."""

import functools
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from broker.codecs import decode_activations, encode_activations
from scenarios.cutting.trees import tensors
from scenarios.errors import ScenarioError, in_words
from scenarios.heads.auxiliary import WithAuxiliary, own_layers
from scenarios.heads.parts import constants, form_of, take_one, to_train
from scenarios.loading.trial.data_checks import Rows
from scenarios.loading.trial.memory import Need, module_bytes, need_of
from scenarios.loading.trial.model_checks import (
    all_pairs,
    one_for_each,
    unfit_buffers,
    unfit_cut,
    unfit_features,
    unfit_gradients,
)
from scenarios.metrics import number_of
from scenarios.schema.scenario import Scenario
from scenarios.seeded import seeded
from scenarios.seeds import derive_seed, generator
from scenarios.task import Metric, Split, Task
from scenarios.training import load_module_tensors, module_tensors
from scenarios.u_shape import Ends, whole_model

MOST_ROWS = 32
"""In the batch that is tried: enough to see every mistake, and quick with any model."""


UNSTEADY = (
    "give something else for the same batch and the same seed: a module keeps state between calls, or random "
    "numbers come from elsewhere than torch (numpy, random, the clock)"
)


class Wrong(Exception):  # noqa: N818 - it is always told as a ScenarioError
    """A sentence about a mistake in a task."""


class telling:  # noqa: N801 - used like a function
    """Context manager that tells a mistake as one of the key that names the task."""

    def __init__(self, scenario: Scenario) -> None:
        self._key = "task.module" if scenario.task.module else "task.name"

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Wrong):
            raise ScenarioError(str(error), key=self._key) from error


def refuse(wrong: str | None) -> None:
    """Raise Wrong if there is a sentence."""
    if wrong:
        raise Wrong(wrong)


def tried(what: str, act: Callable[[], Any], hint: str = "") -> Any:
    """Do what may run a user's code; whatever it raises becomes a sentence."""
    try:
        return act()
    except (ScenarioError, Wrong):
        raise
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise Wrong(f"{what} fails: {in_words(error)}{hint}") from error


def batch_of(scenario: Scenario, task: Task, train: Split, shares: dict[str, Rows]) -> Rows:
    """Choose the rows to try: those of a batch of the largest client, and the rows with extreme numbers.

    Extreme are the smallest and the largest integer, such as a word that an embedding does not have, or a
    class for which the tail has no output. The number of rows differs from every size of the task, so that no
    other dimension looks like that of samples.
    """
    own = max(shares.values(), key=len)
    size = min(len(own), scenario.task.batch_size, MOST_ROWS)
    known = np.concatenate(list(shares.values()))
    extremes = [*_extremes(train.inputs, known), *_extremes(train.targets, known)]
    rows = [*extremes, *map(int, own[: max(size, 2)])][: max(size, len(extremes), 2)]
    sizes = {task.cut_size, *task.kind.sizes, *task.cut_shape}
    while len(rows) > 2 and len(rows) in sizes:  # noqa: PLR2004 - fewer rows than two tell nothing
        rows.pop()
    return np.array(rows, np.int64)


def _extremes(values: object, known: Rows) -> list[int]:
    """Give the rows with the smallest and the largest integer; none where values are of another kind."""
    if not isinstance(values, Tensor) or values.dtype not in {torch.int64, torch.int32, torch.int16}:
        return []
    each = values[torch.from_numpy(known)].reshape(len(known), -1)
    return [int(known[at]) for at in (each.amin(1).argmin(), each.amax(1).argmax())] if each.numel() else []


def _alike(one: Tensor, other: Tensor) -> bool:
    """Say whether two tensors are the same but for the order in which threads, or a GPU, add numbers."""
    if not one.is_floating_point() or one.shape != other.shape:
        return torch.equal(one, other)
    return torch.allclose(one, other, rtol=1e-3, atol=1e-5, equal_nan=True)


class Step(NamedTuple):
    """What a step came to: the tensors that the head gives, and the loss of each sample."""

    given: list[Tensor]
    losses: Tensor


class Trial:
    """Head and tail of a task, to send rows through; model_checks has what is checked."""

    def __init__(self, scenario: Scenario, task: Task, head: nn.Module, tail: nn.Module) -> None:
        self._scenario, self._task = scenario, task
        self._head, self._tail = take_one(head), take_one(tail)
        self._split = scenario.training.method != "fedavg"

    def forward(self, split: Split, rows: Rows) -> tuple[Tensor, Any]:
        """Send rows through the head; gives z, or with FedAvg the model's outputs, and the targets."""
        inputs, targets = split.batch(rows)
        name = "head" if self._split else "model"
        hint = "; inputs.float() makes them float32" if inputs.dtype == torch.float64 else ""
        to_train(self._head)
        with seeded(derive_seed(self._scenario.seed, "rehearsal")):
            before = {each: buffer.clone() for each, buffer in constants(self._head).items()}
            z = tried(f"the {name}, given inputs of {_form(inputs)},", lambda: self._head(inputs), hint)
        refuse(unfit_buffers(before, constants(self._head), name))
        if self._split:
            refuse(unfit_cut(z, len(rows), self._task, learns=form_of(self._head).learns))
        return z, targets

    def train_twice(self, split: Split, rows: Rows) -> None:
        """Do the same step twice from the same weights: it must come to the same."""
        parts = self._head, self._tail
        before = [[tensor.clone() for tensor in module_tensors(part)] for part in parts]
        first = self.train(split, rows)
        for part, kept in zip(parts, before, strict=True):
            load_module_tensors(part, kept)
            part.zero_grad()
        try:
            again = self.train(split, rows)
        except Wrong as error:
            raise Wrong(f"in a second step {error}; does a module keep something of the first?") from error
        if not all(map(_alike, first.given, again.given)):
            raise Wrong(f"{'head' if self._split else 'model'} {UNSTEADY}")
        if not _alike(first.losses, again.losses):
            raise Wrong(f"tail or loss {UNSTEADY}")

    def train(self, split: Split, rows: Rows) -> Step:
        """Send rows through everything and back, as a step of a round does."""
        z, targets = self.forward(split, rows)
        if not self._split:
            losses = self._losses(z, targets, len(rows))
            losses.mean().backward()  # type: ignore[no-untyped-call]
            refuse(unfit_gradients(self._head, "model"))
            return Step([each.detach() for _, each in tensors(z)], losses.detach())
        arrived = self._through_codec(z.detach()).requires_grad_()
        if isinstance(self._head, WithAuxiliary):
            self._through_auxiliary(self._head.auxiliary, arrived.detach().requires_grad_(), targets)
        outputs = self._through_tail(arrived)
        if isinstance(self._head, Ends):
            refuse(unfit_features(outputs, len(rows), self._task))
            outputs = self._through_top(self._head.top, outputs)
        losses = self._losses(outputs, targets, len(rows))
        losses.mean().backward()  # type: ignore[no-untyped-call]
        if arrived.grad is None:
            raise Wrong("the loss does not depend on the activations: tail or loss cut the gradient off")
        if not torch.isfinite(arrived.grad).all():
            raise Wrong("the gradient of the loss at the cut has values that are not finite")
        refuse(unfit_gradients(self._tail, "tail"))
        if isinstance(self._head, Ends):
            refuse(unfit_gradients(self._head.top, "top"))
        if not form_of(self._head).learns:
            return Step([z.detach()], losses.detach())
        tried("the way back through the head", torch.dot(z.flatten(), arrived.grad.flatten()).backward)
        refuse(unfit_gradients(own_layers(self._head), "head"))
        return Step([z.detach()], losses.detach())

    def train_one(self, split: Split, rows: Rows, client: str) -> None:
        """Send a batch of one sample through, as a client with one sample, or batch_size 1, does."""
        try:
            self.train(split, rows)
        except Wrong as error:
            raise Wrong(f"client {client} has batches of one sample, and with one {error}") from error

    def needs(self, split: Split, rows: Rows, *, own_bytes: int, read_bytes: int) -> dict[str | None, Need]:
        """Add up the memory that devices need, by their early cut or None; see need_of."""
        scenario, task = self._scenario, self._task
        inputs, _ = split.batch(rows)
        built = module_bytes(self._head, self._tail) if scenario.task.cut is not None else 0
        sizes = {"own_bytes": own_bytes, "read_bytes": read_bytes, "built_bytes": built}
        found = {}
        for cut in {group.cut for group in scenario.fleet}:
            head = self._head if cut is None else task.early(cut).part_of(task.head())
            found[cut] = need_of(scenario, task, head, inputs, cut=cut, **sizes)
        return found

    @torch.no_grad()
    def score(self, test: Split) -> None:
        """Score the first test rows, as an evaluation does."""
        count = min(len(test), MOST_ROWS - 1)
        sizes = self._task.kind.sizes
        count -= count > 2 and count in sizes  # noqa: PLR2004 - fewer rows than two tell nothing
        inputs, targets = test.batch(slice(0, count))
        self._head.eval()
        self._tail.eval()
        what = f"the model, given test inputs of {_form(inputs)},"
        outputs = tried(what, lambda: whole_model(self._head, self._tail, inputs))
        if self._task.metric_of is not None:
            metric = tried("metric_of", self._task.metric_of)
            tried(f"the metric, given {_form(outputs)}", lambda: metric.update(outputs, targets))
            tried("the metric", lambda: _compute(metric))
        elif self._task.score is not None:
            score = self._task.score
            scores = tried("score", lambda: score(outputs, targets))
            refuse(one_for_each("score", scores, count))
            refuse(tried("score", lambda: all_pairs("the score", score, outputs, targets, scores)))

    def _through_codec(self, z: Tensor) -> Tensor:
        codec = self._scenario.flows.activations_up
        rng = generator(self._scenario.seed, "rehearsal")
        what = f"{codec.codec}, for activations_up,"
        payload = tried(what, lambda: encode_activations(codec, z.numpy(), rng)[0])
        arrived = torch.from_numpy(np.array(decode_activations(codec, payload, *z.shape)[0]))
        if not torch.isfinite(arrived).all():
            largest = float(z.abs().max())
            raise Wrong(f"the activations go up to {largest:.3g}, too large for {codec.codec}")
        return arrived

    def _through_auxiliary(self, auxiliary: nn.Module, arrived: Tensor, targets: Any) -> None:
        """Send activations through an auxiliary tail, and back as a device does; it keeps its gradient."""
        auxiliary.train()
        with seeded(derive_seed(self._scenario.seed, "rehearsal")):
            what = f"the auxiliary tail, given activations of shape {tuple(arrived.shape)},"
            outputs = tried(what, lambda: auxiliary(arrived))
        loss = self._losses(outputs, targets, len(arrived)).mean()
        follows = self._scenario.training.gradients_every != "never"
        back = "the way back through the auxiliary tail"
        back_to = functools.partial(torch.autograd.grad, loss, arrived, retain_graph=True)
        (own,) = tried(back, lambda: back_to(create_graph=follows))
        apart = own.square().sum() if follows else 0.0
        tried(f"{back}{', and its gradient,' if follows else ''}", (loss + apart).backward)
        refuse(unfit_gradients(auxiliary, "auxiliary tail"))

    def _through_tail(self, arrived: Tensor) -> Any:
        self._tail.train()
        with seeded(derive_seed(self._scenario.seed, "rehearsal")):
            what = f"the tail, given activations of shape {tuple(arrived.shape)},"
            return tried(what, lambda: self._tail(arrived))

    def _through_top(self, top: nn.Module, features: Tensor) -> Any:
        top.train()
        with seeded(derive_seed(self._scenario.seed, "rehearsal")):
            what = f"the top, given features of shape {tuple(features.shape)},"
            return tried(what, lambda: top(features))

    def _losses(self, outputs: Any, targets: Any, n: int) -> Tensor:
        with seeded(derive_seed(self._scenario.seed, "rehearsal")):
            losses = tried(f"loss, given {_form(outputs)}", lambda: self._task.loss(outputs, targets))
        refuse(one_for_each("loss", losses, n))
        refuse(tried("loss", lambda: all_pairs("the loss", self._task.loss, outputs, targets, losses)))
        if not losses.requires_grad:
            raise Wrong("the loss has no gradient: it must be computed from the outputs by torch")
        return losses  # type: ignore[no-any-return]


def _compute(metric: Metric) -> None:
    """See that a metric gives a number, if these rows are enough for it."""
    with suppress(ValueError):
        number_of(metric)


def _form(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"outputs that are a {type(value).__name__}"
    return f"shape {tuple(value.shape)} and dtype {str(value.dtype).removeprefix('torch.')}"
