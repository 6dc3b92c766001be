"""How much memory a process needs that hosts devices of a scenario, added up from its parts.

Sizes of tensors are exact. What a batch leaves for its way back, and what its codecs work with, are measured
on a few rows of it. What torch takes besides is an allowance, from benchmarks/edge_memory.py, which compares
the sum with the peak of real edge processes.
"""

import tracemalloc
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from broker.codecs import decode_gradient, encode_activations, encode_gradient
from scenarios.errors import ScenarioError
from scenarios.heads.auxiliary import WithAuxiliary
from scenarios.heads.masters import HALF
from scenarios.heads.parts import buffers_kept, form_of, sent_parameters, to_train, trained
from scenarios.outputs import outputs_of
from scenarios.schema.devices import device_of
from scenarios.schema.optimizers import Optimizer, Sgd
from scenarios.schema.scenario import OverSelect, Scenario
from scenarios.seeded import seeded
from scenarios.seeds import derive_seed, generator
from scenarios.task import Split, Task
from scenarios.u_shape import Ends

MIB = 2**20
PROCESS_BYTES = 280 * MIB
"""Python, torch with what it loads for its first batch, this package; measured on x86-64."""
CUTTING_BYTES = 40 * MIB
"""For finding the cut in a model of one's own; measured likewise."""
SYSTEM_BYTES = 150 * MIB
"""Assumed: of a board's memory, what the graphics (64) and the kernel (25) keep, and a small Linux needs."""
LAYER_COPIES = 3
"""Assumed: a layer computes with so many further copies of the largest of the tensors that it keeps."""
READ_COPIES = 2
"""Data that are read stand there a second time while they become tensors; so does a model that is cut."""
CODEC_COPIES = 4
"""A codec has at most so many of what it encodes or decodes at once; see docs/protocol.md."""
FLOAT_BYTES = 4
MOST_MESSAGE_BYTES = 64 * MIB
"""Of one message: MAX_MESSAGE_BYTES of broker.wire.chunks."""


class Need(NamedTuple):
    """Bytes of memory at the peak, by what they are for.

    Attributes:
        process: Python, torch, this package.
        data: the samples that are held.
        heads: parameters, gradients, what the optimizer remembers, and the vectors that are exchanged.
        batches: what batches keep for their way back, and what codecs work with.
    """

    process: int
    data: int
    heads: int
    batches: int

    @property
    def words(self) -> str:
        """The sum and its parts, such as "310 MiB (250 for the process with torch, 12 for data, ...)"."""
        process, data, heads, batches = (f"{part / MIB:.{int(part < 10 * MIB)}f}" for part in self)
        return (
            f"{sum(self) / MIB:.0f} MiB ({process} for the process with torch, {data} for data, "
            f"{heads} for the head and its training, {batches} for a batch and its codecs)"
        )


def split_bytes(*splits: Split) -> int:
    """Give the bytes of samples and targets."""
    return _bytes(each for split in splits for each in (split.inputs, *outputs_of(split.targets).values()))


def need_of(
    scenario: Scenario,
    task: Task,
    head: nn.Module,
    inputs: Tensor,
    *,
    own_bytes: int,
    read_bytes: int = 0,
    built_bytes: int = 0,
    cut: str | None = None,
    heads: int = 1,
    jobs: int = 1,
) -> Need:
    """Add up what a process needs at its peak: while it reads data, or while it trains.

    Args:
        scenario: what runs.
        task: its task, as of task_of.
        head: of one device, on the CPU.
        inputs: some samples, as the head takes them, shape (n, ...).
        own_bytes: of the samples that the process keeps.
        read_bytes: of the data set that it reads to take them from.
        built_bytes: of the whole model, if a device builds that and keeps its head.
        cut: the early cut of these devices, if they have one.
        heads: devices in the process.
        jobs: how many of them may compute at once.

    Raises:
        ScenarioError: the batches of a round without gradients are too long for one message.
    """
    _refuse_long_message(scenario, task, head)
    kept, z = _kept(head, task, inputs, scenario)
    codecs = 0 if scenario.training.method == "fedavg" else _codecs_peak(scenario, cut, z)
    batch = round((kept + codecs) * scenario.task.batch_size / len(inputs))
    if scenario.training.has_auxiliary:
        batch += _along_bytes(scenario, task)
    process = PROCESS_BYTES + (CUTTING_BYTES if scenario.task.cut is not None else 0)
    return max(
        Need(process, READ_COPIES * read_bytes, max(READ_COPIES * built_bytes, module_bytes(head)), 0),
        Need(
            process,
            own_bytes,
            _heads_bytes(head, scenario, heads),
            jobs * max(batch, _exchanged_bytes(head)),
        ),
        key=sum,
    )


