"""What must fit together in a scenario, and with its task; no data are read."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import torch

from scenarios.document import Key
from scenarios.errors import ScenarioError
from scenarios.network import unknown_access_points
from scenarios.schema import BrokerSpec, Buffered, Deadline, Dirichlet, OverSelect, Scenario
from scenarios.task import Task
from scenarios.tasks import load_task

Problem = tuple[Key, str]


def problems(scenario: Scenario) -> list[Problem]:
    """Give all that does not fit, as pairs of key and sentence."""
    found = [*_fleet(scenario), *_stragglers(scenario), *_broker(scenario.broker)]
    try:
        task = load_task(scenario.task)
    except ScenarioError as error:
        return [*found, (tuple(error.key.split(".")), error.detail)]
    return [*found, *_task(scenario, task)]


def _fleet(scenario: Scenario) -> Iterator[Problem]:
    if not scenario.fleet:
        yield ("fleet",), "must have at least one group of clients"
    elif scenario.training.cohort > scenario.fleet_size:
        yield (
            ("training", "cohort"),
            f"must be at most the fleet's {scenario.fleet_size} clients, not {scenario.training.cohort}",
        )
    yield from unknown_access_points(scenario.fleet, scenario.network)


def _stragglers(scenario: Scenario) -> Iterator[Problem]:
    cohort = scenario.training.cohort
    match scenario.stragglers:
        case Deadline(minimum=minimum) if minimum > cohort:
            yield ("stragglers", "minimum"), f"must be at most the cohort's {cohort} clients, not {minimum}"
        case OverSelect(extra=extra) if cohort + extra > scenario.fleet_size:
            most = scenario.fleet_size - cohort
            yield ("stragglers", "extra"), f"must be at most {most}, the fleet without a cohort, not {extra}"
        case Buffered(buffer=buffer) if buffer > cohort:
            yield ("stragglers", "buffer"), f"must be at most the cohort's {cohort} clients, not {buffer}"


def _broker(broker: BrokerSpec) -> Iterator[Problem]:
    key = ("broker", "url")
    if (broker.kind == "url") != (broker.url is not None):
        yield key, "goes with kind: url, and that needs it"
        return
    scheme = ""
    if broker.url is not None:
        try:
            parts = urlsplit(broker.url)
            scheme = parts.scheme
            fits = scheme in {"mqtt", "mqtts"} and parts.hostname and parts.port != 0
        except ValueError:  # a port that is none
            fits = False
        if not fits:
            yield key, f"must be like mqtt://host[:port] or mqtts://host[:port], not '{broker.url}'"
    if broker.ca_file is not None and scheme != "mqtts":
        yield ("broker", "ca_file"), "goes with an mqtts:// url"


def _task(scenario: Scenario, task: Task) -> Iterator[Problem]:
    if isinstance(scenario.task.partition, Dirichlet) and task.target_shape:
        yield ("task", "partition"), "dirichlet_alpha needs one class per sample; this task has several"
    own = ("task", "module") if scenario.task.module else ("task", "name")
    try:
        head = task.head()
    except Exception as error:  # noqa: BLE001 - whatever the user's code raises
        yield own, f"the task's head cannot be made: {type(error).__name__}: {error}"
        return
    parameters = list(head.parameters())
    if not parameters or any(parameter.dtype != torch.float32 for parameter in parameters):
        yield own, "the task's head must have parameters, all of them float32"
        return
    if list(head.buffers()):
        yield (
            own,
            "the task's head must have no buffers, devices share parameters only: GroupNorm, not BatchNorm",
        )
    sizes = {"activations_up": task.cut_size, "gradient_down": task.cut_size}
    sizes |= dict.fromkeys(
        ("head_update_up", "head_state_down"), sum(parameter.numel() for parameter in parameters)
    )
    for flow, d in sizes.items():
        try:
            getattr(scenario.flows, flow).check(d)
        except ValueError as error:
            yield ("flows", flow), str(error)
