"""Tries the tail and the loss on the GPU on which the server will compute."""

import torch

from scenarios.computing.placing import CPU, place_named, placed
from scenarios.loading.trial.trial import telling, tried
from scenarios.schema.scenario import Scenario
from scenarios.seeded import seeded
from scenarios.seeds import derive_seed
from scenarios.task import Task
from scenarios.tasks import test_of
from scenarios.training import initial_model

ROWS = 8
HINT = "; tensors of the task's own must be parameters or buffers, or be moved: weights.to(outputs.device)"


def server_place(scenario: Scenario, task: Task) -> torch.device:
    """Give the place where the server computes; on a GPU, send a batch through tail and loss there, and back.

    On the CPU the rehearsal has done so. A tail or a loss may have a tensor of its own, such as weights of
    classes, that stays on the CPU: then every batch would be refused.

    Args:
        scenario: names the place.
        task: its task. If the server has no test data, only the tail is tried.

    Raises:
        ScenarioError: there is no such GPU, or the task does not compute there.
    """
    place = place_named(scenario.server.device, "server.device")
    if place == CPU:
        return place
    known = test_of(scenario, task)
    method, n = scenario.training.method, min(ROWS, len(known)) if known else ROWS
    with telling(scenario), seeded(derive_seed(scenario.seed, "rehearsal")):
        head, tail = (half.to(place) for half in initial_model(task, scenario.seed))
        if method == "fedavg":
            if known:
                inputs = known.batch(slice(n))[0].to(place)
                tried(f"the model, on {place.type},", lambda: head(inputs), HINT)
            return place
        z = torch.zeros(n, task.cut_size).to(place).requires_grad_()
        outputs = tried(f"the tail, on {place.type},", lambda: tail(z), HINT)
        if known and method == "split":
            targets = placed(known.batch(slice(n))[1], place)
            loss = tried(f"loss, on {place.type},", lambda: task.loss(outputs, targets).sum(), HINT)
            tried(f"the way back, on {place.type},", loss.backward, HINT)
    return place
