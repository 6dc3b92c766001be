"""Checks what the schema cannot: whether the parts of a scenario fit together, and fit its task.

No data are read.
"""

from collections.abc import Iterator

import torch

from scenarios.cutting.cut import CutError
from scenarios.errors import ScenarioError, in_words
from scenarios.heads.masters import HALF
from scenarios.heads.parts import form_of, kept_at_home, trained
from scenarios.loading.head_checks import head_problems
from scenarios.schema.base import Problem
from scenarios.schema.broker import BrokerSpec
from scenarios.schema.devices import DEVICES, device_of
from scenarios.schema.flows import unfit_at_cut, unfit_codecs
from scenarios.schema.network import taken_names, unknown_access_points
from scenarios.schema.scenario import Buffered, Deadline, OverSelect, Scenario, early_cuts
from scenarios.schema.task_spec import Skew
from scenarios.task import Task
from scenarios.tasks import task_of

MOST_BATCHES = 256
"""A head update has at most so many batches with it: MAX_BATCHES of broker.wire.round_messages."""


def problems(scenario: Scenario) -> list[Problem]:
    """Give everything that does not fit, as pairs of key and sentence."""
    found = [
        *_fleet(scenario),
        *_cuts(scenario),
        *_method(scenario),
        *_one_way(scenario),
        *_replay(scenario),
        *_warmup(scenario),
        *_stragglers(scenario),
    ]
    found += _broker(scenario.broker)
    try:
        task = task_of(scenario)
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
    for number, group in enumerate(scenario.fleet):
        if group.battery is not None and device_of(group.device).power is None:
            known = ", ".join(name for name, profile in DEVICES.items() if profile.power)
            yield (
                ("fleet", number, "battery"),
                f"needs a device whose power is known: {known}, or a profile with power",
            )
    yield from taken_names(scenario.fleet)
    yield from unknown_access_points(scenario.fleet, scenario.network)


def _cuts(scenario: Scenario) -> Iterator[Problem]:
    """Say what does not go with early cuts, wherever the head is cut."""
    for number, group in enumerate(scenario.fleet):
        timed = device_of(group.device).cut
        if timed is not None and timed != group.cut:
            has = "have none" if group.cut is None else f"have the cut '{group.cut}'"
            yield ("fleet", number, "device"), f"was timed with the cut '{timed}', and these clients {has}"
        if group.cut is None:
            continue
        if scenario.training.method != "split":
            yield (
                ("fleet", number, "cut"),
                "goes with method: split; fedavg has the whole model on devices, u_shape both its ends",
            )
        elif scenario.training.head_moments == "keep":
            yield (
                ("training", "head_moments"),
                "keep goes with whole heads: what the server does of one ends with the round; take reset",
            )


def _method(scenario: Scenario) -> Iterator[Problem]:
    if scenario.training.method == "u_shape" and scenario.training.aggregation == "filtered_mean":
        yield (
            ("training", "aggregation"),
            "filtered_mean goes with method: split; with u_shape the server has no labels: take clipped_mean",
        )
    if scenario.training.method == "u_shape" and scenario.training.tail_updates > 1:
        yield (
            ("training", "tail_updates"),
            "goes with method: split; with u_shape each update of the tail needs gradients of the devices",
        )
    if scenario.training.method != "fedavg":
        return
    if scenario.training.correction.lambda_:
        yield (
            ("training", "correction", "lambda"),
            "goes with method: split; fedavg sends no activations, there is nothing to correct",
        )
    if scenario.training.aggregation == "filtered_mean":
        yield (
            ("training", "aggregation"),
            "filtered_mean goes with method: split; with fedavg the server sees no labels: take clipped_mean",
        )
    for number, group in enumerate(scenario.fleet):
        if device_of(group.device).whole_model_s is None:
            yield (
                ("fleet", number, "device"),
                "method: fedavg needs whole_model_s, seconds of a batch through the whole model and back",
            )


def _one_way(scenario: Scenario) -> Iterator[Problem]:
    """Say what does not go with rounds without gradients."""
    training, key = scenario.training, ("training", "gradients_every")
    if not training.has_auxiliary:
        return
    if training.method != "split":
        yield (
            key,
            "other than 1 goes with method: split; u_shape cannot do without gradients, fedavg has none",
        )
    if early_cuts(scenario):
        yield key, "other than 1 goes with whole heads: leave cut out of the fleet"
    if scenario.flows.adaptive:
        yield key, "other than 1 does not go with flows.adaptive, which reckons with gradients in every round"
    if training.local_steps > MOST_BATCHES:
        why = f"must be at most {MOST_BATCHES} with rounds without gradients, whose batches go up together"
        yield ("training", "local_steps"), f"{why}, not {training.local_steps}"


def _replay(scenario: Scenario) -> Iterator[Problem]:
    if scenario.training.replay is None:
        return
    if scenario.training.method != "split":
        yield (
            ("training", "replay"),
            "goes with method: split; u_shape needs the devices for each step, fedavg has no activations",
        )
    elif early_cuts(scenario):
        yield ("training", "replay"), "goes with whole heads: leave cut out of the fleet"


