"""Cuts two models at three places each: bytes both ways, accuracy, and the memory of a device.

    python -m benchmarks.cuts [ROUNDS]

The runs are simulated, with activations and gradients as int8 and heads as float16. Memory is the peak of a
process of its own that reads the data and does a device's jobs, with all that it imports.
"""

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import yaml

from edge_client.training.calibrate import timed_batches
from scenarios.loading.load import load_scenario

MODELS = {
    "resnet18": ("iid", 20, ("layer1", "layer2", "layer3")),
    "transformer": ("natural", 10, ("embedding", "blocks.0", "blocks.1")),
}
"""Of each model: how its data are divided, samples in a batch, and the layers to cut at."""


def scenario_file(folder: Path, model: str, cut: str, rounds: int) -> Path:
    """Write a scenario."""
    partition, batch_size, _ = MODELS[model]
    optimizer = {"kind": "adam"} if model == "transformer" else {"kind": "sgd", "momentum": 0.9}
    lr = 0.003 if model == "transformer" else 0.05
    text = {
        "name": f"{model}-{cut}".replace(".", "-"),
        "task": {
            "module": f"benchmarks.models.{model}",
            "cut": cut,
            "partition": partition,
            "batch_size": batch_size,
        },
        "training": {
            "rounds": rounds,
            "cohort": 5,
            "local_steps": 4,
            "head_lr": lr,
            "head_optimizer": optimizer,
            "tail_optimizer": optimizer,
            "evaluate_every": rounds,
        },
        "flows": {
            "activations_up": {"codec": "int8"},
            "gradient_down": {"codec": "int8"},
            "head_update_up": {"codec": "float16"},
            "head_state_down": {"codec": "float16"},
        },
        "fleet": [{"count": 20}],
    }
    path = folder / f"{model}-{cut}.yaml"
    path.write_text(yaml.safe_dump(text))
    return path


def memory_of(path: Path) -> str:
    """Measure a device in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.cuts", "--device", str(path)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    """Print a table as Markdown."""
    from sim.simulation.run import simulate  # noqa: PLC0415  a device has no simulator

    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    torch.set_num_threads(1)
    print("| model | cut | head | up | down | accuracy | a device's memory |")
    print("|---|---|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model, (_, _, cuts) in MODELS.items():
            for cut in cuts:
                path = scenario_file(folder, model, cut, rounds)
                summary = simulate(load_scenario(str(path)), folder / path.stem)
                flows = {flow: each["wire"] / 1e6 for flow, each in summary["bytes"].items()}
                up = flows["activations_up"] + flows["head_update_up"]
                down = flows["gradient_down"] + flows["head_state_down"]
                heads = summary["bytes"]["head_state_down"]["payload"] // (2 * 5 * rounds)
                print(
                    f"| {model} | `{cut}` | {heads:,} | {up:.1f} MB | {down:.1f} MB "
                    f"| {summary['metric']['final']:.3f} | {memory_of(path)} |",
                    flush=True,
                )


def device(path: str) -> None:
    """Do a device's jobs, and print what memory they took."""
    torch.set_num_threads(1)
    batches = timed_batches(load_scenario(path), 0.0)
    for _ in range(3):
        next(batches)
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    device(sys.argv[2]) if sys.argv[1:2] == ["--device"] else main()
