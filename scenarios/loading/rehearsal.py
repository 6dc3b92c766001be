"""Tries a task before a run: a batch of its own rows goes through head, cut, tail, loss, score and back.

A mistake in a task of one's own would otherwise show after hours, far from its cause, or never: the run would
learn a wrong number. What is wrong is told in one sentence, with what was expected and what came.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from broker.codecs import decode_activations, encode_activations
from scenarios.errors import MissingDataError, ScenarioError
from scenarios.loading.data_checks import Rows, wrong_kind, wrong_values
from scenarios.loading.model_checks import one_for_each, shared_parts, unfit_cut, unfit_gradients
from scenarios.partition import client_rows
from scenarios.schema.scenario import Scenario, client_names
from scenarios.seeded import seeded
from scenarios.seeds import derive_seed, generator
from scenarios.task import Dataset, Split, Task
from scenarios.tasks import task_of

MOST_ROWS = 32
"""In the batch that is tried: enough to see every mistake, and quick with any model."""


def rehearse(scenario: Scenario, task: Task | None = None) -> Dataset:
    """Load the data of a scenario's task, and try everything that the run will do with them.

    Args:
        scenario: what is to run.
        task: its task, as of task_of; made here if None.

    Returns:
        The data, for the run.

    Raises:
        MissingDataError: the data are not here, or too few for the fleet.
        ScenarioError: the task, or its data, cannot be used; the sentence says why.
    """
    task = task or task_of(scenario)
    data = _data(scenario, task)
    shares = _shares(scenario, data)
    with _telling(scenario):
        _refuse_values(data.train, task, shares)
        _refuse(wrong_values(data.test, task, whose="the test split"))
        head, tail = _made(scenario, task)
        split = scenario.training.method == "split"
        _refuse(shared_parts(head, tail) if split else None)
        trial = _Trial(scenario, task, head, tail)
        trial.train(data.train, _batch_of(scenario, task, data.train, shares))
        trial.score(data.test)
        smallest = min(shares, key=lambda client: len(shares[client]))
        if min(len(shares[smallest]), scenario.task.batch_size) == 1:
            trial.train_one(data.train, shares[smallest][:1], smallest)
    return data


def rehearse_devices(scenario: Scenario, task: Task, clients: Sequence[str]) -> Dataset:
    """Load a task's data and try what devices do: their own rows, through the head alone.

    A device may not have the memory for the tail, and what is wrong with other clients' rows is not its
    business.

    Args:
        scenario: what is to run.
        task: its task, as of task_of.
        clients: names of the clients that are here.

    Raises:
        MissingDataError: the data are not here, or too few for the fleet.
        ScenarioError: the task, or these clients' data, cannot be used; the sentence says why.
    """
    data = _data(scenario, task)
    shares = _shares(scenario, data)
    own = {client: shares[client] for client in clients}
    with _telling(scenario):
        _refuse_values(data.train, task, own)
        with seeded(derive_seed(scenario.seed, "rehearsal")):
            trial = _Trial(scenario, task, task.head(), nn.Identity())
        if own:
            trial.forward(data.train, _batch_of(scenario, task, data.train, own))
    return data


def data_missing(scenario: Scenario) -> str:
    """Rehearse a scenario; say why durations alone can be simulated here, or give an empty text.

    Raises:
        ScenarioError: as of rehearse, but for MissingDataError.
    """
    try:
        rehearse(scenario)
    except MissingDataError as error:
        return str(error)
    return ""


class _Wrong(Exception):  # noqa: N818 - it is always told as a ScenarioError
    """A sentence about a mistake in a task."""


class _telling:  # noqa: N801 - used like a function
    """Context manager that tells a mistake as one of the key that names the task."""

    def __init__(self, scenario: Scenario) -> None:
        self._key = "task.module" if scenario.task.module else "task.name"

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, _Wrong):
            raise ScenarioError(str(error), key=self._key) from error


def _refuse(wrong: str | None) -> None:
    if wrong:
        raise _Wrong(wrong)


def _refuse_values(train: Split, task: Task, shares: dict[str, Rows]) -> None:
    """Refuse values of some clients' rows, and name the client; what nobody has may be wrong."""
    if wrong_values(train, task, whose="all clients"):
        for client, rows in shares.items():
            _refuse(wrong_values(train, task, whose=f"client {client}", rows=rows))


