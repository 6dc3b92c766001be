"""Who does the jobs of a simulated run: real training, or stand-ins that give answers of the right size."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from broker.protocol import Job
from edge_client.live import make_devices
from scenarios.errors import ScenarioError
from scenarios.partition import client_rows
from scenarios.schema import Scenario
from scenarios.task import Task, head_vector, initial_model
from server_node.core import Plan
from server_node.live import make_plan
from server_node.tail import Tail
from sim.fabricate import FabricatedDevice, FabricatedTail

Run = Callable[[Job], object]

INCARNATION = "virtual0"
"""As long as a live server's, which is random: messages have the same sizes."""


@dataclass(frozen=True, slots=True)
class Workers:
    """Who does the jobs.

    Attributes:
        plan: what the server's state machine must know.
        tail: does the server's jobs.
        devices: do the clients' jobs, in the order of the fleet.
        samples: that each device has.
        model: head and tail of the server; None when nothing is trained.
    """

    plan: Plan
    tail: Run
    devices: Sequence[Run]
    samples: Sequence[int]
    model: tuple[nn.Module, nn.Module] | None


def training(scenario: Scenario, task: Task) -> Workers:
    """Let everybody really train.

    Raises:
        ScenarioError: data that cannot be found or divided.
    """
    head, tail = initial_model(task, scenario.seed)
    plan = _plan(scenario, task, head_vector(head).size)
    devices = make_devices(scenario, plan.clients)
    worker = Tail(
        task,
        task.load().test,
        head=head,
        tail=tail,
        plan=plan,
        training=scenario.training,
    )
    return Workers(
        plan,
        worker.run,
        [device.run for device in devices.values()],
        [device.samples for device in devices.values()],
        (head, tail),
    )


def stand_ins(scenario: Scenario, task: Task) -> Workers:
    """Compute nothing. The task gives shapes and, if its data can serve the fleet, everybody's samples.

    A fleet that is larger than the data, or has none at hand, is taken to have full batches.
    """
    with torch.device("meta"):
        head_size = sum(parameter.numel() for parameter in task.head().parameters())
    plan = _plan(scenario, task, head_size)
    try:
        samples = [len(rows) for rows in client_rows(scenario, task.load())]
    except ScenarioError:
        samples = [plan.batch_size] * len(plan.clients)
    device = functools.cache(lambda count, codecs: FabricatedDevice(plan, codecs, count).run)
    devices = [
        device(min(count, plan.batch_size), plan.codecs_of(client))
        for client, count in zip(plan.clients, samples, strict=True)
    ]
    return Workers(plan, FabricatedTail(plan).run, devices, samples, None)


def _plan(scenario: Scenario, task: Task, head_size: int) -> Plan:
    return make_plan(scenario, task, run=scenario.name, incarnation=INCARNATION, head_size=head_size)
