"""Who reads the output may leave before its end, and its disk may be full: neither is a bug."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from broker.cli.output import is_for_nobody, reader_has_left
from tests.commands.test_errors import told
from tests.helpers import small_file

PROGRAM = [sys.executable, "-m", "broker.cli"]


def without_reader(*words: str) -> tuple[int, str]:
    """Give exit code and standard error of a command whose output nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(
            [*PROGRAM, *words], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(writing)
    return ended.returncode, ended.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],  # written by typer
        ["links", "list"],  # by rich
        ["scenarios", "show", "quickstart"],  # by fedlite
    ],
)
def test_a_command_whose_reader_has_left_ends_without_a_word(words: list[str]) -> None:
    assert without_reader(*words) == (141, "")


def test_a_simulation_whose_lines_nobody_reads_ends_without_a_word(tmp_path: Path) -> None:
    out = f"--out={tmp_path / 'run'}"
    assert without_reader("simulate", str(small_file(tmp_path)), "--timing-only", "--json", out) == (141, "")


def test_what_is_wrong_is_told_although_nobody_reads_the_output() -> None:
    code, words = without_reader("scenarios", "show", "nonsense")
    assert code == 2
    assert words.startswith("error: ")


def test_a_pipe_of_a_program_that_is_read_is_still_a_bug(capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = told(BrokenPipeError(errno.EPIPE, "a worker of our own"), capsys)
    assert (code, len(lines) > 1) == (1, True)


def test_a_reader_that_has_left_is_seen_in_whatever_group_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    assert not reader_has_left((writing,))
    os.close(reading)
    assert reader_has_left((writing,))
    os.close(writing)
    monkeypatch.setattr("broker.cli.output.reader_has_left", lambda: True)
    assert is_for_nobody(ExceptionGroup("", [ValueError(), ExceptionGroup("", [BrokenPipeError()])]))
    assert not is_for_nobody(ExceptionGroup("", [ValueError()]))


def test_an_output_on_a_full_disk_is_told_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    error = OSError(errno.ENOSPC, "No space left on device")
    assert told(error, capsys) == (2, ["error: cannot write the output: No space left on device; make room"])
