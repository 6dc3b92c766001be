"""Server, edges and `fedlite watch` as processes: what they print, and how they end."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import small_file

pytestmark = pytest.mark.slow
WAIT_S = 60.0
RUN = "--set=training.rounds=100000", "--set=training.cohort=3"


class Process:
    """A fedlite command with its output in files."""

    def __init__(self, folder: Path, name: str, *arguments: str) -> None:
        self.out, self.err = folder / f"{name}.out", folder / f"{name}.err"
        command = [sys.executable, "-m", "broker.cli", *arguments]
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.popen = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=folder
            )

    def says(self, pattern: str) -> str:
        """Wait until it has written what matches; give the match."""
        give_up_s = time.monotonic() + WAIT_S
        while (found := re.search(pattern, self.text)) is None:
            assert time.monotonic() < give_up_s, self.text
            time.sleep(0.1)
        return found[found.re.groups]

    @property
    def text(self) -> str:
        return self.out.read_text() + self.err.read_text()

    def json_lines(self, is_enough: Callable[[list[Any]], bool]) -> list[Any]:
        """Wait until its lines of JSON are enough."""
        give_up_s = time.monotonic() + WAIT_S
        while True:
            *whole, _ = self.out.read_text().split("\n")
            lines = [json.loads(line) for line in whole]
            if is_enough(lines):
                return lines
            assert time.monotonic() < give_up_s, self.text
            time.sleep(0.1)

    def ends(self, by: signal.Signals | None = None) -> int:
        if by is not None:
            self.popen.send_signal(by)
        return self.popen.wait(WAIT_S)


@contextmanager
def started(folder: Path) -> Iterator[Callable[..., Process]]:
    """Give what starts processes; those that are left at the end are killed."""
    with contextlib.ExitStack() as stack:

        def start(name: str, *arguments: str) -> Process:
            process = Process(folder, name, *arguments)
            stack.callback(process.popen.wait)
            stack.callback(process.popen.kill)
            return process

        yield start


def status_of(client: str, lines: list[Any]) -> str:
    """Give the last status that was told of a client."""
    told = [each for line in lines if line["page"].startswith("clients/") for each in line["clients"]]
    return str([each["status"] for each in told if each["client"] == client][-1:])


def test_a_fleet_seen_from_elsewhere(tmp_path: Path, embedded_url: str) -> None:
    scenario, broker = str(small_file(tmp_path)), f"--broker={embedded_url}"
    with started(tmp_path) as start:
        watch = start("watch", "watch", broker, "--run=seen", "--json")
        server = start("server", "server", scenario, broker, "--run=seen", "--json", "--metrics=0", *RUN)
        edge = start("edge", "edge", scenario, broker, "--run=seen", "--clients=0-2", "--metrics=0", *RUN)
        other = start("other", "edge", scenario, broker, "--run=seen", "--clients=3", "--json", *RUN)
        watch.json_lines(lambda lines: status_of("c3", lines) not in ("[]", "['unknown']"))
        rounds = server.json_lines(lambda lines: len(lines) >= 3)
        assert [line["round"] for line in rounds[:3]] == [1, 2, 3]
        server.says("INFO .*c3 is here")
        edge.says("INFO .*c0: takes part, first in round")

        url = server.says(r"metrics at (http://\S+)")
        with urllib.request.urlopen(url, timeout=5) as answer:
            assert b'fedlite_client_online{client="c3",run="seen"} 1.0' in answer.read()
        with urllib.request.urlopen(edge.says(r"metrics at (http://\S+)"), timeout=5) as answer:
            assert b'fedlite_edge_connected{client="c0",run="seen"} 1.0' in answer.read()

        assert other.json_lines(lambda lines: bool(lines) and lines[-1]["metric"] is not None)
        other.popen.kill()
        watch.json_lines(lambda lines: status_of("c3", lines) == "['offline']")
        pages = {"run", "metric", "round", "history", "events", "clients/0", "state"}
        watch.json_lines(lambda lines: pages == {line["page"] for line in lines})
        server.says("INFO .*c3 has gone")
        start("again", "edge", scenario, broker, "--run=seen", "--clients=3", *RUN)
        server.says("INFO .*c3 is back after")

        assert start("stop", "stop", "seen", broker).ends() == 0
        assert watch.ends() == 0
        assert "the run is over: stopped for good" in watch.text
        assert server.ends() == edge.ends() == 8
        assert json.loads(server.out.read_text().splitlines()[-1])["reason"] == "stopped for good"
        last = [line for line in watch.json_lines(bool) if line["page"] == "run"][-1]
        assert (last["phase"], last["reason"]) == ("finished", "stopped for good")


def test_watching_waits_for_a_run_and_ends_with_ctrl_c(tmp_path: Path, embedded_url: str) -> None:
    with started(tmp_path) as start:
        watch = start("watch", "watch", f"--broker={embedded_url}", "--run=never")
        page = start("page", "watch", f"--broker={embedded_url}", "--run=never", "--page=0")
        watch.says("the broker knows nothing of run never; waiting for its server")
        url = page.says(r"never at (http://127\.0\.0\.1:\d+/)")
        with urllib.request.urlopen(url, timeout=5) as answer:
            assert b"/page.js" in answer.read()
        for process in (watch, page):
            assert process.ends(signal.SIGINT) == 130
            assert "Traceback" not in process.text


def test_a_mistake_is_one_line(tmp_path: Path, embedded_url: str) -> None:
    with started(tmp_path) as start:
        both = start("both", "watch", f"--broker={embedded_url}", "--run=x", "--page=0", "--json")
        name = start("name", "watch", f"--broker={embedded_url}", "--run=a/b")
        assert both.ends() == name.ends() == 2
        assert both.text == "error: take --page or --json, not both\n"
        assert name.text.startswith("error: 'a/b' cannot be a run or client name")
