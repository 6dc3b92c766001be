"""A task's own batches: activations at the cut, their gradients, and what these do to the head.

Letters as in the paper: z activations at the cut, shape (n, d); g the gradient of the loss at z.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scenarios.errors import MissingDataError
from scenarios.loading.own_data import read_own
from scenarios.partition import client_rows
from scenarios.schema.scenario import Scenario, client_names
from scenarios.seeded import seeded
from scenarios.seeds import derive_seed
from scenarios.task import Split, Task
from scenarios.training import BatchSampler, initial_model


@dataclass(frozen=True)
class FirstBatch:
    """A batch of one client that has gone through head and tail once.

    Attributes:
        z: shape (n, d), float32.
        g: shape (n, d), float32; of the mean loss of the batch. None if the head is not trained.
    """

    z: npt.NDArray[np.float32]
    g: npt.NDArray[np.float32] | None
    _output: Tensor
    _parameters: tuple[Tensor, ...]

    @cached_property
    def gradient(self) -> npt.NDArray[np.float32]:
        """The exact gradient of the head's parameters, as one vector."""
        assert self.g is not None
        return self.at_head(self.g)

    def at_head(self, g: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Give the gradient of the head's parameters, as one vector, that a gradient at the cut brings."""
        found: tuple[Tensor | None, ...] = torch.autograd.grad(
            self._output, self._parameters, torch.from_numpy(g), retain_graph=True, allow_unused=True
        )
        return np.concatenate([each.reshape(-1).numpy() for each in found if each is not None])


def first_batches(scenario: Scenario, task: Task, rows: int, run: Path | None = None) -> Iterator[FirstBatch]:
    """Send batches of a fleet's clients through head and tail, until there are `rows` rows.

    Each batch is one client's, as in a run; the clients take turns. The scenario's seed decides all of it.

    Args:
        scenario: whose clients.
        task: of the scenario.
        rows: how many, at least.
        run: folder of a run that has trained the weights; None: they are those that a run starts from.

    Raises:
        MissingDataError: the data are not here, or no client has any.
        RunError: see `load_weights`.
    """
    head, tail = initial_model(task, scenario.seed)
    if run is not None:
        from sim.advice.weights import load_weights  # noqa: PLC0415  needs a package of an extra

        load_weights(run, head, tail)
    parameters = tuple(each for each in head.parameters() if each.requires_grad)
    shares = [(client, split) for client, split in islice(_shares(scenario, task), rows) if len(split)]
    if not shares:
        raise MissingDataError("no client has any data", key="task.data")
    done = step = 0
    while done < rows:
        for client, split in shares:
            size = scenario.task.batch_size
            picked = BatchSampler(len(split), size, scenario.seed, client).rows(1, step)
            inputs, targets = split.batch(picked)
            with seeded(derive_seed(scenario.seed, "advise", client, step)):
                output = head(inputs)
                cut = output.detach().requires_grad_()
                loss = task.loss(tail(cut), targets).mean()
            gradient = torch.autograd.grad(loss, cut)[0].numpy() if parameters else None
            yield FirstBatch(output.detach().numpy(), gradient, output, parameters)
            done += len(picked)
            if done >= rows:
                return
        step += 1


def _shares(scenario: Scenario, task: Task) -> Iterator[tuple[str, Split]]:
    """Give the clients with their rows, one after the other."""
    names = client_names(scenario)
    if scenario.task.partition == "local":
        for client in names:
            yield client, read_own(scenario, task, client)
        return
    data = task.load()
    for client, rows in zip(names, client_rows(scenario, data), strict=True):
        yield client, data.train.take(rows)
