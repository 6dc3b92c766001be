"""What one-way rounds lose to the number of local steps and to how heads travel, in a plain loop.

    .venv/bin/python -m benchmarks.one_way --steps 3 --up 2 --down 6 --since last

Cohorts and batches are those of a run of one-way-all-flows on fashion_mnist, 1,500 local steps altogether.
Activations travel as there, unless --exact is given; heads exactly, unless ranks are. Prints the accuracy
with the server's head, and how far the heads of devices are from it: the squared distance over that of the
server's head from the initial one. Ten times in a run.
"""

import argparse
from dataclasses import replace
from statistics import fmean

import numpy as np
import torch

from benchmarks.cut_learning import PICTURES
from benchmarks.flows import batches, chosen
from broker.codecs import Codec, Float32, LowRank, encode_activations
from edge_client.training.feedback import Feedback
from scenarios.computing.optimizers import sgd_step
from scenarios.heads.auxiliary import WithAuxiliary
from scenarios.heads.held import HeldHeads
from scenarios.heads.parts import form_of
from scenarios.heads.payload import HeadCodec
from scenarios.loading.load import load_scenario
from scenarios.tasks import task_of
from scenarios.training import evaluate, head_vector, initial_model, load_head_vector

LOCAL_STEPS = 1500


def main() -> None:
    """Train once, and print ten lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1, help="local steps in a round")
    parser.add_argument("--up", type=int, help="rank of head updates; not given: they travel exactly")
    parser.add_argument("--down", type=int, help="rank of heads; not given: they travel exactly")
    parser.add_argument("--since", choices=["start", "last"], default="last", help="see flows.head_since")
    parser.add_argument("--exact", action="store_true", help="nothing is lost of activations")
    parser.add_argument("--seed", type=int, default=0)
    torch.set_num_threads(1)
    train(parser.parse_args())


def train(given: argparse.Namespace) -> None:
    """Train once, as the options say."""
    rounds = LOCAL_STEPS // given.steps
    settings = [f"seed={given.seed}", f"training.rounds={rounds}", *PICTURES]
    scenario = load_scenario("one-way-all-flows", settings)
    task, training, rng = task_of(scenario), scenario.training, np.random.default_rng(given.seed)
    data, clients = task.load(), scenario.fleet_size
    batch_of, flows = batches(scenario, data), scenario.flows
    head, tail = initial_model(task, given.seed)
    assert isinstance(head, WithAuxiliary)
    torch.manual_seed(given.seed)
    server = initial = head_vector(head)
    held, has = [HeldHeads(initial) for _ in range(clients)], [0] * clients
    feedback = [Feedback(is_on=True) for _ in range(clients)]
    activations = Float32() if given.exact else flows.activations_up

    def coder(codec: Codec, rank: int | None) -> HeadCodec:
        assert isinstance(codec, LowRank)
        return HeadCodec(
            Float32() if rank is None else replace(codec, rank=rank), shapes=form_of(head).shapes
        )

    up, down = coder(flows.head_update_up, given.up), coder(flows.head_state_down, given.down)
    for number in range(1, rounds + 1):
        rate = training.head_lr * training.lr_factor(number)
        cohort = chosen(scenario, number)
        changes, apart, sent = [], [], []
        for client in cohort:
            since = has[client] if given.since == "last" else 0
            change = down.encode(server - held[client].base(since), rng)
            received = held[client].take(since, number, down.decode(change, server.size))
            has[client] = number
            apart.append(((received - server) ** 2).sum())
            load_head_vector(head, received)
            own = []
            for step in range(given.steps):
                inputs, targets = batch_of(client, number, step)
                z = head(inputs)
                read = z.detach().requires_grad_()
                task.loss(head.auxiliary(read), targets).mean().backward()  # type: ignore[no-untyped-call]
                z.backward(read.grad)
                sgd_step(head, rate)
                own.append((z.detach().numpy().copy(), targets))
            sent.append(own)
            update = feedback[client].encode(head_vector(head) - received, up, rng)
            changes.append(up.decode(update, server.size))
        for at_once in zip(*sent, strict=True):
            for z, targets in at_once:
                coded = torch.from_numpy(encode_activations(activations, z, rng)[1])
                task.loss(tail(coded), targets).mean().backward()  # type: ignore[no-untyped-call]
            sgd_step(tail, rate / len(cohort))
        server = server + np.mean(changes, axis=0, dtype=np.float32)
        if number % (rounds // 10) == 0:
            load_head_vector(head, server)
            score, moved = evaluate(task, data.test, head, tail), ((server - initial) ** 2).sum()
            head.train()
            tail.train()
            print(
                f"round {number}: {score:.4f}, heads of devices apart {fmean(apart) / moved:.4f}", flush=True
            )


if __name__ == "__main__":
    main()
