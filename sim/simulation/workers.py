"""Does the jobs of a simulated run: by real training, or by stand-ins whose answers have the right size."""

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from threadpoolctl import threadpool_limits
from torch import nn

from broker.machine.actions import R
from edge_client.jobs import ClientJob, ClientResult, Stock
from edge_client.training.device import Device
from edge_client.training.device_state import DeviceState
from edge_client.training.devices import make_devices
from scenarios.computing.placing import place_named
from scenarios.errors import ScenarioError
from scenarios.heads.parts import HeadForm, form_of
from scenarios.loading.own_data import read_own
from scenarios.loading.published import offer_scenario
from scenarios.loading.trial.at_server import server_place
from scenarios.partition import client_rows
from scenarios.schema.scenario import Scenario
from scenarios.task import Task
from scenarios.tasks import test_of
from scenarios.training import initial_model
from server_node.learning.tail_state import TailState
from server_node.tail import Tail
from server_node.vocabulary.jobs import TailJob, TailResult
from server_node.vocabulary.plan import Plan, make_plan
from sim.simulation.recorder import Recorder, RunJob
from sim.simulation.synthetic import SyntheticClimber, SyntheticDevice, SyntheticTail


@dataclass(frozen=True, slots=True)
class Learners:
    """Who really trains.

    Attributes:
        tail: the server's.
        devices: by client.
        recorder: hands them their jobs.
        pool: of threads.
    """

    tail: Tail
    devices: Mapping[str, Device]
    recorder: Recorder
    pool: ThreadPoolExecutor

    @property
    def model(self) -> tuple[nn.Module, nn.Module]:
        """Head and tail of the server."""
        return self.tail.head, self.tail.tail

    def state(self) -> tuple[TailState, dict[str, DeviceState]]:
        """Give what all have learned; call it when no job is under way."""
        states = {client: device.state() for client, device in self.devices.items()}
        return self.tail.state(), {client: state for client, state in states.items() if state is not None}

    def data(self) -> dict[str, str]:
        """Give a digest of each device's samples, by client."""
        digests = self.pool.map(lambda device: device.data.digest(), self.devices.values())
        return dict(zip(self.devices, digests, strict=True))

    def restore(self, tail: TailState, devices: Mapping[str, DeviceState]) -> None:
        """Have learned what `state` gave."""
        self.tail.restore(tail)
        list(self.pool.map(lambda client: self.devices[client].restore(devices[client]), devices))


@dataclass(frozen=True, slots=True)
class Workers:
    """Who does the jobs.

    Attributes:
        plan: what the server's state machine must know.
        tail: does the server's jobs.
        devices: do the clients' jobs, in the order of the fleet.
        stocks: how many samples each device has.
        learners: tail and devices; None when nothing is trained.
    """

    plan: Plan
    tail: RunJob[TailJob, TailResult]
    devices: Sequence[RunJob[ClientJob, ClientResult]]
    stocks: Sequence[Stock]
    learners: Learners | None


@contextmanager
def training(
    scenario: Scenario, task: Task, recorder: Recorder, threads: int | None = None
) -> Iterator[Workers]:
    """Train for real; devices that work at the same virtual time do so in parallel, on a pool of threads.

    The result of a job depends on its device alone, so it does not matter when the job is really done.

    Args:
        scenario: what to run.
        task: its task.
        recorder: hands jobs to the threads.
        threads: how many devices at the same time; as many as there are cores if None.

    Raises:
        ScenarioError: data that cannot be found or divided, a GPU that is not there.
    """
    head, tail = initial_model(task, scenario.seed)
    plan = _plan(scenario, task, form_of(head))
    if plan.own_rows:
        recorder.hollow = plan.whole_head.head_codec(plan.codecs.head_state_down).hollow
    of_heads = place_named(scenario.simulation.device, "simulation.device")
    devices = make_devices(scenario, plan.clients, place=of_heads, task=task)
    test, training = test_of(scenario, task), scenario.training
    place = server_place(scenario, task)
    # One torch thread per job: the number of threads changes the order of float additions and so the last
    # bits of results.
    with threadpool_limits(1), _pool(threads or os.cpu_count() or 1) as pool, _pool(1) as own:
        worker = Tail(
            task,
            test,
            head=head,
            tail=tail,
            plan=plan,
            training=training,
            map_batches=pool.map,
            place=place,
        )
        yield Workers(
            plan,
            recorder.on(own, worker.run),
            [recorder.on(pool, device.run) for device in devices.values()],
            [device.stock for device in devices.values()],
            Learners(worker, devices, recorder, pool),
        )


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Make a pool of threads that use one torch thread each; at the end, jobs not yet begun are cancelled."""
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def settled(result: R | Future[R]) -> R:
    """Give what a job came to; wait for it if it is a Future."""
    return result.result() if isinstance(result, Future) else result


@contextmanager
def stand_ins(scenario: Scenario, task: Task) -> Iterator[Workers]:
    """Compute nothing: the task only gives shapes and each client's number of samples.

    When its data are not at hand, or too few for the fleet, every client is taken to have full batches.
    """
    with torch.device("meta"):
        head = task.head()
    plan = _plan(scenario, task, form_of(head))
    try:
        if scenario.task.partition == "local":
            samples = [len(read_own(scenario, task, client)) for client in plan.clients]
        else:
            samples = [len(rows) for rows in client_rows(scenario, task.load())]
    except ScenarioError:
        samples = [plan.batch_size] * len(plan.clients)
    device = functools.cache(lambda count, share, codecs: SyntheticDevice(plan, codecs, share, count).run)
    devices: list[RunJob[ClientJob, ClientResult]] = []
    for client, samples_of in zip(plan.clients, samples, strict=True):
        with_codecs = functools.partial(device, min(samples_of, plan.batch_size), plan.share_of(client))
        climbs = bool(plan.ladder)
        devices.append(
            SyntheticClimber(plan, client, with_codecs).run if climbs else with_codecs(plan.codecs_of(client))
        )
    stocks = [Stock(count, 0) for count in samples]  # nothing is evaluated
    yield Workers(plan, SyntheticTail(plan).run, devices, stocks, None)


def _plan(scenario: Scenario, task: Task, head: HeadForm) -> Plan:
    plan = make_plan(scenario, task, run=scenario.name, head=head)
    return replace(plan, alone=True, scenario=offer_scenario(scenario))