def refuse_small_devices(scenario: Scenario, needs: Mapping[str | None, Need]) -> None:
    """Refuse a fleet with devices that have less memory than they need.

    Args:
        scenario: has the fleet.
        needs: of a device with one client, by its early cut, or by None of those without.

    Raises:
        ScenarioError: the first of them, with the sum.
    """
    for number, group in enumerate(scenario.fleet):
        ram_mib, need = device_of(group.device).ram_mib, needs[group.cut]
        if ram_mib is not None and sum(need) + SYSTEM_BYTES > ram_mib * MIB:
            name = group.device if isinstance(group.device, str) else "this device"
            raise ScenarioError(
                f"{name} has {ram_mib} MiB of memory; the system takes about {SYSTEM_BYTES // MIB} of them, "
                f"and one client needs about {need.words}: take a smaller batch, an earlier cut, other "
                "codecs or another device",
                key=f"fleet.{number}.device",
            )


def module_bytes(*modules: nn.Module) -> int:
    """Give the bytes of parameters and buffers."""
    return _bytes(each for module in modules for each in (*module.parameters(), *module.buffers()))


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _heads_bytes(head: nn.Module, scenario: Scenario, heads: int) -> int:
    """Count what the heads of a process hold: those in a round, and those that rest between rounds."""
    evaluates = scenario.task.partition == "local"  # all of them, and they do not rest after it
    awake = heads if evaluates else min(heads, asked_at_once(scenario))
    return awake * _held_bytes(head, scenario) + (heads - awake) * _resting_bytes(head, scenario)


def asked_at_once(scenario: Scenario) -> int:
    """Give how many clients are asked to take part in a round."""
    stragglers = scenario.stragglers
    return scenario.training.cohort + (stragglers.extra if isinstance(stragglers, OverSelect) else 0)


def _resting_bytes(head: nn.Module, scenario: Scenario) -> int:
    """Count what a device holds of its head between two rounds: what is not sent, and what it remembers."""
    sent = sent_parameters(head)
    if any(each.dtype != torch.float32 for each in sent):
        return _held_bytes(head, scenario)  # such a head does not rest
    optimizer = 0
    if scenario.training.head_moments == "keep":
        optimizer = _averages(scenario.training.head_optimizer) * _bytes(trained(head))
    return module_bytes(head) - _bytes(sent) + optimizer + _kept_vectors(scenario) * _vector_bytes(head)


def _kept_vectors(scenario: Scenario) -> int:
    """Count what a device keeps from round to round, as long as a head: what codecs lost, and held heads."""
    return scenario.flows.error_feedback + 2 * (scenario.flows.head_since == "last")


def _held_bytes(head: nn.Module, scenario: Scenario) -> int:
    """Count what a device holds of its head from a round's beginning to its end."""
    moving = trained(head)
    exact = FLOAT_BYTES * sum(each.numel() for each in moving)
    masters = FLOAT_BYTES * sum(each.numel() for each in moving if each.dtype in HALF)
    optimizer = _averages(scenario.training.head_optimizer) * exact
    vectors = (2 + _kept_vectors(scenario)) * _vector_bytes(head)  # initial, received
    return module_bytes(head) + _bytes(moving) + 2 * masters + optimizer + vectors


def _averages(optimizer: Optimizer) -> int:
    return int(optimizer.momentum > 0) if isinstance(optimizer, Sgd) else 2