def _tried(what: str, act: Callable[[], Any], hint: str = "") -> Any:
    """Do what may run a user's code; whatever it raises becomes a sentence."""
    try:
        return act()
    except (ScenarioError, _Wrong):
        raise
    except Exception as error:  # whatever the user's code raises
        text = " ".join(str(error).split())
        raise _Wrong(f"{what} fails: {type(error).__name__}: {text}{hint}") from error


def _data(scenario: Scenario, task: Task) -> Dataset:
    with _telling(scenario):
        try:
            data = _tried("load() of the task", task.load)
        except MissingDataError as error:
            if scenario.task.path is not None:  # a folder that the scenario names must be right
                raise ScenarioError(error.detail, key=error.key) from error
            raise
        _refuse(wrong_kind(data, task))
    return data  # type: ignore[no-any-return]


def _shares(scenario: Scenario, data: Dataset) -> dict[str, Rows]:
    return dict(zip(client_names(scenario), client_rows(scenario, data), strict=True))


def _made(scenario: Scenario, task: Task) -> tuple[nn.Module, nn.Module]:
    """Make head and tail as the run does, twice: both times they must be new, with the same weights."""
    made: list[tuple[nn.Module, nn.Module]] = []
    for _ in range(2):
        with seeded(derive_seed(scenario.seed, "model")):
            head = _tried("head() of the task", task.head)
            made.append((head, _tried("tail() of the task", task.tail)))
    for name, first, second in zip(("head", "tail"), *made, strict=True):
        if not isinstance(first, nn.Module):
            raise _Wrong(f"{name}() must give a torch.nn.Module, not {type(first).__name__}")
        if {*map(id, first.parameters())} & {*map(id, second.parameters())}:
            raise _Wrong(f"{name}() gives the same parameters each time: it must make a new module")
        pairs = zip(first.parameters(), second.parameters(), strict=True)
        if not all(torch.equal(one, other) for one, other in pairs):
            raise _Wrong(
                f"{name}() gives other weights each time: they must come from torch's random numbers alone"
            )
    return made[0]


def _batch_of(scenario: Scenario, task: Task, train: Split, shares: dict[str, Rows]) -> Rows:
    """Choose the rows to try: those of a batch of the largest client, and the rows with extreme numbers.

    Extreme are the smallest and the largest integer, such as a word that an embedding does not have. The
    number of rows differs from every size of the task, so that no other dimension looks like that of samples.
    """
    own = max(shares.values(), key=len)
    size = min(len(own), scenario.task.batch_size, MOST_ROWS)
    rows = list(map(int, own[: max(size, 2)]))
    inputs = train.inputs
    if inputs.dtype in {torch.int64, torch.int32, torch.int16} and inputs.numel():
        known = np.concatenate(list(shares.values()))
        values = inputs[torch.from_numpy(known)].reshape(len(known), -1)
        extremes = (int(values.amin(1).argmin()), int(values.amax(1).argmax()))
        rows = [*(int(known[at]) for at in extremes), *rows]
    sizes = {task.classes, task.cut_size, *task.target_shape, *task.cut_shape}
    while len(rows) > 2 and len(rows) in sizes:  # noqa: PLR2004 - fewer rows than two tell nothing
        rows.pop()
    return np.array(rows, np.int64)


