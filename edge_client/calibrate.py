"""Measures a device's computation on the machine it runs on: a device's own jobs, phase by phase."""

import itertools
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from broker.codecs import codec_to_wire
from broker.messages import Assignment, Gradient
from edge_client.core import Learn, Start
from edge_client.device import Device
from scenarios.devices import DeviceProfile
from scenarios.schema import Scenario
from scenarios.seeds import generator
from scenarios.task import head_vector, initial_model
from scenarios.tasks import load_task

CLIENT = "calibrate"


def timed_batches(scenario: Scenario) -> Iterator[dict[str, float]]:
    """Train one batch after another, without end, on gradients of zeros: the head stays as it is.

    What a device does once in a round (take the head, encode its change) is left out.

    Yields:
        Seconds of the phases of a batch: compute, encode, decode, backward.

    Raises:
        ScenarioError: the task's data cannot be found.
    """
    task, flows = load_task(scenario.task), scenario.flows
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(phase: str) -> Iterator[None]:
        begun_s = time.perf_counter()
        yield
        seconds[phase] = time.perf_counter() - begun_s

    device = Device(
        task,
        task.load().train.take(np.arange(scenario.task.batch_size)),
        client=CLIENT,
        seed=scenario.seed,
        batch_size=scenario.task.batch_size,
        training=scenario.training,
        timed=timed,
    )
    rng = generator(scenario.seed, CLIENT)
    head = flows.head_state_down.encode(head_vector(initial_model(task, scenario.seed)[0])[None, :], rng)
    zeros = np.zeros((device.samples, task.cut_size), np.float32)
    gradient = flows.gradient_down.encode(zeros, rng)
    specs = (
        codec_to_wire(flows.activations_up),
        codec_to_wire(flows.gradient_down),
        codec_to_wire(flows.head_update_up),
        codec_to_wire(flows.head_state_down),
    )
    device.run(Start(CLIENT, Assignment(1, 1, 1, specs, head)))
    for step in itertools.count():
        device.run(
            Learn(CLIENT, Gradient(1, step, 1, scenario.training.correction.lambda_, gradient), last=False)
        )
        yield dict(seconds)


def device_profile(scenario: Scenario, seconds: Mapping[str, float], source: str) -> DeviceProfile:
    """Give the profile of a device that takes so long for the phases of a full batch."""
    return DeviceProfile(
        batch_size=scenario.task.batch_size,
        forward_s=seconds["compute"],
        encode_s=seconds["encode"],
        decode_s=seconds["decode"],
        backward_s=seconds["backward"],
        source=source,
    )
