"""Ctrl-C and SIGTERM at any moment: the command ends soon, says so, and leaves nothing half done behind.

A delay counts from the moment in which the program has its own handlers. Before that, in the first
hundredths of a second, Python has not run a line of ours and the signal ends the process in its own way.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from sim.experiments.study.points import load_runs
from sim.report.page import write_report
from tests.experiments.test_reproduce import study_file
from tests.helpers import small_file

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

COMMANDS = ("run", "simulate", "sweep", "reproduce")
LONGEST_S = {"run": 9.0, "simulate": 6.0, "sweep": 9.0, "reproduce": 12.0}
"""Delays are drawn up to here: imports, start of other processes, work, all of them are hit."""

HANG_S = 300.0
"""Guards against a hang; no test depends on how long anything takes."""

FOREVER = "training.rounds=1000000"


def command_of(name: str, folder: Path) -> list[str]:
    """Give a command that would take hours."""
    out = folder / "out"
    start = [sys.executable, "-m", "broker.cli", name]
    match name:
        case "run":
            return [*start, str(small_file(folder)), f"--set={FOREVER}", "--processes=1", f"--out={out}"]
        case "simulate":
            return [*start, str(small_file(folder)), f"--set={FOREVER}", f"--out={out}"]
        case "sweep":
            # short and long points, so that signals also come while points are handed out and collected
            return [
                *start, str(small_file(folder)), "--grid=training.rounds=1,2,3,4,5,6,7,8,9,10,1000000",
                "--jobs=2", f"--out={out}",
            ]  # fmt: skip
        case _:
            return [
                *start, f"--study={study_file(folder)}", "--budget=full", "--processes=2",
                "--set=training.rounds=3000", f"--to={out}",
            ]  # fmt: skip


@contextlib.contextmanager
def started(command: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a command in a session of its own, as a terminal does; end its processes whatever happens."""
    environment = os.environ | {"FEDLITE_TEST": str(folder)}
    with (folder / "said.txt").open("w") as said:
        process = subprocess.Popen(
            command, stdout=said, stderr=said, text=True, start_new_session=True, env=environment
        )
    try:
        yield process
    finally:
        for left in descendants(folder):
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
        process.kill()
        process.wait()


def descendants(folder: Path) -> list[psutil.Process]:
    """Give the processes that work for a test: its folder stands in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("FEDLITE_TEST") == str(folder) and process.pid != os.getpid():
                found.append(process)
    return found


def wait_until(happened: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + HANG_S
    while not happened():
        assert time.monotonic() < give_up_s, "it hangs"
        time.sleep(0.002)


def handles_sigterm(process: subprocess.Popen[str]) -> bool:
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def stop_after(name: str, folder: Path, number: signal.Signals, delay_s: float) -> str:
    """Start a command, send a signal after a while, and check what must be true at any moment.

    SIGINT goes to the whole process group, as Ctrl-C does; SIGTERM to the command alone.

    Returns:
        What the command said.
    """
    with started(command_of(name, folder), folder) as process:
        wait_until(lambda: process.poll() is not None or handles_sigterm(process))
        time.sleep(delay_s)
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        code = process.wait(HANG_S)
        said = (folder / "said.txt").read_text()
        assert code == 130, said
        wait_until(lambda: not descendants(folder))
    assert "Traceback" not in said
    assert "Warning" not in said
    check_what_is_left(name, folder / "out", said)
    return said


def check_what_is_left(name: str, out: Path, said: str) -> None:
    """Nothing is half written, and what is there can be read again."""
    parts = out.rglob(".*.part") if out.exists() else ()
    assert not [file for file in parts if not file.parent.name.endswith(".unfinished")]  # of who was killed
    if not said:  # it came while modules were imported
        assert not list(out.glob("summary.json"))
    elif name in ("run", "simulate"):
        summary = json.loads((out / "summary.json").read_text())
        assert summary["reason"] == "stopped"
        assert f"stopped after {summary['rounds']} of 1000000 rounds" in said
        assert pq.read_table(out / "metrics.parquet").num_rows == summary["rounds"]
        assert (out / "model.safetensors").exists()
        if summary["rounds"]:
            write_report([out], None)
    elif name == "sweep":
        done = int(said.partition("stopped: ")[2].split()[0])
        rows = pq.read_table(out / "sweep.parquet").to_pylist() if done else []
        assert [row["error"] for row in rows] == [None] * done
        over = {file.parent.name for file in out.glob("*/summary.json")}
        assert {row["run"] for row in rows} == {name for name in over if not name.endswith(".unfinished")}
    else:
        assert said.endswith("stopped; the same command goes on\n")
        assert "failed" not in said
        trained = [run.grid_run.name for run in load_runs(str(out.parent / "tiny.yaml"))[1] if run.trained]
        assert (out / "results.md").exists() == any(
            file.parent.name in trained for file in out.glob("*/*.json")
        )


def delays(name: str, count: int) -> list[tuple[str, signal.Signals, float]]:
    """Draw delays, with the two signals in turn."""
    draws = random.Random(name)
    return [
        (name, (signal.SIGINT, signal.SIGTERM)[i % 2], round(draws.uniform(0, LONGEST_S[name]), 3))
        for i in range(count)
    ]


FEW = [
    (name, *each) for name in COMMANDS for each in ((signal.SIGINT, 0.3), (signal.SIGTERM, LONGEST_S[name]))
]
MANY = [each for of_all in zip(*(delays(name, 100) for name in COMMANDS), strict=True) for each in of_all]


@pytest.mark.parametrize(("name", "number", "delay_s"), FEW)
def test_a_command_that_is_stopped_ends_cleanly(
    tmp_path: Path, name: str, number: signal.Signals, delay_s: float
) -> None:
    said = stop_after(name, tmp_path, number, delay_s)
    if delay_s < 1:
        assert said == ""


@pytest.mark.signals
@pytest.mark.parametrize(("name", "number", "delay_s"), MANY)
def test_a_command_can_be_stopped_at_any_moment(
    tmp_path: Path, name: str, number: signal.Signals, delay_s: float
) -> None:
    stop_after(name, tmp_path, number, delay_s)
