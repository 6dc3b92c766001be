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
import itertools
import multiprocessing
import statistics
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from benchmarks.shaped_links import PROBE_BYTES, why_not
from benchmarks.tcp_modelled import modelled, replayed
from benchmarks.tcp_settings import Setting, kinds_of, settings_of
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
TALKS = ("half", "setting", "begins_s", "mean_ms")
LONGEST_S = 240.0
CHANGING_S = 120.0
"""So long is the part of the course of a link that is looked at."""

SHAPER_TOLERANCE = 0.05
LATE_TOLERANCE = 0.02
"""Of a round trip, in the mean."""

REPLAYS = 8
"""Of each conversation on links that change."""

MODELLED_ERROR = 0.01
MODELLED_BYTES = 1_000_000_000
"""The model goes on until the standard error of its mean is so small, or so much was sent."""


def talks_file(table: Path) -> Path:
    """Say where the conversations on changing links are: beside the table."""
    return table.with_stem(f"{table.stem}_talks")


def measured(setting: Setting, tcp: str) -> tuple[dict[str, object], list[dict[str, object]]]:
    """Measure a setting; give a line of the table, and one for each conversation where the link changes."""
    found = measure(setting, tcp, CHANGING_S if setting.changes else LONGEST_S)
    mean_s, error = setting.mean(found.seconds)
    assert found.check is not None
    line: dict[str, object] = {
        "half": setting.half,
        "setting": setting.name,
        "messages": sum(map(len, found.seconds)),
        "mean_ms": round(1000 * mean_s, 3),
        "standard_error_percent": round(100 * error, 2),
        "shaper_percent": round(100 * shaper_error(setting, found.check.up_kbps, found.check.down_kbps), 2),
        "late_ms": round(2 * found.late_ms, 3),
        "late_percent": round(100 * found.late_share, 3),
    }
    talks: list[dict[str, object]] = [
        {
            "half": setting.half,
            "setting": setting.name,
            "begins_s": round(begins_s, 3),
            "mean_ms": round(1000 * statistics.mean(seconds), 3),
        }
        for begins_s, seconds in zip(found.begins_s, found.seconds, strict=True)
    ]
    return line, talks if setting.changes else []


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
                row, talks = run.result()
            except (OSError, RuntimeError, subprocess.SubprocessError, statistics.StatisticsError) as error:
                print(f"{setting.name}: failed, {error!r}", flush=True)
                continue
            if why := refusal(setting, row):
                print(f"{setting.name}: refused, {why}", flush=True)
                continue
            append(out, COLUMNS, [row])
            append(talks_file(out), TALKS, talks)
            print(*row.values(), sep="  ", flush=True)


def append(file: Path, columns: Sequence[str], rows: Sequence[dict[str, object]]) -> None:
    """Write lines at the end of a table."""
    new = not file.exists()
    with file.open("a", newline="") as opened:
        writer = csv.DictWriter(opened, columns, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)


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


def replayed_error(
    setting: Setting, rows: Sequence[dict[str, str]], tcp: Tcp
) -> tuple[float, float, float, float]:
    """Let the model have each conversation at the measured place in the course of the links.

    Returns:
        The measured mean in ms; the model's; its error; and the standard error of that, from the
        differences of conversations, or of groups that share an access point.
    """
    begins_s = [float(row["begins_s"]) for row in rows]
    repeats = [replayed(setting, begins_s, tcp, seed) for seed in range(REPLAYS)]
    model_ms = [1000 * statistics.mean(itertools.chain(*talk)) for talk in zip(*repeats, strict=True)]
    real_ms = [float(row["mean_ms"]) for row in rows]
    mean_ms = statistics.mean(real_ms)
    differences = [model / mean_ms - real / mean_ms for model, real in zip(model_ms, real_ms, strict=True)]
    groups = [statistics.mean(group) for group in _in_groups(differences, setting.sharers)]
    spread = statistics.stdev(groups) / len(groups) ** 0.5
    return mean_ms, statistics.mean(model_ms), statistics.mean(differences), spread


def _in_groups(values: Sequence[float], size: int) -> Iterator[Sequence[float]]:
    return (values[first : first + size] for first in range(0, len(values), size))


def compare(settings: Iterable[Setting], file: Path, half: str, tcp: Tcp) -> list[float]:
    """Print for each measured setting of a half what the model says; give its errors."""
    rows = {row["setting"]: row for row in read(file) if row["half"] == half}
    talks: dict[str, list[dict[str, str]]] = {}
    if talks_file(file).exists():
        for talk in read(talks_file(file)):
            talks.setdefault(talk["setting"], []).append(talk)
    errors = []
    for setting in settings:
        if setting.name not in rows:
            continue
        row = rows[setting.name]
        if setting.changes:
            measured_ms, mean_ms, error, spread = replayed_error(setting, talks[setting.name], tcp)
        else:
            mean_ms, error = model_error(setting, row, tcp)
            measured_ms, spread = float(row["mean_ms"]), float(row["standard_error_percent"]) / 100
        errors.append(error)
        print(
            f"{setting.name:<60} {measured_ms:10.1f} ms {mean_ms:10.1f} ms"
            f" {100 * error:+6.1f} +- {100 * spread:.1f} %",
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
        command.add_argument("--kinds", action="store_true", help="traces, jitter, bursts, not the grid")
        command.add_argument("--only", default="", help="settings with these words in their names")
    options = parser.parse_args()
    settings = kinds_of() if options.kinds else settings_of()
    chosen = [setting for setting in settings if options.only in setting.name]
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
