"""Peak resident memory of edge processes that host one client each, beside what is computed (Linux, macOS).

    .venv/bin/python -m benchmarks.edge_memory [ROUNDS]

For each case: starts a local broker, a server and `fedlite edge --clients 0`, trains so many rounds (5), and
prints what the kernel says of the edge process (ru_maxrss) beside the sum by which small devices are refused.
The two models of benchmarks/models train on noise in the form of their data, so that nothing is read.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from broker.servers.spawn import local_broker

MIB = 2**20
NAME = "benchmarks.edge_memory"
COMMON = (
    "fleet=[{count: 1}]",
    "training.cohort=1",
    "training.correction.lambda=0",
    "task.partition=iid",
)
INT8 = "flows.activations_up={codec: int8}"
MODULE = """
import torch
from benchmarks.models import {model}
from scenarios.task import Dataset, Split

{model}.WIDTH = {width}
from benchmarks.models.{model} import *

def data():
    rows = lambda n: Split({inputs}, torch.randint(0, 10, ({targets})))
    torch.manual_seed(1)
    return Dataset(rows(400), rows(20))
"""
PICTURES = {"model": "resnet18", "inputs": "torch.rand(n, 1, 28, 28)", "targets": "n,"}
WORDS = {"model": "transformer", "inputs": "torch.randint(0, 10, (n, 20))", "targets": "n, 20"}
"""What MODULE is filled with."""


def main() -> None:
    """Print a table as Markdown."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print("| head | batch | computed | measured | |\n|---|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def compare(head: str, batch: int, *settings: str) -> None:
            changes = [*COMMON, f"training.rounds={rounds}", *settings, f"task.batch_size={batch}"]
            computed = float(subprocess.check_output([sys.executable, "-m", NAME, "--need", *changes]))
            measured = peak_mib([f"--set={change}" for change in changes])
            error = computed / measured - 1
            print(
                f"| {head} | {batch} | {computed:.0f} MiB | {measured:.0f} MiB | {error:+.0%} |", flush=True
            )

        def own(name: str, width: int, cut: str, form: dict[str, str]) -> str:
            file = folder / f"{name}.py"
            file.write_text(MODULE.format(width=width, **form))
            return f"task={{name: {name}, module: {file}, cut: {cut}}}"

        tiny = "task={name: tiny, module: benchmarks.tiny_task}"
        small, wide = (own(f"resnet{width}", width, "layer2", PICTURES) for width in (16, 64))
        decoder = own("decoder", 64, "blocks.0", WORDS)
        momentum = "training.head_optimizer={kind: sgd, momentum: 0.9}"
        compare("one linear layer, 544 parameters", 20, tiny, INT8)
        compare("digits28, the CNN", 20)
        compare("digits28, the CNN", 100)
        compare("digits28, the whole CNN in fedavg", 20, "training.method=fedavg")
        compare("ResNet-18, a quarter of its channels", 20, small, momentum, INT8)
        compare("ResNet-18, a quarter of its channels", 100, small, momentum, INT8)
        compare("ResNet-18, all channels", 50, wide, momentum, INT8)
        compare("decoder, adam", 10, decoder, "training.head_optimizer={kind: adam}", INT8)
        compare("decoder, adam", 100, decoder, "training.head_optimizer={kind: adam}", INT8)


def tell_need(changes: list[str]) -> None:
    """Print what is computed, in MiB; in a process of its own, whose peak the edge's would inherit."""
    from scenarios.loading.load import load_scenario  # noqa: PLC0415  loads torch
    from scenarios.loading.rehearsal import rehearse  # noqa: PLC0415

    need = rehearse(load_scenario("quickstart", changes))
    assert need is not None
    print(sum(need) / MIB)


def peak_mib(settings: list[str]) -> float:
    """Run one client and give its peak."""
    with tempfile.TemporaryDirectory() as folder, local_broker("embedded", Path(folder)) as url:
        common = ["quickstart", f"--broker={url}", *settings]
        none = subprocess.DEVNULL
        with subprocess.Popen(
            [sys.executable, "-m", "server_node", *common, f"--out={folder}/run"], stdout=none, stderr=none
        ) as server:
            edge = subprocess.Popen(
                [sys.executable, "-m", "broker.cli", "edge", *common, "--clients=0"], stdout=none, stderr=none
            )
            _, status, usage = os.wait4(edge.pid, 0)
            server.wait()
    if status:
        raise SystemExit(f"the edge process ended with {status}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / MIB


if __name__ == "__main__":
    tell_need(sys.argv[2:]) if sys.argv[1:2] == ["--need"] else main()
