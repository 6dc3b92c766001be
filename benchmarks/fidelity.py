"""Virtual time against reality: the same scenarios over shaped links and in `fedlite simulate`.

    sudo .venv/bin/python -m benchmarks.fidelity [--settings slow,wan] [--rounds 15]

For each setting: namespaces joined by shaped links, which are checked first; in them Mosquitto, `fedlite
server` and a `fedlite edge` for each client; `fedlite calibrate` measures this machine with as many
processes at work. Then the mean duration of the live rounds after the first is held against that of
`fedlite simulate` with the measured profiles. Linux, as root, with mosquitto.
"""

import argparse
import contextlib
import itertools
import math
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from benchmarks.shaped_links import (
    PROBE_BYTES,
    broker_address,
    broker_namespace,
    check_link,
    client_namespace,
    entered,
    shaped_links,
    why_not,
)
from broker.servers.mosquitto import find_mosquitto
from scenarios.schema.links import Link
from scenarios.schema.network import AccessPoint

FEDLITE = str(Path(sys.executable).with_name("fedlite"))
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
PORT = 1883
LONGEST_RUN_S = 300.0
SHAPER_TOLERANCE = 0.05
TCP = "reno"
"""What a namespace may be given as its default; a process must ask for Cubic itself."""

MODELLED_ROUNDS = 300
"""As many, for the mean of the model without its noise."""

COMPRESSED = {
    "activations_up": {"codec": "pq", "subvectors": 1152, "groups": 1, "centroids": 2},
    "gradient_down": {"codec": "int4"},
    "head_update_up": {"codec": "int4"},
    "head_state_down": {"codec": "int4"},
}
EXACT = {flow: {"codec": "float32"} for flow in COMPRESSED}
HALF = {flow: {"codec": "float16"} for flow in COMPRESSED}


@dataclass(frozen=True)
class Load:
    """What is trained, and how large its messages are."""

    clients: int
    batch_size: int
    flows: str  # a key of FLOWS
    task: str  # a key of TASKS


@dataclass(frozen=True)
class Setting:
    """A link for every client, and what travels on it."""

    link: Link
    load: Load
    shared_kbps: tuple[float, float] | None = None


FLOWS = {"compressed": COMPRESSED, "float16": HALF, "float32": EXACT}
TASKS = {
    "cnn": {"name": "digits28"},
    "wide": {"name": "wide", "module": str(Path(__file__).with_name("wide_task.py"))},
}
SLOW = Load(clients=2, batch_size=10, flows="compressed", task="cnn")
MEDIUM = Load(clients=2, batch_size=10, flows="float16", task="wide")
FAST = Load(clients=2, batch_size=20, flows="float32", task="wide")
CNN = Load(clients=2, batch_size=20, flows="float32", task="cnn")

SETTINGS = {
    "slow": Setting(Link(uplink_kbps=256, downlink_kbps=256, latency_ms=200), SLOW),
    "slow-lossy": Setting(Link(uplink_kbps=512, downlink_kbps=512, latency_ms=100, loss=0.01), SLOW),
    "3g": Setting(Link(uplink_kbps=768, downlink_kbps=1600, latency_ms=150), SLOW),
    "wan": Setting(Link(uplink_kbps=4000, downlink_kbps=4000, latency_ms=40), MEDIUM),
    "wan-lossy": Setting(Link(uplink_kbps=4000, downlink_kbps=8000, latency_ms=25, loss=0.01), MEDIUM),
    "satellite": Setting(Link(uplink_kbps=5000, downlink_kbps=25000, latency_ms=300), FAST),
    "lte": Setting(Link(uplink_kbps=12000, downlink_kbps=12000, latency_ms=35), FAST),
    "lte-cnn": Setting(Link(uplink_kbps=12000, downlink_kbps=12000, latency_ms=35), CNN),
    "fast": Setting(Link(uplink_kbps=50000, downlink_kbps=50000, latency_ms=10), FAST),
    "fast-cnn": Setting(Link(uplink_kbps=50000, downlink_kbps=50000, latency_ms=10), CNN),
    "shared": Setting(
        Link(uplink_kbps=6000, downlink_kbps=6000, latency_ms=20),
        Load(clients=4, batch_size=10, flows="float16", task="cnn"),
        shared_kbps=(8000, 12000),
    ),
}


