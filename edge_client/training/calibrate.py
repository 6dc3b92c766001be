"""Measures a device's computation on the machine it runs on: a device's own jobs, phase by phase."""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import numpy as np

from broker.codecs import codec_to_wire, encode_activations, encode_gradient
from broker.wire.messages import Assignment, Features, Gradient
from edge_client.jobs import BackwardStep, FirstBatch, TopStep
from edge_client.training.device import Device
from scenarios.errors import ScenarioError
from scenarios.heads.auxiliary import with_auxiliary
from scenarios.heads.parts import form_of
from scenarios.heads.payload import HeadCodec
from scenarios.loading.own_data import own_place, read_own
from scenarios.schema.devices import DeviceProfile
from scenarios.schema.flows import Codecs
from scenarios.schema.scenario import Scenario, client_names
from scenarios.schema.training import Training
from scenarios.seeds import generator
from scenarios.task import Split, Task
from scenarios.tasks import load_task, task_of
from scenarios.training import head_origin, initial_head, uncut

CLIENT = "calibrate"


def timed_batches(scenario: Scenario, pause_s: float, cut: str | None = None) -> Iterator[dict[str, float]]:
    """Train one batch after another, without end, on gradients of zeros: the head stays as it is.

    With method fedavg the whole model is measured as well, at a learning rate of zero. What a device does
    once in a round (take the head, encode its change) is left out.

    Args:
        scenario: gives task, codecs and batch size.
        pause_s: before each batch. A device computes after it has waited for the network, and its caches
            are cold by then: without a pause the same work takes a third less.
        cut: layer of an early cut; then the device has the head up to there.

    Yields:
        Seconds of the phases of a batch: compute, encode, decode, backward; train in FedAvg; in a U-shape
        top, with features decoded and their gradient encoded.

    Raises:
        ScenarioError: the task's data cannot be found, or its head cannot be cut there.
    """
    flows, method = scenario.flows, scenario.training.method
    codecs = flows.codecs_for("none", cut)
    task = load_task(scenario.task, "u_shape" if method == "u_shape" else "split")
    if scenario.training.has_auxiliary:  # its time is part of the way back
        task = with_auxiliary(task, scenario.seed)
    if cut is not None:
        task = _up_to(task, scenario, cut)
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(phase: str) -> Iterator[None]:
        begun_s = time.perf_counter()
        yield
        seconds[phase] = time.perf_counter() - begun_s

    shape = {} if method == "u_shape" else {"method": "split"}
    split = scenario.training.model_copy(update={"gradients_every": 1} | shape)
    device, start = _device(task, scenario, split, codecs, timed)
    alone = scenario.training.model_copy(update={"local_steps": 1, "head_lr": 0.0})
    fedavg = _device(uncut(task), scenario, alone, codecs, timed) if alone.method == "fedavg" else None
    zeros = np.zeros((device.stock.samples, task.cut_size), np.float32)
    rng = generator(scenario.seed, CLIENT)
    _, _, codewords = encode_activations(codecs.activations_up, zeros, rng)
    gradient = encode_gradient(codecs.gradient_down, zeros, codewords, rng)
    device.run(start)
    features = flows.features_down.encode(
        np.zeros((device.stock.samples, max(task.features_size, 1)), np.float32), rng
    )
    for number in itertools.count():
        time.sleep(pause_s)
        step = number
        if method == "u_shape":
            step = 2 * number + 1
            device.run(TopStep(CLIENT, Features(1, 1, step - 1, 1, features)))
            of_top = sum(seconds[phase] for phase in ("decode", "top", "encode"))
            time.sleep(pause_s)
        if fedavg is not None:
            whole, start = fedavg
            whole.run(start)
        device.run(
            BackwardStep(
                CLIENT, Gradient(1, 1, step, 1, scenario.training.lambda_in(1, 1.0), gradient), last=False
            )
        )
        yield seconds | {"top": of_top} if method == "u_shape" else dict(seconds)


def _up_to(task: Task, scenario: Scenario, cut: str) -> Task:
    """Give a task with the part of its head that a device with an early cut has."""
    early = task_of(scenario).early(cut)
    return replace(task, cut_shape=early.cut_shape, head=lambda: early.part_of(task.head()))


def _device(
    task: Task,
    scenario: Scenario,
    training: Training,
    codecs: Codecs,
    timed: Callable[[str], AbstractContextManager[None]],
) -> tuple[Device, FirstBatch]:
    """Make a device, and the job that begins its round."""
    initial = initial_head(task, scenario.seed)
    device = Device(
        task,
        initial,
        _batch(task, scenario),
        client=CLIENT,
        seed=scenario.seed,
        batch_size=scenario.task.batch_size,
        training=training,
        timed=timed,
    )
    up, down, update, state, *features = map(codec_to_wire, codecs)
    state_codec = codecs.head_state_down
    form = form_of(task.head())
    own = HeadCodec(state_codec, form.statistics, form.shapes)
    head = own.encode(initial - head_origin(state_codec, initial), generator(scenario.seed, CLIENT))
    assignment = Assignment(
        server=1,
        round=1,
        attempt=1,
        steps=0 if training.method == "fedavg" else 1,
        head_lr=training.head_lr,
        codecs=(up, down, update, state),
        head=head,
        features=tuple(features) if training.method == "u_shape" else (),
    )
    return device, FirstBatch(CLIENT, assignment)


def _batch(task: Task, scenario: Scenario) -> Split:
    """Give a full batch of samples; of own data those of the first client, several times if they are few."""
    batch = np.arange(scenario.task.batch_size)
    if scenario.task.partition != "local":
        return task.load().train.take(batch)
    first = client_names(scenario)[0]
    own = read_own(scenario, task, first, own_place(scenario, first, alone=True))
    if not len(own):
        raise ScenarioError(f"client {first} has no samples to measure with", key="task.data")
    return own.take(batch % len(own))


def device_profile(
    scenario: Scenario, seconds: Mapping[str, float], source: str, cut: str | None = None
) -> DeviceProfile:
    """Give the profile of a device that takes so long for the phases of a full batch, with this early cut."""
    return DeviceProfile(
        batch_size=scenario.task.batch_size,
        cut=cut,
        forward_s=seconds["compute"],
        encode_s=seconds["encode"],
        decode_s=seconds["decode"],
        backward_s=seconds["backward"],
        top_s=seconds.get("top"),
        whole_model_s=seconds.get("train"),
        source=source,
    )
