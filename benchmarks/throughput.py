"""Client steps per second of a live run against the plain PyTorch loop, in one run side by side.

    .venv/bin/python -m benchmarks.throughput [--rounds 60] [--repeats 3] [--broker mosquitto]

Both train digits28 with q=1152, L=2 activations on all cores of the machine: the loop in one process
with as many torch threads, the live run as broker, server and edge processes. They take turns, so that
both meet the same weather on a noisy machine. The live run's clock starts when the fleet has gathered.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

import torch

from benchmarks.plain_loop import train
from scenarios.loading.load import load_scenario
from sim.live.run import run_here


def main() -> None:
    """Run both, in turns, and print the ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--broker", default="mosquitto")
    options = parser.parse_args()
    settings = [
        f"training.rounds={options.rounds}",
        f"training.evaluate_every={options.rounds}",
        f"broker.kind={options.broker}",
    ]
    scenario = load_scenario("quickstart", settings)
    cores = os.cpu_count() or 1
    ratios = []
    for repeat in range(1, options.repeats + 1):
        torch.set_num_threads(cores)
        plain, plain_score = train(scenario)
        with tempfile.TemporaryDirectory() as folder:
            summary = run_here(
                "quickstart", settings, folder=Path(folder), processes=None, watch=lambda _fact, _ledger: None
            )
        live, live_score = summary["client_steps_per_second"], summary["metric"]["final"]
        ratios.append(live / plain)
        print(
            f"{repeat}: plain loop {plain:6.1f} steps/s ({plain_score:.3f}),"
            f" live {live:6.1f} steps/s ({live_score:.3f}), ratio {live / plain:.2f}"
        )
    print(f"median ratio {statistics.median(ratios):.2f} ({cores} cores, broker {options.broker})")


if __name__ == "__main__":
    main()
