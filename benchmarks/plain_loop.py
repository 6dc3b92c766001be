"""The same training as a live run, as a plain PyTorch loop in one process: no messages, no broker.

The yardstick of benchmarks/throughput.py: same task, data shares, cohorts, batches, codec of the
activations, learning rates and evaluations.
"""

import time

import numpy as np
import torch

from scenarios.partition import client_rows
from scenarios.schema import Scenario, client_names
from scenarios.seeds import generator
from scenarios.task import BatchSampler, initial_model
from scenarios.tasks import load_task
from server_node.tail import evaluate


def train(scenario: Scenario) -> tuple[float, float]:
    """Train; gives client steps per second and the final metric."""
    task, training, seed = load_task(scenario.task), scenario.training, scenario.seed
    codec, correction = scenario.flows.activations_up, np.float32(training.correction.lambda_)
    data = task.load()
    names = client_names(scenario)
    shares = [data.train.take(rows) for rows in client_rows(scenario, data)]
    samplers = [
        BatchSampler(len(share.targets), scenario.task.batch_size, seed=seed, client=name)
        for name, share in zip(names, shares, strict=True)
    ]
    head, tail = initial_model(task, seed)
    optimizers = [
        torch.optim.SGD(head.parameters(), lr=training.head_lr),
        torch.optim.SGD(tail.parameters(), lr=training.tail_lr),
    ]
    score, steps, started = 0.0, 0, time.perf_counter()
    for number in range(1, training.rounds + 1):
        cohort = generator(seed, "cohort", number).choice(len(names), training.cohort, replace=False)
        for optimizer in optimizers:
            optimizer.zero_grad()
        head.train()
        tail.train()
        samples = 0
        for client in cohort:
            inputs, targets = shares[client].batch(samplers[client].rows(number, 0))
            z = head(inputs)
            n, d = z.shape
            numbers = z.detach().numpy()
            seen = codec.decode(codec.encode(numbers, generator(seed, "encode", number)), n, d)
            arrived = torch.from_numpy(seen).requires_grad_()
            task.loss(tail(arrived), targets).sum().backward()  # type: ignore[no-untyped-call]
            gradient = arrived.grad
            assert gradient is not None
            if correction:
                gradient = gradient + torch.from_numpy(correction * n * (numbers - seen))
            z.backward(gradient)
            samples += n
            steps += 1
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad /= samples
            optimizer.step()
        if number % training.evaluate_every == 0 or number == training.rounds:
            score = evaluate(task, data.test, head, tail)
    return steps / (time.perf_counter() - started), score
