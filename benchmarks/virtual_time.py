"""How fast virtual time is: learning against the plain PyTorch loop, timing-only by the size of the fleet.

    .venv/bin/python -m benchmarks.virtual_time learning [--scenario fedavg] [--rounds 60] [--repeats 5]
    .venv/bin/python -m benchmarks.virtual_time timing [--link lte] [--local-steps 1] [--repeats 3]

`learning` trains a scenario in turns as a plain loop, with one torch thread, and in virtual time, and says
what part of a plain loop on each core virtual time reaches. `timing` simulates fleets of Raspberry Pis, with
1,000 in each round and a process for each fleet, and gives the repeat with the least processor time, from the
second round on; SimPy's own timeouts a second say what machine it is.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

import simpy
import torch
from threadpoolctl import threadpool_limits

from benchmarks.plain_loop import train
from scenarios.loading.load import load_scenario
from server_node.vocabulary.ledger import Ledger
from server_node.vocabulary.reports import Fact, RoundReport
from sim.simulation.run import simulate

FLEETS = (1_000, 10_000, 100_000)
COHORT = 1_000
STEPS = 200_000
"""Client steps of a simulated run."""

SERVER = "{tail_batch_s: 0.005, tail_sample_s: 0.00025, update_s: 0.001, close_s: 0.002}"
"""What `fedlite calibrate quickstart --server` measured on two cores of a Xeon."""


def learning(name: str, rounds: int, repeats: int) -> None:
    """Print client steps per second of both, and their ratio for each core."""
    settings = [f"training.rounds={rounds}", f"training.evaluate_every={rounds}"]
    scenario = load_scenario(name, settings)
    cores = os.cpu_count() or 1
    ratios = []
    for repeat in range(1, repeats + 1):
        torch.set_num_threads(1)
        with threadpool_limits(1):
            plain, plain_score = train(scenario)
        with tempfile.TemporaryDirectory() as folder:
            summary = simulate(scenario, Path(folder))
        virtual, score = summary["client_steps_per_second"], summary["metric"]["final"]
        ratios.append(virtual / plain / cores)
        print(
            f"{repeat}: plain loop {plain:6.1f} steps/s ({plain_score:.3f}),"
            f" virtual time {virtual:6.1f} steps/s ({score:.3f}), per core {ratios[-1]:.2f} of the loop"
        )
    print(f"{name}: median {statistics.median(ratios):.2f} of {cores} plain loops ({cores} cores)")


def timing(link: str, local_steps: int, repeats: int) -> None:
    """Print client steps per second and memory of each fleet."""
    print(f"SimPy alone: {timeouts_per_second():,.0f} timeouts/s")
    for devices in FLEETS:
        command = [sys.executable, "-m", "benchmarks.virtual_time", "fleet", str(devices), link]
        results = [
            json.loads(subprocess.run([*command, str(local_steps)], capture_output=True, check=True).stdout)
            for _ in range(repeats)
        ]
        best = min(results, key=lambda result: float(result["processor_us"]))
        print(
            f"{devices:7,} devices: {best['steps_per_second']:8,.0f} client steps/s,"
            f" {best['processor_us']:5.1f} us of processor time a step,"
            f" peak memory {best['peak_mib']:,.0f} MiB"
        )


def fleet(devices: int, link: str, local_steps: int) -> None:
    """Simulate one fleet and print its figures as JSON."""
    settings = [
        f"training.rounds={STEPS // (COHORT * local_steps)}",
        f"training.cohort={COHORT}",
        f"training.local_steps={local_steps}",
        f"fleet=[{{count: {devices}, device: raspberry-pi-4, link: {link}}}]",
        f"network.server={SERVER}",
    ]
    ends_s: list[float] = []
    worked_s: list[float] = []

    def watch(fact: Fact, _ledger: Ledger) -> None:
        if isinstance(fact, RoundReport):
            ends_s.append(time.perf_counter())
            worked_s.append(time.process_time())

    with tempfile.TemporaryDirectory() as folder:
        summary = simulate(load_scenario("quickstart", settings), Path(folder), timing_only=True, watch=watch)
    steps = summary["client_steps"] * (1 - 1 / len(ends_s))  # the first round also has the fleet's greetings
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures = {
        "steps_per_second": steps / (ends_s[-1] - ends_s[0]),
        "processor_us": 1e6 * (worked_s[-1] - worked_s[0]) / steps,
        "peak_mib": peak_mib,
    }
    print(json.dumps(figures))


def timeouts_per_second(count: int = 300_000) -> float:
    """Give how many timeouts a second one SimPy process passes here."""

    def process(environment: simpy.Environment) -> Generator[simpy.Event, None, None]:
        for _ in range(count):
            yield environment.timeout(1)

    environment = simpy.Environment()
    environment.process(process(environment))
    started = time.perf_counter()
    environment.run()
    return count / (time.perf_counter() - started)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    modes = parser.add_subparsers(required=True, dest="mode")
    learn = modes.add_parser("learning")
    learn.add_argument("--scenario", dest="name", default="quickstart")
    learn.add_argument("--rounds", type=int, default=60)
    learn.add_argument("--repeats", type=int, default=5)
    time_only = modes.add_parser("timing")
    time_only.add_argument("--link", default="lte")
    time_only.add_argument("--local-steps", type=int, default=1)
    time_only.add_argument("--repeats", type=int, default=3)
    one = modes.add_parser("fleet")
    one.add_argument("devices", type=int)
    one.add_argument("link")
    one.add_argument("local_steps", type=int)
    options = vars(parser.parse_args())
    match options.pop("mode"):
        case "learning":
            learning(**options)
        case "timing":
            timing(**options)
        case "fleet":
            fleet(**options)


if __name__ == "__main__":
    main()
