"""Tries a task before a run: a batch of its own rows goes through head, cut, tail, loss, score and back.

A mistake in a task of one's own would otherwise show after hours, far from its cause, or never: the run would
learn a wrong number. What is wrong is told in one sentence, with what was expected and what came.
"""

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from scenarios.errors import MissingDataError, ScenarioError
from scenarios.loading.own_data import read_own
from scenarios.loading.trial.data_checks import Rows, odd_scale, wrong_kind, wrong_split, wrong_values
from scenarios.loading.trial.memory import Need, refuse_small_devices, split_bytes
from scenarios.loading.trial.model_checks import shared_parts
from scenarios.loading.trial.trial import Trial, Wrong, batch_of, refuse, telling, tried
from scenarios.local.held_out import held_out
from scenarios.partition import client_rows
from scenarios.schema.scenario import Scenario, client_names
from scenarios.seeded import seeded
from scenarios.seeds import derive_seed
from scenarios.task import Dataset, Split, Task
from scenarios.tasks import task_of
from scenarios.training import module_tensors

log = logging.getLogger(__name__)

MOST_VALUES = 20_000_000
"""Of inputs that are loaded twice, to see whether they are the same."""


@contextmanager
def told_prints() -> Iterator[None]:
    """Keep what a task prints from standard output, where JSON lines may go, and say so once."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        yield
    if first := said.getvalue().partition("\n")[0]:
        log.warning("the task prints, such as '%s': with --json that goes between the JSON lines", first[:80])


def rehearse(scenario: Scenario, task: Task | None = None, *, with_devices: bool = True) -> Need | None:
    """Load the data of a scenario's task, and try everything that the run will do with them.

    Args:
        scenario: what is to run.
        task: its task, as of task_of; made here if None.
        with_devices: of a task whose devices have their own data, these are here too.

    Returns:
        The memory that a device with one client needs; of early cuts the most; None if no data are here.

    Raises:
        MissingDataError: the data are not here, or too few for the fleet.
        ScenarioError: the task, or its data, cannot be used, or a device of the fleet has too little memory;
            the sentence says why.
    """
    task = task or task_of(scenario)
    with told_prints():
        if scenario.task.partition == "local":
            needs = _rehearse_local(scenario, task, with_devices=with_devices)
        else:
            needs = _rehearse_shared(scenario, task)
    if needs:
        refuse_small_devices(scenario, needs)
    return max(needs.values(), key=sum, default=None)


def _rehearse_shared(scenario: Scenario, task: Task) -> dict[str | None, Need]:
    data = _data(scenario, task)
    if odd := odd_scale(data):
        log.warning("task %s: %s", task.name, odd)
    shares = _shares(scenario, data)
    with telling(scenario):
        _refuse_values(data.train, task, shares)
        refuse(wrong_values(data.test, task, whose="the test split"))
        _refuse_other_data(scenario, data)
        trial = _trial(scenario, task)
        rows = batch_of(scenario, task, data.train, shares)
        trial.train_twice(data.train, rows)
        trial.score(data.test)
        smallest = min(shares, key=lambda client: len(shares[client]))
        if min(len(shares[smallest]), scenario.task.batch_size) == 1:
            trial.train_one(data.train, shares[smallest][:1], smallest)
        largest = max(map(len, shares.values())) * split_bytes(data.train) // len(data.train)
        everything = split_bytes(data.train, data.test)
        return trial.needs(data.train, rows, own_bytes=largest, read_bytes=everything)


def _rehearse_local(scenario: Scenario, task: Task, *, with_devices: bool) -> dict[str | None, Need]:
    """Try the server's part on its test data, or on the data of the devices if they are here."""
    names = client_names(scenario) if with_devices else []
    shares: dict[str, Split] = {}
    largest = 0
    for client in names:
        own, kept = held_out(read_own(scenario, task, client), scenario.task.held_out, scenario.seed)
        largest = max(largest, split_bytes(own, kept))
        if len(own):
            shares[client] = own.take(np.arange(min(len(own), scenario.task.batch_size)))
    if names and not shares:
        raise ScenarioError("no client has any sample", key="task.data")
    test = None if scenario.task.held_out else _test(scenario, task)
    with telling(scenario):
        trial = _trial(scenario, task)
        first = next(iter(shares.values()), None)
        split = test or first
        if split is not None:
            trial.train_twice(split, _rows(scenario, task, split))
            trial.score(split)
        for client, split in shares.items():
            if len(split) == 1:
                trial.train_one(split, np.arange(1), client)
                break
        if first is None:
            return {}
        return trial.needs(first, _rows(scenario, task, first), own_bytes=largest, read_bytes=largest)