def write_scenario(file: Path, setting: Setting, rounds: int, profiles: Path | None) -> Path:
    """Write a setting as a scenario, with profiles of devices and server if they are there."""
    load, link = setting.load, setting.link.model_dump(exclude_defaults=True)
    group: dict[str, Any] = {"count": 1, "link": link}
    network: dict[str, Any] = {"tcp": TCP}
    if setting.shared_kbps:
        up_kbps, down_kbps = setting.shared_kbps
        network["access_points"] = {"shared": {"uplink_kbps": up_kbps, "downlink_kbps": down_kbps}}
        group["via"] = "shared"
    fleet = [dict(group) for _ in range(load.clients)]
    if profiles:
        network["server"] = str(profiles / "server.yaml")
        for member in fleet:
            member["device"] = str(profiles / "device.yaml")
    training = {"rounds": rounds, "cohort": load.clients, "head_lr": 0.03, "tail_lr": 0.03}
    content = {
        "name": "fidelity",
        "task": TASKS[load.task] | {"partition": "iid", "batch_size": load.batch_size},
        "training": training | {"evaluate_every": rounds},  # a live evaluation takes time
        "flows": FLOWS[load.flows],
        "fleet": fleet,
        "network": network,
    }
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


@contextmanager
def started(command: Sequence[str], log_file: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Keep a process; it gets no Ctrl-C of ours, and ends with the context."""
    with log_file.open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=ONE_THREAD, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def finished(process: subprocess.Popen[bytes], what: str, log_file: Path) -> None:
    """Wait for a process; end the benchmark if it fails or takes for ever."""
    try:
        code: object = process.wait(LONGEST_RUN_S)
    except subprocess.TimeoutExpired:
        code = f"nothing within {LONGEST_RUN_S:.0f} s"
    if code:
        words = log_file.read_text(errors="replace").splitlines()[-5:]
        raise SystemExit("\n".join([f"{what} ended with {code}:", *words]))


def profiles_of(setting: Setting, folder: Path) -> Path:
    """Measure this machine, as many devices at the same time as will be; give the folder of the profiles."""
    load = setting.load
    profiles = folder / f"profiles-{load.clients}-{load.batch_size}-{load.flows}-{load.task}"
    if profiles.exists():
        return profiles
    profiles.mkdir()
    log_file = profiles / "log"
    scenario = write_scenario(profiles / "scenario.yaml", setting, 1, None)
    calibrate = [FEDLITE, "calibrate", str(scenario), "--threads=1"]
    at_work = f"--at-work={load.clients}"
    with started([*calibrate, at_work, f"--out={profiles}/device.yaml"], log_file) as device:
        finished(device, "calibrate", log_file)
    with started([*calibrate, "--server", f"--out={profiles}/server.yaml"], log_file) as server:
        finished(server, "calibrate --server", log_file)
    return profiles


def live(setting: Setting, scenario: Path, folder: Path) -> list[float]:
    """Run a scenario in the namespaces; give the seconds of each round."""
    in_broker = ["ip", "netns", "exec", broker_namespace(), FEDLITE]
    log_file = folder / "log"
    with ExitStack() as stack:
        broker = [
            "broker",
            "--kind=mosquitto",
            "--host=0.0.0.0",
            "--anonymous",
            f"--port={PORT}",
            f"--folder={folder}/mq",
        ]
        stack.enter_context(started([*in_broker, *broker], log_file))
        wait_for_broker()
        options = [f"--broker=mqtt://127.0.0.1:{PORT}", f"--out={folder}/live"]
        server = stack.enter_context(started([*in_broker, "server", str(scenario), *options], log_file))
        for number in range(setting.load.clients):
            in_client = ["ip", "netns", "exec", client_namespace(number), FEDLITE]
            options = [
                f"--broker=mqtt://{broker_address(number)}:{PORT}",
                f"--clients={number}",
                "--threads=1",
            ]
            stack.enter_context(started([*in_client, "edge", str(scenario), *options], log_file))
        finished(server, "the live run", log_file)
    return round_seconds(folder / "live")


def wait_for_broker() -> None:
    """Return when the broker in its namespace takes connections."""
    deadline_s = time.monotonic() + 30.0
    while time.monotonic() < deadline_s:
        with contextlib.suppress(OSError), entered(broker_namespace()):
            socket.create_connection(("127.0.0.1", PORT), 1.0).close()
            return
        time.sleep(0.1)
    raise SystemExit("mosquitto did not start")


def modelled(scenario: Path, folder: Path) -> list[float]:
    """Run a scenario in virtual time; give the seconds of each round."""
    rounds = [f"--set=training.rounds={MODELLED_ROUNDS}", f"--set=training.evaluate_every={MODELLED_ROUNDS}"]
    command = [FEDLITE, "simulate", str(scenario), "--timing-only", *rounds, f"--out={folder}/simulated"]
    with started(command, folder / "log") as process:
        finished(process, "simulate", folder / "log")
    return round_seconds(folder / "simulated")


def round_seconds(folder: Path) -> list[float]:
    """Read the rounds of a run, but for the first (windows are small yet) and the last (it evaluates)."""
    ends_s = pq.read_table(folder / "metrics.parquet")["elapsed_s"].to_pylist()
    return [end - begin for begin, end in itertools.pairwise(ends_s)][:-1]


def check(setting: Setting) -> str:
    """Hold the shaper against what was asked; end the benchmark if it is wrong."""
    link, found = setting.link, check_link(0, setting.link)
    up_kbps, down_kbps = link.uplink_kbps or math.inf, link.downlink_kbps or math.inf
    if setting.shared_kbps:
        up_kbps, down_kbps = map(min, (up_kbps, down_kbps), setting.shared_kbps)
    small_ms = 8 * PROBE_BYTES * (1 / up_kbps + 1 / down_kbps)
    asked = {"ms": 2 * link.latency_ms + small_ms, "kbit/s up": up_kbps, "kbit/s down": down_kbps}
    got = {"ms": found.round_trip_ms, "kbit/s up": found.up_kbps, "kbit/s down": found.down_kbps}
    for unit, wanted in asked.items():
        if abs(got[unit] / wanted - 1) > SHAPER_TOLERANCE:
            raise SystemExit(
                f"the shaper is off: {got[unit]:.1f} {unit}, not {wanted:.1f}; too busy a machine?"
            )
    errors = ", ".join(f"{100 * (got[unit] / wanted - 1):+.1f} % {unit}" for unit, wanted in asked.items())
    return f"{errors}, {100 * found.loss:.1f} % lost"


def compare(name: str, rounds: int, folder: Path) -> float:
    """Do both for one setting, print a line, and give the model's error."""
    setting = SETTINGS[name]
    rounds *= 2 if setting.link.loss else 1  # chance needs more of them
    profiles = profiles_of(setting, folder)
    place = folder / name
    place.mkdir()
    scenario = write_scenario(place / "scenario.yaml", setting, rounds + 2, profiles)
    point = None
    if setting.shared_kbps:
        point = AccessPoint(uplink_kbps=setting.shared_kbps[0], downlink_kbps=setting.shared_kbps[1])
    with shaped_links([setting.link] * setting.load.clients, point, tcp=TCP):
        shaper = check(setting)
        real_s = live(setting, scenario, place)
    model_s = statistics.mean(modelled(scenario, place))
    mean_s, spread_s = statistics.mean(real_s), statistics.stdev(real_s) / len(real_s) ** 0.5
    error = model_s / mean_s - 1
    print(
        f"{name:<12} {mean_s:8.3f} +- {spread_s:5.3f} s {model_s:8.3f} s {100 * error:+6.1f} %   {shaper}",
        flush=True,
    )
    return error


def main() -> None:
    """Compare setting after setting and print the errors."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--settings", default=",".join(SETTINGS))
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    names = options.settings.split(",")
    if unknown := sorted(set(names) - set(SETTINGS)):
        parser.error(f"no such setting: {', '.join(unknown)}; there are {', '.join(SETTINGS)}")
    if why := why_not():
        raise SystemExit(f"SKIPPED, nothing was compared: {why}")
    find_mosquitto()
    with contextlib.suppress(PermissionError):
        os.nice(-20)  # other programs take little from those that are compared
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print(
        f"{'setting':<12} {'live round, mean':>19} {'modelled':>10} {'error':>8}"
        "   the shaper, against what was asked"
    )
    with tempfile.TemporaryDirectory() as folder:
        try:
            errors = [abs(compare(name, options.rounds, Path(folder))) for name in names]
        except KeyboardInterrupt:
            raise SystemExit("stopped; namespaces and processes are gone") from None
    print(f"median error {100 * statistics.median(errors):.1f} %, worst {100 * max(errors):.1f} %")


if __name__ == "__main__":
    main()