def _vector_bytes(head: nn.Module) -> int:
    form = form_of(head)
    return FLOAT_BYTES * (form.parameters + form.statistics)


def _exchanged_bytes(head: nn.Module) -> int:
    """Count what comes and goes when a head is taken or sent; a batch is not held meanwhile."""
    return CODEC_COPIES * _vector_bytes(head)


def _kept(head: nn.Module, task: Task, inputs: Tensor, scenario: Scenario) -> tuple[int, Any]:
    """Send rows through a head; gives the bytes that they keep and are computed with, and the outputs."""
    own = {each.untyped_storage().data_ptr() for each in (*head.parameters(), *head.buffers())}
    kept = {inputs.untyped_storage().data_ptr(): inputs.nbytes}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.layout == torch.strided and (where := tensor.untyped_storage()).data_ptr() not in own:
            kept[where.data_ptr()] = where.nbytes()
        return tensor.detach()  # itself, an output would hold the graph that holds it, for ever

    to_train(head)
    with (
        buffers_kept(head),
        seeded(derive_seed(scenario.seed, "rehearsal")),
        saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        outputs = head(inputs)
        if isinstance(head, Ends):
            through_top = head.top(torch.zeros(len(inputs), task.features_size, requires_grad=True))
            del through_top
        if isinstance(head, WithAuxiliary):
            through_auxiliary = head.auxiliary(outputs.detach().requires_grad_())
            del through_auxiliary
    return sum(kept.values()) + LAYER_COPIES * max(kept.values()), outputs


def _along_bytes(scenario: Scenario, task: Task) -> int:
    """Count what is kept of a round's batches until they go up together, twice while they become bytes."""
    links = {str(group.link): group.link for group in scenario.fleet}
    ups = {scenario.flows.codecs_for(link).activations_up for link in links.values()}
    n, steps = scenario.task.batch_size, scenario.training.local_steps
    return 2 * steps * (max(up.size_bytes(n, task.cut_size) for up in ups) + task.kind.size_bytes(n))


def _refuse_long_message(scenario: Scenario, task: Task, head: nn.Module) -> None:
    """Refuse rounds without gradients in which batches and head update are too long for one message."""
    if not scenario.training.has_auxiliary:
        return
    size = _along_bytes(scenario, task) // 2 + _vector_bytes(head)
    if size > MOST_MESSAGE_BYTES:
        steps = scenario.training.local_steps
        raise ScenarioError(
            f"{steps} steps without gradients are one message of {size / MIB:.0f} MiB, "
            f"which may have {MOST_MESSAGE_BYTES // MIB}: take fewer, smaller batches or a coarser codec",
            key="training.local_steps",
        )


def replay_bytes(scenario: Scenario, task: Task) -> int:
    """Give how much the server keeps at most of the activations of earlier rounds, as they were sent."""
    training = scenario.training
    if training.replay is None:
        return 0
    of_round = asked_at_once(scenario) * _along_bytes(scenario, task) // 2
    return (training.replay.rounds + 1) * of_round


def _codecs_peak(scenario: Scenario, cut: str | None, z: Tensor) -> int:
    """Measure what the codecs of the cut hold at their peak for a batch, with the residual of FedLite."""
    links = {str(group.link): group.link for group in scenario.fleet if group.cut == cut}
    choices = {scenario.flows.codecs_for(link, cut)[:2] for link in links.values()}
    rng = generator(scenario.seed, "rehearsal")
    own = z.detach().float().numpy()

    def both_ways(up: Any, down: Any) -> None:
        _, arrives, codewords = encode_activations(up, own, rng)
        residual = own - arrives
        payload = encode_gradient(down, np.zeros_like(own), codewords, rng)
        gradient = decode_gradient(down, payload, codewords, *own.shape)
        gradient + np.float32(1) * residual

    return max(peak_of(partial(both_ways, up, down)) for up, down in choices)


def peak_of(act: Callable[[], object]) -> int:
    """Measure the bytes that numpy and Python allocate at most while something is done."""
    already = tracemalloc.is_tracing()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    try:
        act()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        if not already:
            tracemalloc.stop()