def _rows(scenario: Scenario, task: Task, split: Split) -> Rows:
    return batch_of(scenario, task, split, {"": np.arange(len(split))})


def _test(scenario: Scenario, task: Task) -> Split:
    with telling(scenario):
        test = tried("load_test() of the task" if task.load_test else "load() of the task", task.test)
        refuse(wrong_split("test", test, task) or wrong_values(test, task, whose="the test split"))
    return test  # type: ignore[no-any-return]


def _trial(scenario: Scenario, task: Task) -> Trial:
    head, tail = _made(scenario, task)
    refuse(shared_parts(head, tail) if scenario.training.method != "fedavg" else None)
    return Trial(scenario, task, head, tail)


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
    with telling(scenario):
        _refuse_values(data.train, task, own)
        with seeded(derive_seed(scenario.seed, "rehearsal")):
            trial = Trial(scenario, task, task.head(), nn.Identity())
        if own:
            trial.forward(data.train, batch_of(scenario, task, data.train, own))
    return data


def _refuse_values(train: Split, task: Task, shares: dict[str, Rows]) -> None:
    """Refuse values of some clients' rows, and name the client; what nobody has may be wrong."""
    if wrong_values(train, task, whose="all clients"):
        for client, rows in shares.items():
            refuse(wrong_values(train, task, whose=f"client {client}", rows=rows))


def _data(scenario: Scenario, task: Task) -> Dataset:
    with telling(scenario):
        try:
            data = tried("load() of the task", task.load)
        except MissingDataError as error:
            if scenario.task.path is not None:  # a folder that the scenario names must be right
                raise ScenarioError(error.detail, key=error.key) from error
            raise
        refuse(wrong_kind(data, task))
    return data  # type: ignore[no-any-return]


def _refuse_other_data(scenario: Scenario, data: Dataset) -> None:
    """Refuse a task of one's own whose data are others in each process: devices take rows by number."""
    known = (data.train.inputs, data.test.inputs)
    if scenario.task.module is None or sum(each.numel() for each in known) > MOST_VALUES:
        return
    again = tried("a second load() of the task", task_of(scenario).load)
    if not all(map(torch.equal, known, (again.train.inputs, again.test.inputs))):
        raise Wrong(
            "load() gives other data each time, yet all processes must have the same: seed its random numbers"
        )


def _shares(scenario: Scenario, data: Dataset) -> dict[str, Rows]:
    return dict(zip(client_names(scenario), client_rows(scenario, data), strict=True))


def _made(scenario: Scenario, task: Task) -> tuple[nn.Module, nn.Module]:
    """Make head and tail as the run does, twice: both times they must be new, with the same weights."""
    made: list[tuple[nn.Module, nn.Module]] = []
    for _ in range(2):
        with seeded(derive_seed(scenario.seed, "model")):
            head = tried("head() of the task", task.head)
            made.append((head, tried("tail() of the task", task.tail)))
    for name, first, second in zip(("head", "tail"), *made, strict=True):
        if not isinstance(first, nn.Module):
            raise Wrong(f"{name}() must give a torch.nn.Module, not {type(first).__name__}")
        if {*map(id, first.parameters())} & {*map(id, second.parameters())}:
            raise Wrong(f"{name}() gives the same parameters each time: it must make a new module")
        pairs = zip(module_tensors(first), module_tensors(second), strict=True)
        if not all(torch.equal(one, other) for one, other in pairs):
            raise Wrong(
                f"{name}() gives other weights each time: they must come from torch's random numbers alone"
            )
    return made[0]