class _Trial:
    """Head and tail of a task, to send rows through; model_checks has what is checked."""

    def __init__(self, scenario: Scenario, task: Task, head: nn.Module, tail: nn.Module) -> None:
        self._scenario, self._task = scenario, task
        self._head, self._tail = head, tail
        self._split = scenario.training.method == "split"

    def forward(self, split: Split, rows: Rows) -> tuple[Tensor, Tensor]:
        """Send rows through the head; gives z, or with FedAvg the model's outputs, and the targets."""
        inputs, targets = split.batch(rows)
        name = "head" if self._split else "model"
        hint = "; inputs.float() makes them float32" if inputs.dtype == torch.float64 else ""
        self._head.train()
        with seeded(derive_seed(self._scenario.seed, "rehearsal")):
            z = _tried(f"the {name}, given inputs of {_form(inputs)},", lambda: self._head(inputs), hint)
        if self._split:
            _refuse(unfit_cut(z, len(rows), self._task))
        return z, targets

    def train(self, split: Split, rows: Rows) -> None:
        """Send rows through everything and back, as a step of a round does."""
        z, targets = self.forward(split, rows)
        if not self._split:
            self._losses(z, targets).mean().backward()  # type: ignore[no-untyped-call]
            _refuse(unfit_gradients(self._head, "model"))
            return
        arrived = self._through_codec(z.detach()).requires_grad_()
        self._losses(self._through_tail(arrived), targets).mean().backward()  # type: ignore[no-untyped-call]
        if arrived.grad is None:
            raise _Wrong("the loss does not depend on the activations: tail or loss cut the gradient off")
        if not torch.isfinite(arrived.grad).all():
            raise _Wrong("the gradient of the loss at the cut has values that are not finite")
        _refuse(unfit_gradients(self._tail, "tail"))
        _tried("the way back through the head", torch.dot(z.flatten(), arrived.grad.flatten()).backward)
        _refuse(unfit_gradients(self._head, "head"))

    def train_one(self, split: Split, rows: Rows, client: str) -> None:
        """Send a batch of one sample through, as a client with one sample, or batch_size 1, does."""
        try:
            self.train(split, rows)
        except _Wrong as error:
            raise _Wrong(f"client {client} has batches of one sample, and with one {error}") from error

    @torch.no_grad()
    def score(self, test: Split) -> None:
        """Score the first test rows, as an evaluation does."""
        count = min(len(test.targets), MOST_ROWS - 1)
        sizes = {self._task.classes, *self._task.target_shape}
        count -= count > 2 and count in sizes  # noqa: PLR2004 - fewer rows than two tell nothing
        inputs, targets = test.batch(slice(0, count))
        self._head.eval()
        self._tail.eval()
        what = f"the model, given test inputs of {_form(inputs)},"
        outputs = _tried(what, lambda: self._tail(self._head(inputs)))
        scores = _tried("score", lambda: self._task.score(outputs, targets))
        _refuse(one_for_each("score", scores, count))

    def _through_codec(self, z: Tensor) -> Tensor:
        codec = self._scenario.flows.activations_up
        rng = generator(self._scenario.seed, "rehearsal")
        what = f"{codec.codec}, for activations_up,"
        payload = _tried(what, lambda: encode_activations(codec, z.numpy(), rng)[0])
        arrived = torch.from_numpy(np.array(decode_activations(codec, payload, *z.shape)[0]))
        if not torch.isfinite(arrived).all():
            largest = float(z.abs().max())
            raise _Wrong(f"the activations go up to {largest:.3g}, too large for {codec.codec}")
        return arrived

    def _through_tail(self, arrived: Tensor) -> Any:
        self._tail.train()
        with seeded(derive_seed(self._scenario.seed, "rehearsal")):
            what = f"the tail, given activations of shape {tuple(arrived.shape)},"
            return _tried(what, lambda: self._tail(arrived))

    def _losses(self, outputs: Any, targets: Tensor) -> Tensor:
        losses = _tried(f"loss, given {_form(outputs)}", lambda: self._task.loss(outputs, targets))
        _refuse(one_for_each("loss", losses, len(targets)))
        if not losses.requires_grad:
            raise _Wrong("the loss has no gradient: it must be computed from the outputs by torch")
        return losses  # type: ignore[no-any-return]


def _form(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"outputs that are a {type(value).__name__}"
    return f"shape {tuple(value.shape)} and dtype {str(value.dtype).removeprefix('torch.')}"
