"""What device, server and benchmarks need to train a task: batches, and models as vectors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from broker.codecs import Codec, Float32
from scenarios.computing.placing import CPU, place_of, placed
from scenarios.heads.masters import exact, set_exact
from scenarios.heads.parts import by_batch, load_vector, take_one, vector_of
from scenarios.metrics import number_so_far
from scenarios.seeded import seeded
from scenarios.seeds import derive_seed, generator
from scenarios.task import Split, Task
from scenarios.u_shape import whole_model, with_top_at_server

EVALUATION_BATCH = 250


def uncut(task: Task) -> Task:
    """Make the whole model the head: FedAvg is split learning whose cut comes after the last layer.

    A device then computes the loss itself, and only parameters are exchanged. `cut_shape` has no meaning.
    """
    whole = with_top_at_server(task)
    return replace(
        whole, cut_shape=(), head=lambda: nn.Sequential(whole.head(), whole.tail()), tail=nn.Identity
    )


@dataclass(frozen=True, slots=True)
class BatchSampler:
    """Chooses a client's batches.

    Each batch is drawn without replacement, independently of the others, from (seed, client, round, step)
    alone. So a device that was restarted draws the same batch for the same step.

    Attributes:
        samples: how many the client has.
        batch_size: samples in a batch; all of them when the client has fewer.
        seed: the scenario's seed.
        client: its name.
    """

    samples: int
    batch_size: int
    seed: int
    client: str

    def rows(self, round_number: int, step: int) -> npt.NDArray[np.int64]:
        """Give the rows of a batch, shape (min(batch_size, samples),)."""
        size = min(self.batch_size, self.samples)
        rng = generator(self.seed, "batch", self.client, round_number, step)
        return rng.choice(self.samples, size, replace=False)


def initial_model(task: Task, seed: int) -> tuple[nn.Module, nn.Module]:
    """Make the head and tail that a run starts from; their weights depend on the seed alone."""
    with seeded(derive_seed(seed, "model")):
        return take_one(task.head()), take_one(task.tail())


def initial_head(task: Task, seed: int) -> npt.NDArray[np.float32]:
    """Give the head that a run starts from as a vector, see `head_vector`, without making the tail."""
    return head_vector(initial_model(replace(task, tail=nn.Identity), seed)[0])


def head_origin(codec: Codec, initial: npt.NDArray[np.float32]) -> npt.NDArray[np.float32] | np.float32:
    """Return the reference that a head is sent relative to: the initial head, or 0 with float32.

    Every device can make the initial head from the seed. Training moves a head by a fraction of its length,
    so a lossy codec loses less of the difference than of the head itself. float32 loses nothing.
    """
    return np.float32(0) if isinstance(codec, Float32) else initial


def head_vector(head: nn.Module) -> npt.NDArray[np.float32]:
    """Copy what is sent of a head into one vector, shape (P,); see scenarios.heads.parts.vector_of."""
    return vector_of(head).numpy()


def load_head_vector(head: nn.Module, vector: npt.NDArray[np.float32]) -> None:
    """Set what is sent of a head from a vector as of `head_vector`; ValueError if its length is another."""
    load_vector(head, torch.tensor(vector))


def parts_of(vector: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Give views of a vector, shape (P,), each shaped like one of the parameters, in their order.

    Raises:
        ValueError: the vector is of another length.
    """
    sizes = [parameter.numel() for parameter in parameters]
    if vector.shape != (sum(sizes),):
        raise ValueError(f"a vector of shape {tuple(vector.shape)} for {sum(sizes)} parameters")
    return [
        part.view(parameter.shape)
        for part, parameter in zip(torch.split(vector, sizes), parameters, strict=True)
    ]


def gradient_to_activations(gradient: npt.NDArray[np.float32], z: npt.NDArray[np.float32]) -> float:
    """Give ||g|| / ||z~||, see `Training.lambda_in`; 0 where z~ is 0 throughout."""
    lengths = [float(np.linalg.norm(each.astype(np.float64))) for each in (gradient, z)]
    return lengths[0] / lengths[1] if lengths[1] else 0.0


def module_tensors(module: nn.Module) -> list[Tensor]:
    """Give all that a module has learned or counted, parameters and then buffers; not copies.

    A parameter of 16 bits is given as its float32 master, if it has one.
    """
    return [exact(tensor).detach() for tensor in (*module.parameters(), *module.buffers())]


def load_module_tensors(module: nn.Module, tensors: Sequence[Tensor]) -> None:
    """Set a module's parameters and buffers from what `module_tensors` gave of one that is alike.

    Raises:
        ValueError: there are more or fewer.
        RuntimeError: the shapes differ.
    """
    for own, tensor in zip((*module.parameters(), *module.buffers()), tensors, strict=True):
        set_exact(own, tensor)


@torch.no_grad()
def evaluate(task: Task, test: Split, head: nn.Module, tail: nn.Module) -> float:
    """Give the task's metric on a test split, through the cut without a codec.

    Head and tail are in the mode for evaluation afterwards.
    """
    head.eval()
    tail.eval()
    place = place_of(head, tail)
    total, metric = 0.0, task.metric_of() if task.metric_of else None
    for first in range(0, len(test), EVALUATION_BATCH):
        inputs, targets = test.batch(slice(first, first + EVALUATION_BATCH))
        with by_batch(head):
            outputs = placed(whole_model(head, tail, inputs.to(place)), CPU)
        if metric is not None:
            metric.update(outputs, targets)
        elif task.score is not None:
            total += float(task.score(outputs, targets).sum())
    return total / len(test) if metric is None else number_so_far(metric)
