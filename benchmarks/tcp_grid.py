"""Real TCP on shaped links against the links of virtual time, over a grid of settings.

    sudo .venv/bin/python -m benchmarks.tcp_grid measure --tcp cubic --out grid-cubic.csv
    .venv/bin/python -m benchmarks.tcp_grid compare grid-cubic.csv

`measure` lets clients in network namespaces talk over shaped links (benchmarks.tcp_talk), and writes a
line for each setting: the mean time of a message, its standard error, and how punctual the forwarder was.
What it has measured it does not measure again. `compare` lets the link model have the same conversations,
and prints its errors. The settings are a balanced sample (benchmarks.tcp_settings). By one half the model
may be corrected; the other half was drawn beforehand and stays untouched. Measuring needs Linux and root.
"""

import argparse
import concurrent.futures
import csv
import multiprocessing
import statistics
import subprocess
from collections.abc import Iterable
from pathlib import Path

from benchmarks.shaped_links import PROBE_BYTES, why_not
from benchmarks.tcp_modelled import modelled
from benchmarks.tcp_settings import Setting, settings_of
from benchmarks.tcp_talk import measure
from scenarios.schema.links import Tcp

COLUMNS = (
    "half",
    "setting",
    "messages",
    "mean_ms",
    "standard_error_percent",
    "shaper_percent",
    "late_ms",
    "late_percent",
)
LONGEST_S = 240.0
SHAPER_TOLERANCE = 0.05
LATE_TOLERANCE = 0.02
"""Of a round trip, in the mean."""

MODELLED_ERROR = 0.007
MODELLED_BYTES = 3_000_000_000
"""The model goes on until the standard error of its mean is so small, or so much was sent."""


def measured(setting: Setting, tcp: str) -> dict[str, object]:
    """Measure a setting; give a line of the table."""
    found = measure(setting, tcp, LONGEST_S)
    mean_s, error = setting.mean(found.seconds)
    assert found.check is not None
    return {
        "half": setting.half,
        "setting": setting.name,
        "messages": sum(map(len, found.seconds)),
        "mean_ms": round(1000 * mean_s, 3),
        "standard_error_percent": round(100 * error, 2),
        "shaper_percent": round(100 * shaper_error(setting, found.check.up_kbps, found.check.down_kbps), 2),
        "late_ms": round(2 * found.late_ms, 3),
        "late_percent": round(100 * found.late_share, 3),
    }


def shaper_error(setting: Setting, up_kbps: float, down_kbps: float) -> float:
    """Say how far the rates are off at most; 0 where they change."""
    if setting.changes:
        return 0.0
    asked = setting.rates_kbps
    return max((got / wanted - 1 for got, wanted in zip((up_kbps, down_kbps), asked, strict=True)), key=abs)


def asked_round_trip_ms(setting: Setting) -> float:
    """Give the round trip of a probe, if nothing is late."""
    if setting.changes:
        return 2 * setting.link.latency_ms
    waits = 2 if setting.point else 1
    own_up, own_down = setting.link.uplink_kbps or 1e9, setting.link.downlink_kbps or 1e9
    ms = 8 * PROBE_BYTES * (1 / own_up + 1 / own_down)
    if waits == 2 and setting.point:
        ms += (
            8
            * PROBE_BYTES
            * (1 / (setting.point.uplink_kbps or 1e9) + 1 / (setting.point.downlink_kbps or 1e9))
        )
    return 2 * setting.link.latency_ms + ms


def refusal(setting: Setting, row: dict[str, object]) -> str | None:
    """Say why a measurement cannot be used; None if it can."""
    if abs(float(str(row["shaper_percent"]))) > 100 * SHAPER_TOLERANCE:
        return f"the shaper's rate is {row['shaper_percent']} % off"
    if float(str(row["late_ms"])) > LATE_TOLERANCE * 2 * setting.link.latency_ms:
        return f"packets were {row['late_ms']} ms late"
    return None


def measure_all(settings: Iterable[Setting], tcp: str, out: Path, side_by_side: int) -> None:
    """Measure what a table lacks, several settings at a time; write each line when it is known."""
    done = {row["setting"] for row in read(out)} if out.exists() else set()
    waiting = sorted((s for s in settings if s.name not in done), key=lambda s: -s.expected_s)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        side_by_side, mp_context=context, max_tasks_per_child=1
    ) as pool:
        runs = {pool.submit(measured, setting, tcp): setting for setting in waiting}
        for run in concurrent.futures.as_completed(runs):
            setting = runs[run]
            try:
                row = run.result()
            except (OSError, RuntimeError, subprocess.SubprocessError, statistics.StatisticsError) as error:
                print(f"{setting.name}: failed, {error!r}", flush=True)
                continue
            if why := refusal(setting, row):
                print(f"{setting.name}: refused, {why}", flush=True)
                continue
            new = not out.exists()
            with out.open("a", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                if new:
                    writer.writeheader()
                writer.writerow(row)
            print(*row.values(), sep="  ", flush=True)


def read(file: Path) -> list[dict[str, str]]:
    """Read a table."""
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def model_error(setting: Setting, row: dict[str, str], tcp: Tcp) -> tuple[float, float]:
    """Give the model's mean in ms, and its error against a measured line."""
    most = MODELLED_BYTES // (2 * setting.exchanges * setting.sharers * setting.message_bytes)
    seconds: list[list[float]] = []
    error, groups = 1.0, 0
    while error > MODELLED_ERROR and groups <= most:
        more = groups or 16
        seconds += modelled(setting, range(groups, groups + more), tcp)
        groups += more
        mean_s, error = setting.mean(seconds)
    mean_ms = 1000 * mean_s
    return mean_ms, mean_ms / float(row["mean_ms"]) - 1


def compare(settings: Iterable[Setting], file: Path, half: str, tcp: Tcp) -> list[float]:
    """Print for each measured setting of a half what the model says; give its errors."""
    rows = {row["setting"]: row for row in read(file) if row["half"] == half}
    errors = []
    for setting in settings:
        if setting.name in rows:
            row = rows[setting.name]
            mean_ms, error = model_error(setting, row, tcp)
            errors.append(error)
            measured_ms, spread = float(row["mean_ms"]), row["standard_error_percent"]
            print(
                f"{setting.name:<60} {measured_ms:10.1f} +- {spread:>5} % {mean_ms:10.1f}"
                f" {100 * error:+6.1f} %",
                flush=True,
            )
    return errors


def main() -> None:
    """Measure, or compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure", help="real TCP; Linux, as root")
    measuring.add_argument("--tcp", default="cubic", choices=["cubic", "reno"])
    measuring.add_argument("--out", type=Path, required=True)
    measuring.add_argument("--side-by-side", type=int, default=4)
    comparing = commands.add_parser("compare", help="the link model against a measured table")
    comparing.add_argument("file", type=Path)
    comparing.add_argument("--tcp", default="cubic", choices=["cubic", "reno"])
    comparing.add_argument("--half", default="correcting")
    for command in (measuring, comparing):
        command.add_argument("--only", default="", help="settings with these words in their names")
    options = parser.parse_args()
    chosen = [setting for setting in settings_of() if options.only in setting.name]
    if options.command == "measure":
        if why := why_not():
            raise SystemExit(f"SKIPPED, nothing was measured: {why}")
        measure_all(chosen, options.tcp, options.out, options.side_by_side)
        return
    errors = [abs(error) for error in compare(chosen, options.file, options.half, options.tcp)]
    print(
        f"{len(errors)} settings: median error {100 * statistics.median(errors):.1f} %,"
        f" worst {100 * max(errors):.1f} %"
    )


if __name__ == "__main__":
    main()
