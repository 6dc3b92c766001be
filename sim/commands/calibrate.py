"""`fedlite calibrate`: measures the machine it runs on, and writes a profile that a scenario can name."""

import datetime as dt
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
import yaml
from rich.console import Console
from rich.progress import track
from threadpoolctl import threadpool_limits

from broker.cli.console import command
from broker.codecs import GradientCodec, codec_to_wire
from broker.files import writing
from edge_client.training.calibrate import device_profile, timed_batches
from edge_client.training.companions import others_at_work
from scenarios.errors import ScenarioError, suggestion
from scenarios.loading.load import load_scenario
from scenarios.schema.base import Part
from scenarios.schema.scenario import Scenario
from server_node.calibrate import server_model, timed_rounds

WARM_UP = 5
"""The first ones are not counted: memory is new to the process, caches are cold."""

PAUSE_S = 0.05
"""Between batches, long enough for caches to cool."""

LEAST_CPU_SHARE = 0.9
MOST_SPREAD = 0.3
"""Middle half of the times of the longest phase, as a share of their median."""

_CPUINFO = Path("/proc/cpuinfo")
_BOARD = Path("/proc/device-tree/model")  # such as Raspberry Pi 4 Model B Rev 1.4


@command
def calibrate(
    scenario: Annotated[str, typer.Argument(help="Scenario file, or the name of a shipped one.")],
    of_server: Annotated[
        bool, typer.Option("--server", help="Measure the server's work instead of a device's.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="The profile's file; device.yaml or server.yaml if not given.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Threads for the mathematics; default: 1 for a device, as where a process hosts several, "
            "and one per core for the server.",
        ),
    ] = None,
    at_work: Annotated[
        int,
        typer.Option(
            min=1,
            help="Processes that compute at the same time, this one included: as many as will be on this "
            "machine. The others do a device's work without a pause.",
        ),
    ] = 1,
    cut: Annotated[
        str | None,
        typer.Option(metavar="LAYER", help="Measure a device with this early cut (`cut` of its group)."),
    ] = None,
    repeat: Annotated[int, typer.Option(min=2, help="Batches that are timed, or the server's rounds.")] = 30,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key.path=value")] = None,
) -> None:
    """Measure how long this machine computes for a scenario's task and codecs, and write it to a file.

    A scenario names the file as a device of its fleet, `device: device.yaml`, or with --server as
    `network: {server: server.yaml}`.
    """
    loaded = load_scenario(scenario, settings or ())
    if of_server and cut is not None:
        raise ScenarioError("--cut is of a device; --server measures what the server does for all early cuts")
    if cut is not None and cut not in (cuts := [group.cut for group in loaded.fleet if group.cut]):
        raise ScenarioError(
            f"--cut: no group of the fleet has the cut '{cut}'{suggestion(cut, cuts, label='there are')}"
        )
    threads = threads or (os.cpu_count() or 1 if of_server else 1)
    torch.set_num_threads(threads)
    with threadpool_limits(threads if of_server else 1, user_api="blas"):
        times = timed_rounds(loaded, PAUSE_S) if of_server else timed_batches(loaded, PAUSE_S, cut)
        next(times)  # a mistake in the scenario is told here, once
        with others_at_work(at_work - 1, loaded, 1 if of_server else threads, cut):
            seconds, cpu_s = _timed(times, repeat)
    medians = {name: statistics.median(times_s) for name, times_s in seconds.items()}
    noise = why_not_quiet(seconds, cpu_s if threads == at_work == 1 else None)
    source = _source(loaded, threads, repeat, at_work) + (", while the machine was busy" if noise else "")
    profile: Part
    if of_server:
        profile, key = server_model(loaded, medians, source), "network.server"
    else:
        profile, key = device_profile(loaded, medians, source, cut), "a group's device"
    file = out or Path("server.yaml" if of_server else "device.yaml")
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(_as_yaml(profile))
    typer.echo(_table(seconds))
    typer.echo(f"\n{file} can stand for {key} in a scenario")
    if noise:
        typer.echo(f"warning: {noise}: end other programs, let it cool, and measure again", err=True)


