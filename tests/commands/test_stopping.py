"""Stopping is a flag that every loop looks at: nothing that a signal handler does can be lost."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

from broker.cli.console import run_until_stopped
from broker.stopping import Stop, stop_on_signals
from scenarios.loading.grid import load_grid
from server_node.vocabulary.ledger import Ledger
from server_node.vocabulary.reports import Fact, RoundReport
from sim.experiments.grid_runs import sweep
from sim.experiments.results import Mode
from sim.simulation.run import simulate
from tests.experiments.test_sweep import Here
from tests.helpers import small_file, small_scenario

P = ParamSpec("P")
T = TypeVar("T")

SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@SIGNALS
def test_a_signal_sets_the_flag_and_wakes_whoever_waits(number: signal.Signals) -> None:
    woken: list[bool] = []
    with stop_on_signals() as stop, stop.waking(lambda: woken.append(stop.asked)):
        assert not stop.asked
        signal.raise_signal(number)
    assert woken == [True]


def test_who_begins_to_wait_too_late_is_woken_at_once() -> None:
    stop, woken = Stop(), list[int]()
    stop.ask()
    with stop.waking(lambda: woken.append(1)):
        assert woken == [1]


def test_who_waits_no_more_is_not_woken() -> None:
    stop, woken = Stop(), list[int]()
    with stop.waking(lambda: woken.append(1)):
        pass
    stop.ask()
    assert woken == []


def test_handlers_of_before_come_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stop_on_signals():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@SIGNALS
def test_a_signal_that_comes_when_the_work_is_done_makes_no_failure_of_it(number: signal.Signals) -> None:
    late = (
        "import os, sys\nfrom broker.cli.__main__ import main\n"
        "class Late:\n"
        f" def __del__(self, kill=os.kill, me=os.getpid()): kill(me, {int(number)})\n"
        "late = Late()\nsys.argv = ['fedlite', '--version']\nmain()"
    )
    command = [sys.executable, "-c", late]
    assert subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0


@SIGNALS
def test_a_second_signal_ends_the_process_at_once(number: signal.Signals) -> None:
    deaf = (
        "import time\nfrom broker.stopping import stop_on_signals\n"
        "with stop_on_signals():\n print('ready', flush=True)\n while True: time.sleep(0.05)"
    )
    with subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        while process.poll() is None:  # the first one may still be on its way when the second one is sent
            process.send_signal(number)
            time.sleep(0.1)
    assert process.returncode == 130


@SIGNALS
def test_a_program_in_an_event_loop_ends_by_its_event(number: signal.Signals) -> None:
    async def main(asked: asyncio.Event) -> str:
        signal.raise_signal(number)
        await asked.wait()
        return "clean"

    assert run_until_stopped(main) == "clean"


def test_a_program_that_was_stopped_before_its_event_loop_began_ends_too() -> None:
    async def main(asked: asyncio.Event) -> str:
        await asked.wait()
        return "clean"

    stop = Stop()
    stop.ask()
    assert run_until_stopped(main, stop=stop) == "clean"


def test_a_simulation_ends_between_two_events_and_says_so(tmp_path: Path) -> None:
    stop = Stop()

    def watch(fact: Fact, _ledger: Ledger) -> None:
        if isinstance(fact, RoundReport) and fact.round == 7:
            stop.ask()

    summary = simulate(small_scenario(tmp_path), tmp_path / "run", watch=watch, stop=stop)
    assert (summary["reason"], summary["rounds"]) == ("stopped", 7)
    assert {file.name for file in (tmp_path / "run").iterdir()} >= {
        "summary.json", "metrics.parquet", "trace.json", "model.safetensors",
    }  # fmt: skip


class Stopping(Here):
    """Runs everything at once, and gets a signal in the moment in which the n-th run is handed out."""

    def __init__(self, number: signal.Signals, nth: int) -> None:
        self.number = number
        self.left = nth

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        self.left -= 1
        if not self.left:
            signal.raise_signal(self.number)
        return super().submit(fn, *args, **kwargs)


@SIGNALS
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_signal_while_a_run_is_handed_out_is_not_lost(
    tmp_path: Path, number: signal.Signals, nth: int
) -> None:
    points = load_grid(small_file(tmp_path), ["training.rounds=2"], ["seed=1,2,3,4"])
    with stop_on_signals() as stop:
        rows = sweep(points, tmp_path / "s", Mode.TIMING_ONLY, lambda: Stopping(number, nth), stop=stop)
        assert stop.asked
    assert len(rows) < 4
    again = sweep(points, tmp_path / "s", Mode.TIMING_ONLY, Here)
    assert [row["seed"] for row in again] == [1, 2, 3, 4]
