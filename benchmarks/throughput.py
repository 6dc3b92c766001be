"""Client steps per second of a live run against the plain PyTorch loop, in one run side by side.

    .venv/bin/python -m benchmarks.throughput [--scenario all-flows] [--loop-threads 1] [--repeats 3]

Both train the scenario on all cores of the machine: the loop in one process with as many torch threads, the
live run as broker, server and edge processes. They take turns, so that both meet the same weather on a noisy
machine. The live run's clock starts when the fleet has gathered. With fewer threads the loop counts as one
such loop on each core: that is the most that the machine could do.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

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
    parser.add_argument("--scenario", default="quickstart")
    parser.add_argument("--loop-threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    settings = [
        f"training.rounds={options.rounds}",
        f"training.evaluate_every={options.rounds}",
        f"broker.kind={options.broker}",
    ]
    scenario = load_scenario(options.scenario, settings)
    cores = os.cpu_count() or 1
    ratios = []
    for repeat in range(1, options.repeats + 1):
        torch.set_num_threads(options.loop_threads)
        with threadpool_limits(options.loop_threads):
            steps, plain_score = train(scenario)
        plain = steps * cores / options.loop_threads
        with tempfile.TemporaryDirectory() as folder:
            summary = run_here(
                options.scenario,
                settings,
                folder=Path(folder),
                processes=None,
                watch=lambda _fact, _ledger: None,
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