def why_not_quiet(seconds: Mapping[str, Sequence[float]], cpu_s: float | None) -> str | None:
    """Say why measured times may be wrong; None if nothing speaks against them.

    Args:
        seconds: of each phase, one for each repetition.
        cpu_s: that this process has computed meanwhile; None: it has several threads, so that says nothing.
    """
    work_s = sum(map(sum, seconds.values()))
    if cpu_s is not None and cpu_s < LEAST_CPU_SHARE * work_s:
        return f"this process had a core for {100 * cpu_s / work_s:.0f} % of the time that it measured"
    longest = max(seconds, key=lambda name: statistics.median(seconds[name]))
    low, median, high = statistics.quantiles(seconds[longest], n=4)
    if high - low > MOST_SPREAD * median:
        spread = 100 * (high - low) / median
        return f"the middle half of the times of {longest} spreads over {spread:.0f} % of their median"
    return None


def _timed(times: Iterator[dict[str, float]], repeat: int) -> tuple[dict[str, list[float]], float]:
    """Collect seconds by name from so many repetitions after some to warm up, and the CPU time of these."""
    console = Console(stderr=True)
    counted = zip(range(WARM_UP + repeat), times, strict=False)
    shown = track(
        counted,
        "measuring",
        WARM_UP + repeat,
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    rows = []
    begun_s = time.process_time()
    for number, row in shown:
        if number < WARM_UP:
            begun_s = time.process_time()
        else:
            rows.append(row)
    return {name: [row[name] for row in rows] for name in rows[0]}, time.process_time() - begun_s


def _table(seconds: dict[str, list[float]]) -> str:
    lines = [f"{'':<18}{'median':>11}   middle half"]
    for name, times_s in seconds.items():
        low, median, high = (f"{1000 * quartile:.2f}" for quartile in statistics.quantiles(times_s, n=4))
        lines.append(f"{name:<18}{median:>8} ms   {low} to {high} ms")
    memory_mib = _peak_memory_mib()
    return "\n".join(lines if memory_mib is None else [*lines, f"\npeak memory {memory_mib:.0f} MiB"])


def _as_yaml(profile: Part) -> str:
    """Give what was measured; `head_sample_s` is for early cuts."""
    content = profile.model_dump(mode="json", exclude_none=True)
    if not content.get("head_sample_s"):
        content.pop("head_sample_s", None)
    rounded = {key: float(f"{x:.3g}") if isinstance(x, float) else x for key, x in content.items()}
    return yaml.safe_dump(rounded, sort_keys=False, width=100)


def _source(scenario: Scenario, threads: int, repeat: int, at_work: int) -> str:
    """Say what was measured where."""
    flows, memory_mib = scenario.flows, _peak_memory_mib()
    words = [
        f"measured on {_machine()}, {os.cpu_count()} cores, {threads} thread{'s' if threads > 1 else ''}",
        *([f"{at_work} processes at work"] if at_work > 1 else []),
        f"torch {torch.__version__}",
        f"{scenario.task.name}",
        f"activations {_name(flows.activations_up)}",
        f"gradient {_name(flows.gradient_down)}",
        f"medians of {repeat}",
        *([] if memory_mib is None else [f"peak memory {memory_mib:.0f} MiB"]),
        f"{dt.datetime.now(dt.UTC).date()}",
    ]
    return ", ".join(words)


def _name(codec: GradientCodec) -> str:
    return " ".join(map(str, (codec.codec, *codec_to_wire(codec)[1:])))


def _machine() -> str:
    if _BOARD.exists():
        return _BOARD.read_text().rstrip("\0")
    info = _CPUINFO.read_text().splitlines() if _CPUINFO.exists() else []
    models = [line.partition(":")[2].strip() for line in info if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _peak_memory_mib() -> float | None:
    if sys.platform == "win32":
        return None
    import resource  # noqa: PLC0415  not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
