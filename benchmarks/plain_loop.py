"""The same training as a live run, as a plain PyTorch loop in one process: no messages, no broker.

The yardstick of benchmarks/throughput.py: same task, data shares, cohorts, batches, codecs of all four
flows, learning rates and evaluations; one client after the other, as many torch threads as it is given.
"""

import time

import numpy as np
import torch

from broker.codecs import Codec, decode_gradient, encode_activations, encode_gradient
from broker.codecs.base import Matrix
from scenarios.partition import client_rows
from scenarios.schema.scenario import Scenario, client_names
from scenarios.seeds import generator
from scenarios.task import BatchSampler, head_origin, head_vector, initial_model, load_head_vector, sgd_step
from scenarios.tasks import load_task
from server_node.tail import evaluate, gradient_to_activations


def train(scenario: Scenario) -> tuple[float, float]:
    """Train; gives client steps per second and the final metric."""
    task, training, flows, seed = load_task(scenario.task), scenario.training, scenario.flows, scenario.seed
    rng = generator(seed, "plain loop")
    data = task.load()
    names = client_names(scenario)
    shares = [data.train.take(rows) for rows in client_rows(scenario, data)]
    samplers = [
        BatchSampler(len(share.targets), scenario.task.batch_size, seed=seed, client=name)
        for name, share in zip(names, shares, strict=True)
    ]
    head, tail = initial_model(task, seed)
    parameters = head_vector(head)
    origin = head_origin(flows.head_state_down, parameters)
    score, steps, started = 0.0, 0, time.perf_counter()
    for number in range(1, training.rounds + 1):
        cohort = generator(seed, "cohort", number).choice(len(names), training.cohort, replace=False)
        received = through(flows.head_state_down, (parameters - origin)[None, :], rng)[0] + origin
        change, samples = np.zeros_like(parameters), 0
        head.train()
        tail.train()
        for client in cohort:
            load_head_vector(head, received)
            inputs, targets = shares[client].batch(samplers[client].rows(number, 0))
            z = head(inputs)
            n = len(inputs)
            sent: Matrix = z.detach().numpy()
            _, seen, codewords = encode_activations(flows.activations_up, sent, rng)
            arrived = torch.from_numpy(seen).requires_grad_()
            task.loss(tail(arrived), targets).sum().backward()  # type: ignore[no-untyped-call]
            assert arrived.grad is not None
            mean_loss_gradient: Matrix = (arrived.grad / n).numpy()
            down = encode_gradient(flows.gradient_down, mean_loss_gradient, codewords, rng)
            gradient = decode_gradient(flows.gradient_down, down, codewords, *sent.shape)
            strength = training.lambda_in(number, gradient_to_activations(mean_loss_gradient, seen))
            gradient += np.float32(strength) * (sent - seen)
            z.backward(torch.from_numpy(gradient))
            sgd_step(head, training.head_lr * training.lr_factor(number))
            delta = (head_vector(head) - received)[None, :]
            change += n * through(flows.head_update_up, delta, rng)[0]
            samples += n
            steps += 1
        sgd_step(tail, training.tail_lr * training.lr_factor(number) / samples)
        parameters += change / np.float32(samples)
        if number % training.evaluate_every == 0 or number == training.rounds:
            load_head_vector(head, parameters)
            score = evaluate(task, data.test, head, tail)
    return steps / (time.perf_counter() - started), score


def through(codec: Codec, x: Matrix, rng: np.random.Generator) -> Matrix:
    """Give what arrives of a matrix, shape (n, d)."""
    return codec.decode(codec.encode(x, rng), *x.shape)