def _warmup(scenario: Scenario) -> Iterator[Problem]:
    training = scenario.training
    if training.warmup_rounds >= training.rounds:
        yield (
            ("training", "warmup_rounds"),
            f"must be below the run's {training.rounds} rounds, not {training.warmup_rounds}",
        )


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
    if (broker.kind == "url") != (broker.url is not None):
        yield ("broker", "url"), "goes with kind: url, and that needs it"
        return
    brokers = broker.url or ()
    if broker.ca_file is not None and not any(address.tls for address in brokers):
        yield ("broker", "ca_file"), "goes with an mqtts:// url"
    if broker.password_file is not None and not any(address.username for address in brokers):
        yield ("broker", "password_file"), "goes with a url that names a user, as mqtts://user@host"


def _no_evaluation_by_devices(scenario: Scenario, task: Task) -> str | None:
    match scenario.training.method:
        case "u_shape" if task.metric_of is not None:
            return (
                f"with u_shape devices tell the sum of their scores, and {task.metric} is no mean of scores: "
                "give the server test data"
            )
        case "fedavg" if task.metric_of is not None:
            return (
                f"with fedavg devices send the score of each sample, and {task.metric} is no mean of scores: "
                "give the server test data"
            )
        case _:
            return None


def _own_data(scenario: Scenario, task: Task) -> Iterator[Problem]:
    spec = scenario.task
    if spec.partition != "local":
        for key, value in (("data", spec.data), ("held_out", spec.held_out)):
            if value:
                yield ("task", key), "goes with partition: local; here devices take shares of the task's data"
    elif spec.held_out and (why := _no_evaluation_by_devices(scenario, task)):
        yield ("task", "held_out"), why
    elif not (task.has_test or spec.held_out):
        yield (
            ("task", "held_out"),
            f"{task.name} has no test data for the server: state a share of each device's rows, such as 0.2",
        )


def _task(scenario: Scenario, task: Task) -> Iterator[Problem]:
    yield from _own_data(scenario, task)
    partition = scenario.task.partition
    if isinstance(partition, Skew) and partition.by_label and not task.kind.has_one_class:
        yield (
            ("task", "partition"),
            f"{partition.by_label} needs one class per sample; this task has other targets",
        )
    if scenario.training.aggregation == "filtered_mean" and not task.kind.has_one_class:
        yield (
            ("training", "aggregation"),
            "filtered_mean needs one class per sample; this task has other targets: take clipped_mean",
        )
    own = ("task", "module") if scenario.task.module else ("task", "name")
    head = "whole model" if scenario.training.method == "fedavg" else "head"
    try:
        model = task.head()
    except Exception as error:  # noqa: BLE001 - whatever the user's code raises
        yield own, f"the task's {head} cannot be made: {in_words(error)}"
        return
    if any(parameter.dtype not in (torch.float32, *HALF) for parameter in trained(model)):
        yield (
            own,
            f"the parameters of the task's {head} must be of 32 or 16 bits, unless they are frozen",
        )
        return
    if scenario.training.batch_norm == "local" and not kept_at_home(model):
        yield ("training", "batch_norm"), f"local goes with batch norm in the {head}; there is none"
    if scenario.training.has_auxiliary and not form_of(model).learns:
        yield ("training", "gradients_every"), "other than 1 needs a head that is trained; this one is frozen"
    parameters = form_of(model).parameters
    sizes = dict.fromkeys(("head_update_up", "head_state_down"), parameters) if parameters else {}
    if scenario.training.method != "fedavg":
        sizes |= {"activations_up": task.cut_size, "gradient_down": task.cut_size}
    if scenario.training.method == "u_shape":
        sizes |= {"features_down": task.features_size, "feature_gradient_up": task.features_size}
    yield from unfit_codecs(scenario.flows, sizes, scenario.task.batch_size)
    yield from head_problems(scenario)
    if scenario.training.method == "split":
        yield from _early_cuts(scenario, task)


def _early_cuts(scenario: Scenario, task: Task) -> Iterator[Problem]:
    """Say which early cuts the head does not have, and which codecs do not go with them."""
    told = set[Problem]()
    for number, group in enumerate(scenario.fleet):
        if group.cut is None:
            continue
        try:
            early = task.early(group.cut)
        except (CutError, ScenarioError) as error:
            yield ("fleet", number, "cut"), error.detail if isinstance(error, ScenarioError) else str(error)
            continue
        sizes = dict.fromkeys(("activations_up", "gradient_down"), early.cut_size)
        if early.form.parameters:
            sizes |= dict.fromkeys(("head_update_up", "head_state_down"), early.form.parameters)
        codecs = scenario.flows.codecs_for(group.link, group.cut)
        for problem in unfit_at_cut(scenario.flows, codecs, group.cut, sizes):
            if problem not in told:
                told.add(problem)
                yield problem
