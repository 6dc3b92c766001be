"""The same training as a run, as a plain PyTorch loop in one process: no messages, no broker.

The yardstick of benchmarks/throughput.py and benchmarks/virtual_time.py: same task, data shares, cohorts,
batches, codecs of all four flows, optimizers of head and tail, learning rates and evaluations; one client
after the other, as many torch threads as it is given. With method fedavg it trains the whole model on each
client, as a run does.
"""

import time

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from benchmarks.flows import BatchOf, batches, chosen
from broker.codecs import Codec, decode_gradient, encode_activations, encode_gradient
from broker.codecs.base import Matrix
from scenarios.computing.optimizers import Moments, step
from scenarios.schema.scenario import Scenario
from scenarios.seeds import generator
from scenarios.task import Task
from scenarios.tasks import task_of
from scenarios.training import (
    evaluate,
    gradient_to_activations,
    head_origin,
    head_vector,
    initial_model,
    load_head_vector,
)


class Loop:
    """One model and all clients' data.

    Args:
        scenario: what to train.
        task: its task, whose head is the whole model with method fedavg.
        head: the head to begin with.
        tail: the tail to begin with.
    """

    def __init__(self, scenario: Scenario, task: Task, head: nn.Module, tail: nn.Module) -> None:
        self.scenario = scenario
        self.task = task
        self.head = head
        self.tail = tail
        self.rng = generator(scenario.seed, "plain loop")
        self.samples = 0  # of the round so far
        self.head_moments: Moments = []
        self.tail_moments: Moments = []

    def split_step(self, number: int, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        """Do a step of split learning: the head learns, the tail adds up its gradient."""
        flows, training = self.scenario.flows, self.scenario.training
        z = self.head(inputs)
        sent: Matrix = z.detach().numpy()
        _, seen, codewords = encode_activations(flows.activations_up, sent, self.rng)
        arrived = torch.from_numpy(seen).requires_grad_()
        self.task.loss(self.tail(arrived), targets).sum().backward()  # type: ignore[no-untyped-call]
        assert arrived.grad is not None
        mean_loss_gradient: Matrix = (arrived.grad / len(inputs)).numpy()
        down = encode_gradient(flows.gradient_down, mean_loss_gradient, codewords, self.rng)
        gradient = decode_gradient(flows.gradient_down, down, codewords, *sent.shape)
        strength = training.lambda_in(number, gradient_to_activations(mean_loss_gradient, seen))
        gradient += np.float32(strength) * (sent - seen)
        z.backward(torch.from_numpy(gradient))
        self.head_step(number)

    def whole_step(self, number: int, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        """Do a step of the whole model."""
        self.task.loss(self.head(inputs), targets).mean().backward()  # type: ignore[no-untyped-call]
        self.head_step(number)

    def head_step(self, number: int) -> None:
        """Let the head learn."""
        training = self.scenario.training
        lr = training.head_lr * training.lr_factor(number)
        step(list(self.head.parameters()), training.head_optimizer, self.head_moments, lr)

    def tail_step(self, number: int) -> None:
        """Let the tail learn from the round's samples."""
        training = self.scenario.training
        lr = training.tail_lr * training.lr_factor(number)
        parameters, optimizer = list(self.tail.parameters()), training.tail_optimizer
        step(parameters, optimizer, self.tail_moments, lr, weight=self.samples)

    def client(
        self, number: int, client: int, batch_of: BatchOf, received: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Train one client in a round; gives the change of its head, times its samples."""
        training = self.scenario.training
        load_head_vector(self.head, received)
        self.head_moments = []
        learn = self.whole_step if training.method == "fedavg" else self.split_step
        samples = 0
        for local in range(training.local_steps):
            inputs, targets = batch_of(client, number, local)
            learn(number, inputs, targets)
            samples += len(inputs)
        self.samples += samples
        delta = (head_vector(self.head) - received)[None, :]
        change: npt.NDArray[np.float32] = through(self.scenario.flows.head_update_up, delta, self.rng)[0]
        return samples * change


def train(scenario: Scenario) -> tuple[float, float]:
    """Train; gives client steps per second and the final metric."""
    task, training, flows = task_of(scenario), scenario.training, scenario.flows
    data = task.load()
    batch_of = batches(scenario, data)
    loop = Loop(scenario, task, *initial_model(task, scenario.seed))
    parameters = head_vector(loop.head)
    origin = head_origin(flows.head_state_down, parameters)
    score, started = 0.0, time.perf_counter()
    for number in range(1, training.rounds + 1):
        received = through(flows.head_state_down, (parameters - origin)[None, :], loop.rng)[0] + origin
        change, loop.samples = np.zeros_like(parameters), 0
        loop.head.train()
        loop.tail.train()
        for client in chosen(scenario, number):
            change += loop.client(number, client, batch_of, received)
        loop.tail_step(number)
        parameters += change / np.float32(loop.samples)
        if number % training.evaluate_every == 0 or number == training.rounds:
            load_head_vector(loop.head, parameters)
            score = evaluate(task, data.test, loop.head, loop.tail)
    steps = training.rounds * training.cohort * training.local_steps
    return steps / (time.perf_counter() - started), score


def through(codec: Codec, x: Matrix, rng: np.random.Generator) -> Matrix:
    """Give what arrives of a matrix, shape (n, d)."""
    return codec.decode(codec.encode(x, rng), *x.shape)
